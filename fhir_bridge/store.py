"""Resources as they are kept: insert, replace, remove, read, read a version.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    FHIR    R4 http.html: versions, `meta.versionId`, `meta.lastUpdated`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

import orjson
import sqlalchemy as sa

from fhir_bridge.definitions import TYPES
from fhir_bridge.indexing import index_rows, interval
from fhir_bridge.resources import dump
from fhir_bridge.tables import NEVER, fhir_change, fhir_index, fhir_resource, fhir_version
from fhir_bridge.terms import JSON, Terms

__all__ = [
    "Stored",
    "by_id",
    "by_message",
    "insert",
    "lookup",
    "read",
    "remove",
    "replace",
    "stamp",
    "stored_of",
    "touch",
    "version",
]


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of a resource; `body` is its JSON.

    `message` is the gateway's message that it was received in or sent as.
    """

    id: UUID
    type: str
    owner: str
    version: int
    body: str
    last_updated: datetime
    deleted: bool
    message: UUID | None = None

    def resource(self) -> JSON:
        """Return the body parsed anew."""
        parsed: JSON = orjson.loads(self.body)
        return parsed


def stamp(moment: datetime) -> str:
    """Return `moment` as `meta.lastUpdated`: an instant in UTC with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def insert(
    connection: sa.Connection,
    resource: JSON,
    *,
    identity: UUID,
    owner: str,
    now: datetime,
    terms: Terms,
    message: UUID | None = None,
) -> Stored:
    """Store `resource` as version 1 under `identity` and return it as stored."""
    stored = _stamped(resource, identity, owner, 1, now)
    connection.execute(_INSERT, {**_columns(stored), "message_id": message, **_moments(resource)})
    _index(connection, stored, resource, terms)
    return stored


def replace(
    connection: sa.Connection,
    old: Stored,
    resource: JSON,
    *,
    now: datetime,
    terms: Terms,
    owner: str | None = None,
    message: UUID | None = None,
) -> Stored | None:
    """Store `resource` as the next version of `old`; None where another writer was first.

    `owner` and `message` change where they are given: a draft is sent.
    """
    stored = _stamped(resource, old.id, owner or old.owner, old.version + 1, now)
    moments = _moments(resource)
    if "payload" not in resource:
        del moments["activity"]  # a header keeps that of its last message
    if not _supersede(connection, old, stored, message or old.message, moments):
        return None
    _index(connection, stored, resource, terms)
    return stored


def remove(connection: sa.Connection, old: Stored, *, now: datetime) -> Stored | None:
    """Store the deletion of `old` as its next version; None where another writer was first."""
    emptied = {"resourceType": old.type}
    stored = dataclasses.replace(
        _stamped(emptied, old.id, old.owner, old.version + 1, now), deleted=True
    )
    return stored if _supersede(connection, old, stored, old.message, {}) else None


def read(
    connection: sa.Connection, kind: str, identity: UUID, owners: Collection[str]
) -> Stored | None:
    """Return the present version, also of a deleted one; None where it is not theirs to see."""
    asked = {"the_id": identity, "the_type": kind, **_of(owners)}
    row = connection.execute(_read(len(owners) == 1), asked).one_or_none()
    return stored_of(row) if row else None


def version(
    connection: sa.Connection, kind: str, identity: UUID, number: int, owners: Collection[str]
) -> Stored | None:
    """Return version `number`, present or superseded."""
    present = read(connection, kind, identity, owners)
    if present is None or present.version == number:
        return present
    row = connection.execute(
        sa.select(fhir_version).where(
            fhir_version.c.resource_id == identity,
            fhir_version.c.version == number,
            fhir_version.c.owner.in_(owners),  # it may have been another's then
        )
    ).one_or_none()
    return stored_of(row) if row else None


def by_message(connection: sa.Connection, message: UUID) -> Stored | None:
    """Return the Communication that was sent as the gateway's `message`."""
    row = connection.execute(_BY_MESSAGE, {"the_message": message}).one_or_none()
    return stored_of(row) if row else None


def by_id(connection: sa.Connection, identity: UUID) -> Stored | None:
    """Return the present version of a resource, whosever it is."""
    statement = sa.select(fhir_resource).where(fhir_resource.c.id == identity)
    row = connection.execute(statement).one_or_none()
    return stored_of(row) if row else None


def lookup(
    connection: sa.Connection,
    kind: str,
    name: str,
    value: str,
    *,
    system: str | None,
    owners: Collection[str],
) -> Stored | None:
    """Return the oldest resource whose token `name` is `system`|`value`; None if there is none."""
    asked = {"the_type": kind, "the_name": name, "the_value": value, **_of(owners)}
    if system is not None:
        asked["the_system"] = system
    statement = _lookup(system is not None, len(owners) == 1)
    row = connection.execute(statement, asked).one_or_none()
    return stored_of(row) if row else None


def _stamped(resource: JSON, identity: UUID, owner: str, number: int, now: datetime) -> Stored:
    meta = {**resource.get("meta", {}), "versionId": str(number), "lastUpdated": stamp(now)}
    head: JSON = {"resourceType": resource["resourceType"], "id": str(identity), "meta": meta}
    body = dump({**head, **{k: v for k, v in resource.items() if k not in head}}).decode()
    return Stored(identity, resource["resourceType"], owner, number, body, now, deleted=False)


def touch(connection: sa.Connection, identity: UUID, communication: JSON) -> None:
    """Let the thread's header `identity` be as recent as `communication`; no new version."""
    activity = _moments(communication)["activity"]
    connection.execute(_TOUCH, {"the_id": identity, "moment": activity})


