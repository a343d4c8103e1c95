"""The quicker ways to a page of a search, where there is one: by how many resources match.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

A value that few resources have leads to them, and they are put in order. A value that many have is
looked for in what has the order already, from its beginning: the page is full long before the end.
A database without statistics cannot tell the one from the other, and SQLite has none of a value.
Measured with 100,000 messages in a mailbox: 10,000 of a sender 30 ms, and 1.6 this way; 500 of a
thread 6 ms, and 2; a sender of none 16 ms, and 0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from fhir_bridge.tables import fhir_resource

__all__ = ["MEASURED", "Bounds", "Lookup", "Order", "Wanted", "quick_rows"]

Rows: TypeAlias = Sequence[sa.Row[Any]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewer than `narrow` are put in order; more are looked for among the first `window`."""

    narrow: int
    window: int


OWNERS: Final = 8  # so many are looked through one by one
MEASURED: Final = Bounds(narrow=2000, window=3000)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A condition that an index of values answers: `matches` is on `index`, an alias of it.

    `others` are the search's other conditions, which hold of `fhir_resource`.
    """

    index: sa.FromClause
    matches: sa.ColumnElement[bool]
    others: tuple[sa.ColumnElement[bool], ...]


@dataclass(frozen=True, slots=True)
class Order:
    """The keys of the order, each with whether it is descending; the last is the id.

    `indexed`: an index has the resources of one owner in the order of the first. `start` is its
    value where the page begins.
    """

    keys: Sequence[tuple[sa.Label[Any], bool]]
    indexed: bool
    start: str | int | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose resources of which type, after which one, and how many."""

    kind: str
    owners: Sequence[str]
    after: tuple[sa.ColumnElement[bool], ...]
    limit: int


def quick_rows(
    connection: sa.Connection,
    lookups: Sequence[Lookup],
    order: Order,
    wanted: Wanted,
    bounds: Bounds,
) -> Rows | None:
    """Return the page's rows, each with its keys; None where the usual way is as quick."""
    for lookup in lookups:
        ids = sa.select(lookup.index.c.resource_id).where(
            lookup.index.c.type == wanted.kind, lookup.matches
        )
        few = ids.with_only_columns(sa.literal(1)).limit(bounds.narrow).subquery()
        count = connection.execute(sa.select(sa.func.count()).select_from(few)).scalar_one()
        if count < bounds.narrow:
            return _of_few(connection, ids, lookup, order, wanted)
    alike = len(wanted.owners) == 1 or (len(order.keys) == 2 and len(wanted.owners) <= OWNERS)
    if not lookups or not order.indexed or not alike:
        return None
    parts = []
    for owner in wanted.owners:
        part = _from_the_start(connection, lookups[0], order, wanted, owner, bounds.window)
        if part is None:
            return None
        parts.append(part)
    return parts[0] if len(parts) == 1 else _merged(parts, order, wanted.limit)


def _of_few(
    connection: sa.Connection, ids: sa.Select[Any], lookup: Lookup, order: Order, wanted: Wanted
) -> Rows:
    """Go from the matches to the resources; only those of the page are read whole."""
    few = ids.distinct().subquery()
    names = [*(f"key{n}" for n in range(len(order.keys) - 1)), "id"]
    columns = [*(key for key, _ in order.keys[:-1]), fhir_resource.c.id]
    page = (
        sa.select(*columns)
        .select_from(few.join(fhir_resource, fhir_resource.c.id == few.c.resource_id))
        .where(*lookup.others, *wanted.after)
        .order_by(*_by([key.element for key, _ in order.keys], order))
        .limit(wanted.limit)
        .subquery()
    )
    whole = (
        sa.select(fhir_resource, *(page.c[name] for name in names[:-1]))
        .join(page, page.c.id == fhir_resource.c.id)
        .order_by(*_by([page.c[name] for name in names], order))
    )
    return connection.execute(whole).all()


def _from_the_start(
    connection: sa.Connection,
    lookup: Lookup,
    order: Order,
    wanted: Wanted,
    owner: str,
    window: int,
) -> Rows | None:
    """Look for matches in order, among the first `window`; None where they do not fill the page."""
    first, descending = order.keys[0]
    key = first.element
    of_owner = [fhir_resource.c.type == wanted.kind, fhir_resource.c.owner == owner]
    if order.start is not None:
        of_owner.append(key <= order.start if descending else key >= order.start)
    last = sa.select(key).where(*of_owner).order_by(*_by([key], order)).offset(window).limit(1)
    bound = connection.execute(last).scalar()
    near = [] if bound is None else [key >= bound if descending else key <= bound]
    has = (
        sa.select(sa.literal(1))
        .where(lookup.index.c.resource_id == fhir_resource.c.id, lookup.matches)
        .correlate(fhir_resource)
        .exists()
    )
    found = (
        sa.select(fhir_resource, *(label for label, _ in order.keys[:-1]))
        .where(*of_owner, *near, has, *lookup.others, *wanted.after)
        .order_by(*_by([label.element for label, _ in order.keys], order))
        .limit(wanted.limit)
    )
    rows = connection.execute(found).all()
    return rows if bound is None or len(rows) == wanted.limit else None


def _merged(parts: Sequence[Rows], order: Order, limit: int) -> Rows:
    """Return the first rows of several owners, each in the order of one number and the id."""
    rows = [row for part in parts for row in part]
    (_, first_descends), (_, id_descends) = order.keys
    rows.sort(key=attrgetter("id"), reverse=id_descends)
    rows.sort(key=attrgetter("key0"), reverse=first_descends)
    return rows[:limit]


def _by(columns: Sequence[sa.ColumnElement[Any]], order: Order) -> list[sa.ColumnElement[Any]]:
    return [
        column.desc() if descending else column.asc()
        for column, (_, descending) in zip(columns, order.keys, strict=False)
    ]
