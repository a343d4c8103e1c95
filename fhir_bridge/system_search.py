"""A search of several resource types at once: `GET [base]?_type=Patient,Practitioner&name=…`.

Store functions: plain synchronous SQL on the caller's connection; they never commit. Each type is
asked for its own page, in one order; the page of all is the first of these together.

Standards:
    FHIR    R4 http.html 3.1.0.11 (search, whole system), search.html 3.1.1.3 (`_type`)
    fhir.md section 2 row 15
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from fhir_bridge.clients import Client
from fhir_bridge.criteria import bad_search, shown
from fhir_bridge.definitions import TYPES
from fhir_bridge.finding import Page, find
from fhir_bridge.registry import ResourceType
from fhir_bridge.search import COUNT_MAX, Query, cursor_of, parse_query
from fhir_bridge.store import Stored

__all__ = ["TYPE", "find_in_types", "parse_types", "searched_types", "together", "types_of"]

TYPE: Final = "_type"
# Their rows lie elsewhere: the gateway's audit trail, and octets.
_APART: Final = frozenset({"AuditEvent", "Binary"})


def types_of(pairs: Iterable[tuple[str, str]], client: Client) -> tuple[ResourceType, ...]:
    """Return the types that `_type` names; without it, every type that `client` may search.

    Those that are a client's own may hold secrets, and are shown to who names them.

    Raises:
        FhirError: RESOURCE_INVALID; a type that is not searched here.
    """
    given = [value for name, value in pairs if name == TYPE]
    if not given:
        return tuple(
            kind
            for kind in searched_types()
            if client.scopes.allow(kind.name, "s") and not kind.of_client
        )
    # FHIR: a comma is "or"; given twice, it is "and".
    wanted = set.intersection(*(set(filter(None, value.split(","))) for value in given))
    known = {kind.name for kind in searched_types()}
    for name in sorted(set[str]().union(*(value.split(",") for value in given)) - {""}):
        if name not in known:
            raise bad_search("not-supported", f"{shown(name)} is not searched by _type.")
    return tuple(kind for kind in searched_types() if kind.name in wanted)


def searched_types() -> list[ResourceType]:
    """Return the types that are searched together."""
    return [
        kind
        for kind in TYPES.values()
        if "search-type" in kind.interactions and kind.name not in _APART
    ]


def parse_types(
    kinds: Sequence[ResourceType], pairs: Sequence[tuple[str, str]], *, strict: bool = False
) -> tuple[Query, ...]:
    """Return the search of each of `kinds`.

    What one of them does not know is passed over for all (search.html 3.1.1.3: parameters of a
    search over several types are common to them), or refused with `strict`.

    Raises:
        FhirError: RESOURCE_INVALID; as `parse_query` does, or an order that they do not share.
    """
    asked = [pair for pair in pairs if pair[0] != TYPE]
    queries = [parse_query(kind, asked, strict=strict) for kind in kinds]
    common = set(asked).intersection(*(query.used for query in queries))
    kept = [pair for pair in asked if pair in common or pair[0] == "_cursor"]
    if len(kept) < len(asked):
        queries = [parse_query(kind, kept) for kind in kinds]
    for query in queries:
        if len(query.sort) > 1 or any(s.parameter.name != "_lastUpdated" for s in query.sort):
            raise bad_search("not-supported", "Several types are sorted by _lastUpdated only.")
    # Every type is asked for a page: together they are no more than the greatest page of one.
    most = max(1, COUNT_MAX // len(kinds))
    return tuple(replace(query, count=min(query.count, most)) for query in queries)


def find_in_types(
    connection: sa.Connection, queries: Sequence[Query], owners: Collection[str], now: datetime
) -> Page:
    """Return the page of all `queries` together, in the order that they share."""
    if not queries:
        return Page((), None, 0)
    pages = [find(connection, query, owners, now) for query in queries]
    count = queries[0].count
    total = sum(page.total or 0 for page in pages) if queries[0].total else None
    newest_first = not queries[0].sort or queries[0].sort[0].descending
    found = sorted((row for page in pages for row in page.rows), key=_key, reverse=newest_first)
    rows = tuple(found[:count])
    more = len(found) > count or any(page.following is not None for page in pages)
    following = cursor_of([_key(rows[-1])[0], rows[-1].id.hex]) if rows and more else None
    return Page(rows, following, total)


def together(queries: Sequence[Query], kinds: Sequence[ResourceType]) -> Query:
    """Return what the answer shows of `queries`: what was understood, `_type` first."""
    named = (TYPE, ",".join(kind.name for kind in kinds))
    return replace(queries[0], used=(named, *queries[0].used))


def _key(stored: Stored) -> tuple[int, int]:
    # As `finding` sorts: microseconds, then the id.
    return round(stored.last_updated.timestamp() * 1_000_000), stored.id.int
