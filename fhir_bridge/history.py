"""The history of one resource, of a type, of everything: its versions, newest first.

Store functions and their rendering; plain synchronous SQL on the caller's connection.

Standards:
    FHIR    R4 http.html 3.1.0.16 (history), bundle.html
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
import sqlalchemy as sa

from certs.errors import Reason
from fhir_bridge.criteria import shown
from fhir_bridge.definitions import TYPES
from fhir_bridge.indexing import interval
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.search import cursor_of, read_count, read_cursor
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.tables import fhir_resource, fhir_version
from fhir_bridge.terms import JSON

__all__ = ["HistoryQuery", "history_bundle", "history_page", "parse_history"]


_OF_CLIENT: Final = tuple(kind.name for kind in TYPES.values() if kind.of_client)


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What of a history to show. `identity` None: every resource.

    No `kinds`: of every type but those that are a client's own.
    """

    kinds: tuple[str, ...]
    identity: UUID | None
    since: datetime | None
    count: int
    cursor: tuple[str | int, ...] | None


def parse_history(
    pairs: Sequence[tuple[str, str]], *, kind: str | None, identity: UUID | None
) -> HistoryQuery:
    """Return the query that `_since`, `_count`, `_cursor` and, of everything, `_type` describe.

    Raises:
        FhirError: RESOURCE_INVALID.
    """
    given = dict(pairs)
    if len(given) < len(pairs):  # which of them counts is nothing to be of two minds about
        issue = Issue("value", "Each parameter of a history is given once.")
        raise FhirError(Reason.RESOURCE_INVALID, [issue])
    since = interval(given["_since"].replace(" ", "+")) if "_since" in given else None
    if "_since" in given and since is None:
        raise FhirError(Reason.RESOURCE_INVALID, [Issue("value", "_since is no instant.")])
    named = given.get("_type", "") if kind is None else kind
    kinds = tuple(filter(None, named.split(",")))
    if unknown := [name for name in kinds if name not in TYPES]:
        text = f"{shown(unknown[0])} is not served here."
        raise FhirError(Reason.RESOURCE_INVALID, [Issue("not-supported", text)])
    return HistoryQuery(
        kinds=kinds,
        identity=identity,
        since=since[0] if since else None,
        count=read_count(given["_count"]) if "_count" in given else 50,
        cursor=read_cursor(given["_cursor"]) if "_cursor" in given else None,
    )


def history_page(
    connection: sa.Connection, query: HistoryQuery, owners: Collection[str]
) -> tuple[tuple[Stored, ...], str | None]:
    """Return one page of versions, newest first, and the cursor of the next page."""
    every = sa.union_all(
        *(
            _versions(table, identity, query, owners)
            for table, identity in (
                (fhir_resource, fhir_resource.c.id),
                (fhir_version, fhir_version.c.resource_id),
            )
        )
    ).subquery()
    moment = sa.type_coerce(every.c.last_updated, sa.BigInteger)
    statement = sa.select(every)
    if query.cursor is not None:
        statement = statement.where(_after(every, moment, query.cursor))
    order = (moment.desc(), every.c.resource_id.desc(), every.c.version.desc())
    rows = connection.execute(statement.order_by(*order).limit(query.count + 1)).all()
    following = None
    if len(rows) > query.count:
        rows = rows[: query.count]
        if rows:
            last = stored_of(rows[-1])
            micros = round(last.last_updated.timestamp() * 1_000_000)
            following = cursor_of([micros, last.id.hex, last.version])
    return tuple(stored_of(row) for row in rows), following


def history_bundle(versions: Sequence[Stored], links: Sequence[JSON], *, base_url: str) -> JSON:
    """Return the history Bundle."""
    bundle: JSON = {"resourceType": "Bundle", "type": "history", "link": list(links)}
    if versions:
        bundle["entry"] = [_entry(stored, base_url) for stored in versions]
    return bundle


def _entry(stored: Stored, base_url: str) -> JSON:
    local = f"{stored.type}/{stored.id}"
    method = "DELETE" if stored.deleted else "POST" if stored.version == 1 else "PUT"
    status = {"DELETE": "204", "POST": "201", "PUT": "200"}[method]
    entry: JSON = {
        "fullUrl": f"{base_url}/{local}",
        "request": {"method": method, "url": stored.type if method == "POST" else local},
        "response": {
            "status": status,
            "etag": f'W/"{stored.version}"',
            "lastModified": stored.last_updated.isoformat(timespec="milliseconds"),
        },
    }
    if not stored.deleted:
        entry["resource"] = orjson.Fragment(stored.body)
    return entry


def _versions(
    table: sa.Table, identity: sa.Column[Any], query: HistoryQuery, owners: Collection[str]
) -> sa.Select[Any]:
    columns = table.c
    statement = sa.select(
        identity.label("resource_id"),
        columns.type,
        columns.owner,
        columns.version,
        columns.body,
        columns.last_updated,
        columns.deleted,
    ).where(columns.owner.in_(owners))
    if query.kinds:
        statement = statement.where(columns.type.in_(query.kinds))
    elif query.identity is None:
        # They may hold secrets, and are shown to who names them.
        statement = statement.where(columns.type.not_in(_OF_CLIENT))
    if query.identity is not None:
        statement = statement.where(identity == query.identity)
    if query.since is not None:
        statement = statement.where(columns.last_updated >= query.since)
    return statement


def _after(
    every: sa.Subquery, moment: sa.ColumnElement[Any], cursor: tuple[str | int, ...]
) -> sa.ColumnElement[bool]:
    try:
        micros, identity, version = int(cursor[0]), UUID(hex=str(cursor[1])), int(cursor[2])
    except (ValueError, IndexError):
        issue = Issue("value", "The cursor is not of this history.")
        raise FhirError(Reason.RESOURCE_INVALID, [issue]) from None
    same = moment == micros
    return sa.or_(
        moment < micros,
        sa.and_(same, every.c.resource_id < identity),
        sa.and_(same, every.c.resource_id == identity, every.c.version < version),
    )
