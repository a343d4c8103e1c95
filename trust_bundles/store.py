"""Trust anchors in the database: who trusts which CA, and for which direction.

Talks to the database, inside the caller's transaction.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, section 4.2.3
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import DirectAddress, parse_address, parse_domain
from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.issuers import sha256_of
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Direction
from trust_bundles.tables import anchor

__all__ = [
    "AnchorSets",
    "StoredAnchor",
    "add_anchor",
    "anchors_for",
    "list_anchors",
    "remove_anchor",
]


SETS: Final = 256  # kept


@dataclass(frozen=True, slots=True)
class StoredAnchor:
    """One anchor of one owner. `owner` is a health domain or an address key."""

    sha256: str
    certificate: x509.Certificate
    owner: str
    directions: frozenset[Direction]
    added_at: datetime


def add_anchor(
    connection: sa.Connection,
    *,
    certificate: x509.Certificate,
    domain_or_address: str,
    directions: Collection[Direction],
    now: datetime,
) -> str:
    """Trust `certificate` for a domain or one address; return its SHA-256 in hexadecimal.

    An anchor the owner has already takes the new directions.

    Raises:
        DirectError: ADDRESS_MALFORMED; CONFIGURATION_INVALID where no direction is given.
    """
    if not directions:
        raise DirectError(Reason.CONFIGURATION_INVALID, "an anchor needs a direction")
    owner, sha256 = _owner(domain_or_address), sha256_of(certificate).hex()
    ways = {way.value: way in directions for way in Direction}
    here = (anchor.c.owner == owner) & (anchor.c.sha256 == sha256)
    if connection.execute(sa.update(anchor).where(here).values(**ways)).rowcount == 0:
        connection.execute(
            sa.insert(anchor).values(
                id=new_id(now),
                sha256=sha256,
                certificate=certificate.public_bytes(Encoding.DER),
                subject=certificate.subject.rfc4514_string(),
                owner=owner,
                added_at=now,
                **ways,
            )
        )
    return sha256


def list_anchors(
    connection: sa.Connection, domain_or_address: str | None = None
) -> Sequence[StoredAnchor]:
    """Return all anchors, or those that one domain or address itself has."""
    query = sa.select(anchor).order_by(anchor.c.owner, anchor.c.subject, anchor.c.sha256)
    if domain_or_address is not None:
        query = query.where(anchor.c.owner == _owner(domain_or_address))
    return [_stored(row) for row in connection.execute(query)]


def remove_anchor(
    connection: sa.Connection, sha256: str, domain_or_address: str | None = None
) -> int:
    """Trust it no more, anywhere or for one owner; return how many owners lost it."""
    query = sa.delete(anchor).where(anchor.c.sha256 == sha256.lower().replace(":", ""))
    if domain_or_address is not None:
        query = query.where(anchor.c.owner == _owner(domain_or_address))
    return connection.execute(query).rowcount


class AnchorSets:
    """The sets of anchors in use, each made once: making one costs more than a decision.

    A set is a function of the rows, so a changed row gives another set at the next message.
    """

    def __init__(self) -> None:
        self._sets: dict[tuple[str, ...], Anchors] = {}
        self._merged: dict[frozenset[bytes], Anchors] = {}

    def anchors_for(
        self, connection: sa.Connection, address: DirectAddress, direction: Direction
    ) -> Anchors:
        """Return what `address` trusts in one direction: its own and its domain's (AS-080)."""
        names = tuple(connection.execute(_trusted(anchor.c.sha256, address, direction)).scalars())
        if names not in self._sets:
            _bound(self._sets)
            self._sets[names] = anchors_for(connection, address, direction)
        return self._sets[names]

    def merged(self, sets: Iterable[Anchors]) -> Anchors:
        """Return all anchors of several sets as one."""
        by_digest = {one.digest: one for one in sets}
        if len(by_digest) == 1:
            return next(iter(by_digest.values()))
        key = frozenset(by_digest)
        if key not in self._merged:
            _bound(self._merged)
            self._merged[key] = Anchors(cert for one in by_digest.values() for cert in one)
        return self._merged[key]


def anchors_for(connection: sa.Connection, address: DirectAddress, direction: Direction) -> Anchors:
    """Return what `address` trusts in one direction, made anew from the database."""
    rows = connection.execute(_trusted(anchor.c.certificate, address, direction)).scalars()
    return Anchors(x509.load_der_x509_certificate(der) for der in rows)


def _trusted(
    column: sa.Column[Any], address: DirectAddress, direction: Direction
) -> sa.Select[Any]:
    return (
        sa.select(column)
        .where(anchor.c.owner.in_((address.key, address.domain)))
        .where(anchor.c[direction.value])
        .order_by(anchor.c.sha256)
    )


def _bound(sets: dict[Any, Anchors]) -> None:
    if len(sets) >= SETS:
        del sets[next(iter(sets))]


def _owner(domain_or_address: str) -> str:
    if "@" in domain_or_address:
        return parse_address(domain_or_address).key
    return parse_domain(domain_or_address)


def _stored(row: sa.Row[tuple[object, ...]]) -> StoredAnchor:
    columns = row._mapping
    return StoredAnchor(
        sha256=columns[anchor.c.sha256],
        certificate=x509.load_der_x509_certificate(columns[anchor.c.certificate]),
        owner=columns[anchor.c.owner],
        directions=frozenset(way for way in Direction if columns[anchor.c[way.value]]),
        added_at=columns[anchor.c.added_at],
    )