def _moments(resource: JSON) -> dict[str, int]:
    sent = _microseconds(resource.get("sent"))
    # fhir.md 3.7: what came is sorted by arrival, not by what its Date says.
    inbound = "received" in resource and resource.get("resourceType") == "Communication"
    activity = _microseconds(resource.get("received")) if inbound else sent
    return {"sent": sent, "activity": activity}


def _microseconds(text: object) -> int:
    times = interval(text) if isinstance(text, str) else None
    return round(times[0].timestamp() * 1_000_000) if times else NEVER


def _columns(stored: Stored) -> dict[str, Any]:
    return {
        "id": stored.id,
        "type": stored.type,
        "owner": stored.owner,
        "version": stored.version,
        "body": stored.body,
        "last_updated": stored.last_updated,
        "deleted": stored.deleted,
    }


def stored_of(row: sa.Row[Any]) -> Stored:
    """Return a row of either table of resources."""
    found = row._mapping
    return Stored(
        found["resource_id" if "resource_id" in found else "id"],
        row.type,
        row.owner,
        row.version,
        row.body,
        row.last_updated,
        row.deleted,
        found.get("message_id"),
    )


def _supersede(
    connection: sa.Connection,
    old: Stored,
    stored: Stored,
    message: UUID | None,
    moments: Mapping[str, int],
) -> bool:
    """Put `stored` in the place of `old`, unless `old` is not the present version any more."""
    present = {"the_id": old.id, "the_version": old.version}
    values = {**_columns(stored), "message_id": message, **moments}
    done = connection.execute(_SUPERSEDE, {**present, **values})
    if done.rowcount != 1:
        return False
    columns = _columns(old)
    identity = columns.pop("id")
    connection.execute(_KEEP, {"resource_id": identity, **columns})
    connection.execute(_UNINDEX, {"the_id": old.id})
    return True


def _index(connection: sa.Connection, stored: Stored, resource: JSON, terms: Terms) -> None:
    """Make `stored` findable, and tell the subscriptions of it if there are any."""
    if connection.execute(_SUBSCRIBED).first():
        connection.execute(_CHANGED, {"resource_id": stored.id, "version": stored.version})
    rows = [
        {
            "resource_id": stored.id,
            "name": row.name,
            "number": number,
            "type": stored.type,
            "system": row.system,
            "value": row.value,
            "target": row.target,
            "low": row.low,
            "high": row.high,
        }
        for number, row in enumerate(index_rows(resource, TYPES[stored.type], terms))
    ]
    if rows:
        connection.execute(_INDEX, rows)


def _of(owners: Collection[str]) -> dict[str, Any]:
    """Return what `_theirs` asks for."""
    return {"the_owner": next(iter(owners))} if len(owners) == 1 else {"owners": list(owners)}


def _theirs(one: bool) -> sa.ColumnElement[bool]:
    """Return the condition on the owner; `one`: for one owner, the text never changes."""
    owner = fhir_resource.c.owner
    if one:
        return owner == sa.bindparam("the_owner")
    return owner.in_(sa.bindparam("owners", expanding=True))


@cache
def _read(one: bool) -> sa.Select[Any]:
    return sa.select(fhir_resource).where(
        fhir_resource.c.id == _THE_ID,
        fhir_resource.c.type == sa.bindparam("the_type"),
        _theirs(one),
    )


@cache
def _lookup(with_system: bool, one: bool) -> sa.Select[Any]:
    system = fhir_index.c.system
    return (
        sa.select(fhir_resource)
        .join(fhir_index, fhir_index.c.resource_id == fhir_resource.c.id)
        .where(
            fhir_index.c.type == sa.bindparam("the_type"),
            fhir_index.c.name == sa.bindparam("the_name"),
            fhir_index.c.value == sa.bindparam("the_value"),
            system == sa.bindparam("the_system") if with_system else system.is_(None),
            _theirs(one),
            fhir_resource.c.deleted.is_(False),
        )
        .order_by(fhir_resource.c.id)
        .limit(1)
    )


# Every request runs some of these: to build them anew would cost more than to run them.
_THE_ID: Final = sa.bindparam("the_id", type_=sa.Uuid)
_BY_MESSAGE: Final = (
    sa.select(fhir_resource)
    .where(
        fhir_resource.c.message_id == sa.bindparam("the_message", type_=sa.Uuid),
        fhir_resource.c.type == "Communication",
    )
    .order_by(fhir_resource.c.id)
    .limit(1)
)
_TOUCH: Final = (
    fhir_resource.update()
    .where(fhir_resource.c.id == _THE_ID, fhir_resource.c.activity < sa.bindparam("moment"))
    .values(activity=sa.bindparam("moment"))
)
_INSERT: Final = fhir_resource.insert()
_SUPERSEDE: Final = fhir_resource.update().where(
    fhir_resource.c.id == _THE_ID, fhir_resource.c.version == sa.bindparam("the_version")
)
_KEEP: Final = fhir_version.insert()
_INDEX: Final = fhir_index.insert()
_UNINDEX: Final = fhir_index.delete().where(fhir_index.c.resource_id == _THE_ID)
_CHANGED: Final = fhir_change.insert()
_SUBSCRIBED: Final = (
    sa.select(sa.literal(1))
    .where(
        fhir_resource.c.type == "Subscription",
        fhir_resource.c.deleted.is_(False),
    )
    .limit(1)
)
