"""Trust anchors in the database: who trusts which CA by itself, and for which direction.

Talks to the database, inside the caller's transaction. Bundles are `trust_bundles.bundles`; what
an address trusts in all is `trust_bundles.sets`.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, section 4.2.3
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.issuers import sha256_of
from trust_bundles.owners import owner_of
from trust_bundles.policy import ALWAYS, Direction, Period
from trust_bundles.tables import anchor, bundle_use, certificate_policy

__all__ = [
    "StoredAnchor",
    "add_anchor",
    "change_anchor",
    "forget_owner",
    "list_anchors",
    "remove_anchor",
]


@dataclass(frozen=True, slots=True)
class StoredAnchor:
    """One anchor of one owner. `owner` is a health domain or an address key."""

    sha256: str
    certificate: x509.Certificate
    owner: str
    directions: frozenset[Direction]
    added_at: datetime
    enabled: bool = True
    period: Period = ALWAYS


def add_anchor(
    connection: sa.Connection,
    *,
    certificate: x509.Certificate,
    domain_or_address: str,
    directions: Collection[Direction],
    now: datetime,
    period: Period = ALWAYS,
) -> str:
    """Trust `certificate` for a domain or one address; return its SHA-256 in hexadecimal.

    An anchor the owner has already takes the new directions and period, and is enabled.

    Raises:
        DirectError: ADDRESS_MALFORMED; CONFIGURATION_INVALID where no direction is given.
    """
    _directed(directions)
    owner, sha256 = owner_of(domain_or_address), sha256_of(certificate).hex()
    values = {**_ways(directions), **_bounds(period), "enabled": True}
    here = (anchor.c.owner == owner) & (anchor.c.sha256 == sha256)
    if connection.execute(sa.update(anchor).where(here).values(**values)).rowcount == 0:
        connection.execute(
            sa.insert(anchor).values(
                id=new_id(now),
                sha256=sha256,
                certificate=certificate.public_bytes(Encoding.DER),
                subject=certificate.subject.rfc4514_string(),
                owner=owner,
                added_at=now,
                **values,
            )
        )
    return sha256


def change_anchor(
    connection: sa.Connection,
    sha256: str,
    domain_or_address: str | None = None,
    *,
    enabled: bool | None = None,
    directions: Collection[Direction] | None = None,
    period: Period | None = None,
) -> int:
    """Change what is given, everywhere or for one owner; return how many rows it was.

    Raises:
        DirectError: CONFIGURATION_INVALID where `directions` is empty; RESOURCE_NOT_FOUND.
    """
    values: dict[str, object] = {} if enabled is None else {"enabled": enabled}
    if directions is not None:
        _directed(directions)
        values |= _ways(directions)
    if period is not None:
        values |= _bounds(period)
    if not values:
        raise DirectError(Reason.CONFIGURATION_INVALID, "nothing to change")
    query = sa.update(anchor).where(_these(sha256, domain_or_address)).values(**values)
    return _some(connection.execute(query).rowcount, sha256)


def list_anchors(
    connection: sa.Connection, domain_or_address: str | None = None
) -> Sequence[StoredAnchor]:
    """Return all anchors, or those that one domain or address itself has."""
    query = sa.select(anchor).order_by(anchor.c.owner, anchor.c.subject, anchor.c.sha256)
    if domain_or_address is not None:
        query = query.where(anchor.c.owner == owner_of(domain_or_address))
    return [_stored(row) for row in connection.execute(query)]


def remove_anchor(
    connection: sa.Connection, sha256: str, domain_or_address: str | None = None
) -> int:
    """Trust it no more, anywhere or for one owner; return how many owners lost it."""
    query = sa.delete(anchor).where(_these(sha256, domain_or_address))
    return connection.execute(query).rowcount


def forget_owner(connection: sa.Connection, domain_or_address: str) -> int:
    """Drop the anchors, uses of bundles and policy of an owner; return how many there were.

    A domain's addresses are owners of their own: forget each.
    """
    owner = owner_of(domain_or_address)
    columns: Final = (anchor.c.owner, bundle_use.c.owner, certificate_policy.c.domain)
    return sum(
        connection.execute(sa.delete(column.table).where(column == owner)).rowcount
        for column in columns
    )


def _these(sha256: str, domain_or_address: str | None) -> sa.ColumnElement[bool]:
    these = anchor.c.sha256 == sha256.lower().replace(":", "")
    if domain_or_address is not None:
        these &= anchor.c.owner == owner_of(domain_or_address)
    return these


def _some(count: int, sha256: str) -> int:
    if not count:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no anchor {sha256}")
    return count


def _directed(directions: Collection[Direction]) -> None:
    if not directions:
        raise DirectError(Reason.CONFIGURATION_INVALID, "an anchor needs a direction")


def _ways(directions: Collection[Direction]) -> dict[str, object]:
    return {way.value: way in directions for way in Direction}


def _bounds(period: Period) -> dict[str, object]:
    return {"trusted_from": period.begins, "trusted_until": period.ends}


def _stored(row: sa.Row[tuple[object, ...]]) -> StoredAnchor:
    columns = row._mapping
    return StoredAnchor(
        sha256=columns[anchor.c.sha256],
        certificate=x509.load_der_x509_certificate(columns[anchor.c.certificate]),
        owner=columns[anchor.c.owner],
        directions=frozenset(way for way in Direction if columns[anchor.c[way.value]]),
        added_at=columns[anchor.c.added_at],
        enabled=columns[anchor.c.enabled],
        period=Period(columns[anchor.c.trusted_from], columns[anchor.c.trusted_until]),
    )
