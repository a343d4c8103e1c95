"""What an address trusts in all: its own anchors, its domain's, and those of their bundles.

Talks to the database, inside the caller's transaction. Asked at every message, so that a change
is in force at the next one: a question costs one small query, and a set is made once.

Standards:
    AS   Applicability Statement for Secure Health Transport v1.3, section 4.2.3 (AS-080)
    TB-008, TB-010 of our catalogue
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from cryptography import x509

from certs.address import DirectAddress
from certs.issuers import sha256_of
from certs.tables import UtcDateTime
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Direction
from trust_bundles.tables import anchor, bundle, bundle_anchor, bundle_use

__all__ = ["AnchorSet", "AnchorSets", "anchors_for", "sources_of"]

SETS: Final = 256  # kept


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """Whom an address trusts, and by which bundles.

    `bundles` has, by the SHA-256 of an anchor, the URL of the bundle that it comes by, or its name
    where it has none; of several bundles the first by name.
    """

    anchors: Anchors
    bundles: Mapping[str, str]

    def bundle_of(self, certificate: x509.Certificate) -> str | None:
        """Return by which bundle the anchor is trusted; None: by no bundle."""
        return self.bundles.get(sha256_of(certificate).hex()) if self.bundles else None


class AnchorSets:
    """The sets of anchors in use, each made once: making one costs more than a decision.

    A set is a function of the rows, so a changed row gives another set at the next message.
    """

    def __init__(self) -> None:
        self._sets: dict[tuple[str, ...], AnchorSet] = {}
        self._merged: dict[frozenset[bytes], Anchors] = {}

    def anchors_for(
        self,
        connection: sa.Connection,
        address: DirectAddress,
        direction: Direction,
        now: datetime,
    ) -> Anchors:
        """Return what `address` trusts in one direction at `now` (AS-080)."""
        return self.set_for(connection, address, direction, now).anchors

    def set_for(
        self,
        connection: sa.Connection,
        address: DirectAddress,
        direction: Direction,
        now: datetime,
    ) -> AnchorSet:
        """Return what `address` trusts in one direction at `now`, and by which bundles."""
        rows = connection.execute(_names(direction), _values(address, now))
        names = tuple(sorted(rows.scalars()))
        if names not in self._sets:
            _bound(self._sets)
            anchors = anchors_for(connection, address, direction, now)
            self._sets[names] = AnchorSet(anchors, _bundles(connection, address, direction, now))
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


def anchors_for(
    connection: sa.Connection, address: DirectAddress, direction: Direction, now: datetime
) -> Anchors:
    """Return what `address` trusts in one direction at `now`, made anew from the database."""
    single = _single(anchor.c.certificate, direction)
    bundled = _bundled(bundle_anchor.c.certificate, direction).join(
        bundle_anchor, bundle_anchor.c.bundle == bundle.c.name
    )
    # The administrator's own come first: path building tries anchors of one name in this order.
    values = _values(address, now)
    own = connection.execute(single.order_by(anchor.c.sha256), values)
    others = connection.execute(bundled.order_by(bundle_anchor.c.sha256), values)
    found = dict.fromkeys([*own.scalars(), *others.scalars()])
    return Anchors(x509.load_der_x509_certificate(der) for der in found)


def sources_of(
    connection: sa.Connection,
    sha256: str,
    address: DirectAddress,
    direction: Direction,
    now: datetime,
) -> Sequence[tuple[str, str | None]]:
    """Return by whom and by which bundle (None: by itself) `address` has this anchor."""
    values = _values(address, now)
    single = _single(anchor.c.owner, direction).where(anchor.c.sha256 == sha256)
    bundled = (
        sa.select(bundle_use.c.owner, bundle_use.c.bundle)
        .join(bundle, bundle.c.name == bundle_use.c.bundle)
        .join(bundle_anchor, bundle_anchor.c.bundle == bundle.c.name)
        .where(_attached(direction), bundle_anchor.c.sha256 == sha256)
        .order_by(bundle_use.c.bundle)
    )
    own = connection.execute(single, values).scalars()
    owners: list[tuple[str, str | None]] = [(owner, None) for owner in own]
    return [*owners, *((row.owner, row.bundle) for row in connection.execute(bundled, values))]


def _bundles(
    connection: sa.Connection, address: DirectAddress, direction: Direction, now: datetime
) -> dict[str, str]:
    held = (
        sa.select(bundle_anchor.c.sha256, bundle.c.name, bundle.c.url)
        .select_from(bundle_use)
        .join(bundle, bundle.c.name == bundle_use.c.bundle)
        .join(bundle_anchor, bundle_anchor.c.bundle == bundle.c.name)
        .where(_attached(direction))
        .order_by(bundle.c.name)
    )
    found: dict[str, str] = {}
    for row in connection.execute(held, _values(address, now)):
        found.setdefault(row.sha256, row.url or row.name)
    return found


@cache
def _names(direction: Direction) -> sa.CompoundSelect[Any]:
    """Return the question of every message; to build it anew would cost more than to ask it."""
    single = _single(anchor.c.sha256, direction)
    # All that a set is made of: what is in a bundle, and what it is called.
    held = sa.func.coalesce(bundle.c.digest, "") + " " + sa.func.coalesce(bundle.c.url, "")
    return sa.union_all(single, _bundled(held + " " + bundle.c.name, direction))


def _single(column: sa.Column[Any], direction: Direction) -> sa.Select[Any]:
    begins, ends = anchor.c.trusted_from, anchor.c.trusted_until
    return sa.select(column).where(
        anchor.c.owner.in_(_OWNERS),
        anchor.c[direction.value],
        anchor.c.enabled,
        begins.is_(None) | (begins <= _NOW),
        ends.is_(None) | (ends > _NOW),
    )


def _bundled(column: sa.ColumnElement[Any], direction: Direction) -> sa.Select[Any]:
    return (
        sa.select(column)
        .select_from(bundle_use)
        .join(bundle, bundle.c.name == bundle_use.c.bundle)
        .where(_attached(direction))
    )


def _attached(direction: Direction) -> sa.ColumnElement[bool]:
    return sa.and_(bundle_use.c.owner.in_(_OWNERS), bundle_use.c[direction.value], bundle.c.enabled)


def _values(address: DirectAddress, now: datetime) -> dict[str, object]:
    return {"the_key": address.key, "the_domain": address.domain, "now": now}


def _bound(sets: dict[Any, Any]) -> None:
    if len(sets) >= SETS:
        del sets[next(iter(sets))]


_NOW: Final = sa.bindparam("now", type_=UtcDateTime)
_OWNERS: Final[Sequence[sa.BindParameter[str]]] = (
    sa.bindparam("the_key"),
    sa.bindparam("the_domain"),
)
