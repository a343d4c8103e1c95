"""Run a search: a `Query` as SQL, one page of it, and where the next page starts.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    FHIR    R4 search.html 3.1.1.4.6 (date prefixes), 3.1.1.4 (:missing, :not), http.html paging
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from certs.errors import Reason
from fhir_bridge.criteria import Criterion, DateRange, Token
from fhir_bridge.definitions import TYPES
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import COMMON, Kind
from fhir_bridge.search import (
    Chain,
    Condition,
    Either,
    Has,
    Query,
    Sort,
    cursor_of,
)
from fhir_bridge.shortcuts import MEASURED, Bounds, Lookup, Order, Wanted, quick_rows
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.tables import NEVER, fhir_index, fhir_resource

__all__ = ["Page", "find"]

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_LAST_UPDATED: Final = COMMON[1]
_INDEXED: Final = ("_lastUpdated", "sent")  # the resources of an owner are indexed in this order
BRANCHES_MAX: Final = 50  # SQLite takes 500 selects in one


@dataclass(frozen=True, slots=True)
class Page:
    """One page; `following` is the cursor of the next, `total` is None where not counted."""

    rows: tuple[Stored, ...]
    following: str | None
    total: int | None


@dataclass(frozen=True, slots=True)
class _Scope:
    """Whose resources are seen, and when."""

    owners: Collection[str]
    now: datetime


def find(
    connection: sa.Connection,
    query: Query,
    owners: Collection[str],
    now: datetime,
    bounds: Bounds = MEASURED,
) -> Page:
    """Return the page of `query` among the resources of `owners`.

    `bounds` decide by which way it is found; the page is the same by each.
    """
    scope = _Scope(owners, now)
    total = None
    if query.total:
        where = _where(query, scope)
        counted = sa.select(sa.func.count()).select_from(fhir_resource).where(*where)
        total = connection.execute(counted).scalar_one()
    if query.summary_count or query.count == 0:
        return Page((), None, total)
    # Newest first unless told otherwise; the id makes every order total and the cursor exact.
    order = query.sort or (Sort(_LAST_UPDATED, descending=True),)
    keys = [(_key(sort).label(f"key{n}"), sort.descending) for n, sort in enumerate(order)]
    keys.append((fhir_resource.c.id.label("last"), order[0].descending))
    after = [_after(keys, query.cursor)] if query.cursor is not None else []
    rows = _quick_rows(connection, query, keys, after, scope, bounds)
    if rows is None:
        columns = (key for key, _ in keys[:-1])
        statement = sa.select(fhir_resource, *columns).where(*_where(query, scope), *after)
        mine = query.kind.owners_among(owners)
        rows = connection.execute(_ordered(statement, keys, mine, query.count + 1)).all()
    following = None
    if len(rows) > query.count:
        rows = rows[: query.count]
        following = cursor_of([*_key_values(rows[-1], len(keys) - 1), rows[-1].id.hex])
    return Page(tuple(stored_of(row) for row in rows), following, total)


def _where(query: Query, scope: _Scope) -> list[sa.ColumnElement[bool]]:
    kind = query.kind.name
    return [
        *_visible(fhir_resource, kind, scope),
        *(_condition(condition, kind, fhir_resource, scope) for condition in query.criteria),
    ]


def _quick_rows(
    connection: sa.Connection,
    query: Query,
    keys: Sequence[tuple[sa.Label[Any], bool]],
    after: Sequence[sa.ColumnElement[bool]],
    scope: _Scope,
    bounds: Bounds,
) -> Sequence[sa.Row[Any]] | None:
    kind = query.kind.name
    lookups = []
    for number, condition in enumerate(query.criteria):
        if isinstance(condition, Criterion) and _is_lookup(condition):
            index = fhir_index.alias()
            others = [*query.criteria[:number], *query.criteria[number + 1 :]]
            conditions = (_condition(other, kind, fhir_resource, scope) for other in others)
            where = (*_visible(fhir_resource, kind, scope), *conditions)
            lookups.append(Lookup(index, _named(condition, index, scope), where))
    if not lookups:
        return None
    sort = query.sort[0].parameter.name if query.sort else _LAST_UPDATED.name
    start = query.cursor[0] if query.cursor is not None else None
    order = Order(keys, sort in _INDEXED, start)
    owners = query.kind.owners_among(scope.owners)
    wanted = Wanted(kind, owners, tuple(after), query.count + 1)
    return quick_rows(connection, lookups, order, wanted, bounds)


def _ordered(
    statement: sa.Select[Any],
    keys: Sequence[tuple[sa.Label[Any], bool]],
    owners: list[str],
    limit: int,
) -> sa.Select[Any]:
    """Return `statement` in order, and no more than `limit` rows of it.

    Of several owners each gives its first rows, which an index has in order, and the first of
    these are taken: in one look the database would sort everything that they have.
    """
    inner = [key.element.desc() if descending else key.element.asc() for key, descending in keys]
    first = statement.order_by(*inner).limit(limit)
    if not 1 < len(owners) <= BRANCHES_MAX:
        return first
    branches = [first.where(fhir_resource.c.owner == owner).subquery() for owner in owners]
    every = sa.union_all(*(sa.select(branch) for branch in branches)).subquery()
    names = [*(f"key{n}" for n in range(len(keys) - 1)), "id"]
    columns = zip((every.c[name] for name in names), (down for _, down in keys), strict=True)
    outer = [column.desc() if descending else column.asc() for column, descending in columns]
    return sa.select(every).order_by(*outer).limit(limit)


def _key_values(row: sa.Row[Any], count: int) -> list[str | int]:
    return [getattr(row, f"key{n}") for n in range(count)]


def _key(sort: Sort) -> sa.ColumnElement[Any]:
    if sort.parameter.name == "_lastUpdated":
        return sa.type_coerce(fhir_resource.c.last_updated, sa.BigInteger)
    if sort.parameter.name == "sent":
        return fhir_resource.c.sent
    if sort.parameter.name == "_id":
        return sa.cast(fhir_resource.c.id, sa.String)
    dated = sort.parameter.kind is Kind.DATE
    # FHIR: ascending goes by the earliest value of a resource, descending by the latest.
    column = sa.type_coerce(fhir_index.c.low, sa.BigInteger) if dated else fhir_index.c.value
    chosen = sa.func.max(column) if sort.descending else sa.func.min(column)
    found = (
        sa.select(chosen)
        .where(
            fhir_index.c.resource_id == fhir_resource.c.id,
            fhir_index.c.name == sort.parameter.name,
        )
        .scalar_subquery()
    )
    # FHIR does not say where a resource without a value goes: we take it as the earliest.
    missing: str | int = NEVER if dated else ""
    return sa.func.coalesce(found, missing)


def _after(
    keys: list[tuple[sa.Label[Any], bool]], cursor: tuple[str | int, ...]
) -> sa.ColumnElement[bool]:
    """Return the condition that a row sorts after the one the cursor names."""
    try:
        values: list[Any] = [*cursor[:-1], UUID(hex=str(cursor[-1]))]
    except ValueError:
        values = []
    if len(values) != len(keys):
        raise FhirError(
            Reason.RESOURCE_INVALID, [Issue("value", "The cursor is not of this search.")]
        )
    alternatives = []
    for position, (key, descending) in enumerate(keys):
        ties = [k.element == v for (k, _), v in zip(keys[:position], values, strict=False)]
        column, value = key.element, values[position]
        alternatives.append(sa.and_(*ties, column < value if descending else column > value))
    return sa.or_(*alternatives)


def _condition(
    condition: Condition, kind: str, resource: sa.FromClause, scope: _Scope
) -> sa.ColumnElement[bool]:
    """Return the condition on `resource`, which is the table of resources or an alias of it."""
    if isinstance(condition, Chain):
        return _chain(condition, kind, resource, scope)
    if isinstance(condition, Has):
        return _has(condition, resource, scope)
    if isinstance(condition, Either):
        return sa.or_(*(_criterion(c, kind, resource, scope) for c in condition.criteria))
    return _criterion(condition, kind, resource, scope)


def _chain(
    chain: Chain, kind: str, resource: sa.FromClause, scope: _Scope
) -> sa.ColumnElement[bool]:
    index, target = fhir_index.alias(), fhir_resource.alias()
    referring = (
        sa.select(index.c.resource_id)
        .join(target, target.c.id == index.c.target)
        .where(
            index.c.type == kind,
            index.c.name == chain.parameter.name,
            index.c.target.is_not(None),
            *_visible(target, chain.kind.name, scope),
            _condition(chain.inner, chain.kind.name, target, scope),
        )
    )
    return resource.c.id.in_(referring)


def _has(has: Has, resource: sa.FromClause, scope: _Scope) -> sa.ColumnElement[bool]:
    index, source = fhir_index.alias(), fhir_resource.alias()
    referred = (
        sa.select(index.c.target)
        .join(source, source.c.id == index.c.resource_id)
        .where(
            index.c.type == has.kind.name,
            index.c.name == has.parameter.name,
            index.c.target.is_not(None),
            *_visible(source, has.kind.name, scope),
            _condition(has.inner, has.kind.name, source, scope),
        )
    )
    return resource.c.id.in_(referred)


def _visible(
    resource: sa.FromClause, kind: str, scope: _Scope
) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        resource.c.type == kind,
        resource.c.owner.in_(TYPES[kind].owners_among(scope.owners)),
        resource.c.deleted.is_(False),
    )


def _criterion(
    criterion: Criterion, kind: str, resource: sa.FromClause, scope: _Scope
) -> sa.ColumnElement[bool]:
    parameter = criterion.parameter
    if parameter.name == "_id":
        return _by_id(criterion, resource)
    if parameter.name == "_lastUpdated":
        moment = resource.c.last_updated
        return sa.or_(*(_compare(v, moment, moment, scope.now) for v in _ranges(criterion)))
    index = fhir_index.alias()
    if criterion.modifier == "missing":
        # An actor known by its identifier only is not missing.
        names = (parameter.name, f"{parameter.name}:identifier")
        found = _exists(index, resource, index.c.name.in_(names))
        return ~found if criterion.values == ("true",) else found
    matches = _named(criterion, index, scope)
    if criterion.modifier == "not":
        return ~_exists(index, resource, matches)
    if not parameter.selective:
        return _exists(index, resource, matches)
    ids = sa.select(index.c.resource_id).where(index.c.type == kind, matches)
    return resource.c.id.in_(ids)


def _is_lookup(criterion: Criterion) -> bool:
    """Say whether the index of values leads to what matches."""
    special = criterion.parameter.name in ("_id", "_lastUpdated")
    return (
        criterion.parameter.selective
        and not special
        and criterion.modifier not in ("missing", "not")
    )


def _named(criterion: Criterion, index: sa.FromClause, scope: _Scope) -> sa.ColumnElement[bool]:
    name = criterion.parameter.name
    if criterion.modifier in ("identifier", "text", "exact"):
        name = f"{name}:{criterion.modifier}"
    found = index.c.low if criterion.parameter.kind is Kind.DATE else index.c.value
    matches = sa.or_(*_matches(criterion, index, scope.now))
    return sa.and_(index.c.name == name, found.is_not(None), matches)


def _matches(
    criterion: Criterion, index: sa.FromClause, now: datetime
) -> list[sa.ColumnElement[bool]]:
    if criterion.parameter.kind is Kind.DATE:
        low, high = index.c.low, index.c.high
        return [_compare(value, low, high, now) for value in _ranges(criterion)]
    found: list[sa.ColumnElement[bool]] = []
    for value in criterion.values:
        if isinstance(value, Token):
            found.append(_token(value, index))
        elif criterion.modifier in ("contains", "text"):
            found.append(index.c.value.contains(value, autoescape=True))
        elif criterion.parameter.kind is Kind.STRING and criterion.modifier is None:
            found.append(index.c.value.startswith(value, autoescape=True))
        else:
            found.append(index.c.value == value)
    return found


def _token(token: Token, index: sa.FromClause) -> sa.ColumnElement[bool]:
    parts: list[sa.ColumnElement[bool]] = []
    if token.code is not None:
        parts.append(index.c.value == token.code)
    if token.system == "":
        parts.append(index.c.system.is_(None))
    elif token.system is not None:
        parts.append(index.c.system == token.system)
    return sa.and_(sa.true(), *parts)


def _by_id(criterion: Criterion, resource: sa.FromClause) -> sa.ColumnElement[bool]:
    ids = []
    for value in criterion.values:
        try:
            ids.append(UUID(value.code or "" if isinstance(value, Token) else str(value)))
        except ValueError:
            continue
    found = resource.c.id.in_(ids)
    return ~found if criterion.modifier == "not" else found


def _ranges(criterion: Criterion) -> list[DateRange]:
    return [value for value in criterion.values if isinstance(value, DateRange)]


def _compare(
    asked: DateRange, low: sa.ColumnElement[Any], high: sa.ColumnElement[Any], now: datetime
) -> sa.ColumnElement[bool]:
    """Compare the interval [low, high) of a resource with the one asked for (3.1.1.4.6)."""
    within = sa.and_(low >= asked.low, high <= asked.high)
    match asked.prefix:
        case "ne":
            return ~within
        case "gt":
            return high > asked.high
        case "lt":
            return low < asked.low
        case "ge":
            return sa.or_(high > asked.high, within)
        case "le":
            return sa.or_(low < asked.low, within)
        case "sa":
            return low >= asked.high
        case "eb":
            return high <= asked.low
        case "ap":
            # FHIR suggests a tenth of the distance from now.
            margin = abs(now - asked.low) / 10
            first = asked.low - min(margin, asked.low - _EARLIEST)
            last = asked.high + min(margin, _LATEST - asked.high)
            return sa.and_(low < last, high > first)
        case _:
            return within


def _exists(
    index: sa.FromClause, resource: sa.FromClause, condition: sa.ColumnElement[bool]
) -> sa.ColumnElement[bool]:
    return (
        sa.select(sa.literal(1))
        .where(index.c.resource_id == resource.c.id, condition)
        .correlate(resource)
        .exists()
    )
