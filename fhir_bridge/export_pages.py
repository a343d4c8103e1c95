"""What an export holds: every resource of a type as it was at one moment, page after page.

Store functions: plain synchronous SQL on the caller's connection; they never commit. A resource
that has changed since is read from its superseded versions, so that a file is the same whenever,
and by whichever process, it is made. A page holds about a million characters at most.

Standards:
    BULK    Bulk Data Access 2.0.0, export: transactionTime, `_since`, `deleted`
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from certs.errors import Reason
from fhir_bridge.definitions import COMPARTMENT
from fhir_bridge.export_query import PATIENT
from fhir_bridge.export_rows import Export
from fhir_bridge.groups import member_references
from fhir_bridge.indexing import local_id
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import ResourceType
from fhir_bridge.store import read
from fhir_bridge.tables import NEVER, fhir_index, fhir_resource, fhir_version
from fhir_bridge.write_rules import not_found

__all__ = ["Page", "Place", "deleted_page", "holds", "members_of", "page_of"]

ROWS: Final = 500
CHARACTERS: Final = 1024 * 1024
MEMBERS_MAX: Final = 10_000  # a statement names each of them


@dataclass(frozen=True, slots=True)
class Place:
    """A page begins after this resource of this owner."""

    owner: str
    moment: int
    id: UUID


@dataclass(frozen=True, slots=True)
class Page:
    """Some of it: ids with their JSON, which is empty for what was deleted; and how to go on."""

    rows: Sequence[tuple[UUID, str]]
    following: Place | None


def page_of(
    connection: sa.Connection,
    export: Export,
    kind: ResourceType,
    owners: Collection[str],
    after: Place | None,
) -> Page:
    """Return the page of the resources of `kind` that `owners` had, after that place."""
    keys, following = _keys(connection, export, kind, owners, after, deleted=False, count=ROWS)
    sums = accumulate(key.length for key in keys)
    fitting = max(1, sum(total <= CHARACTERS for total in sums))
    if fitting < len(keys):
        following = _place(keys[fitting - 1])
        keys = keys[:fitting]
    return Page([(key.id, body) for key, body in _bodies(connection, keys)], following)


def deleted_page(
    connection: sa.Connection,
    export: Export,
    kind: ResourceType,
    owners: Collection[str],
    after: Place | None,
) -> Page:
    """Return the page of what was deleted since the time that the export begins from."""
    keys, following = _keys(connection, export, kind, owners, after, deleted=True, count=ROWS)
    return Page([(key.id, "") for key in keys], following)


def holds(
    connection: sa.Connection,
    export: Export,
    kind: ResourceType,
    owners: Collection[str],
    *,
    deleted: bool = False,
) -> bool:
    """Say whether there is anything of `kind`."""
    return bool(_keys(connection, export, kind, owners, None, deleted=deleted, count=1)[0])


def members_of(connection: sa.Connection, group: str, owners: Collection[str]) -> list[UUID]:
    """Return the patients that are active members of "Group/<id>" now.

    Raises:
        FhirError: RESOURCE_NOT_FOUND; RESOURCE_UNSUPPORTED, they are too many.
    """
    identity = local_id(group)
    stored = read(connection, "Group", identity, owners) if identity else None
    if stored is None or stored.deleted:
        raise not_found()
    members = (m.get("reference", "") for m in member_references(stored.resource()))
    found = (local_id(literal) for literal in members if literal.startswith(f"{PATIENT}/"))
    patients = list({identity for identity in found if identity is not None})
    if len(patients) > MEMBERS_MAX:
        text = f"A Group that is exported has at most {MEMBERS_MAX} patients."
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue("too-costly", text)])
    return patients


def _keys(
    connection: sa.Connection,
    export: Export,
    kind: ResourceType,
    owners: Collection[str],
    after: Place | None,
    *,
    deleted: bool,
    count: int,
) -> tuple[Sequence[sa.Row[Any]], Place | None]:
    """Return which versions are next, of one owner; and the place to go on from, if there is."""
    statement, bound = _asked(connection, export, kind, owners)
    begin = NEVER if export.wanted.since is None else _microseconds(export.wanted.since)
    for owner in sorted(kind.owners_among(owners)):
        if after is not None and owner < after.owner:
            continue
        here = after if after is not None and owner == after.owner else Place(owner, NEVER, _FIRST)
        rows = connection.execute(
            statement,
            {
                **bound,
                "kind": kind.name,
                "owner": owner,
                "since": begin,
                "until": _microseconds(export.at),
                "moment": here.moment,
                "id": here.id,
                "deleted": deleted,
                "count": count,
            },
        ).all()
        if rows:
            return rows, _place(rows[-1])
    return (), None


def _asked(
    connection: sa.Connection, export: Export, kind: ResourceType, owners: Collection[str]
) -> tuple[sa.Select[Any], dict[str, Any]]:
    """Return the statement for a page of `kind`, and what it asks for of patients."""
    within = export.wanted.within
    if within is None or within == kind.name == PATIENT:
        return _statement(None), {}
    names = [kind.parameter(name) for name in COMPARTMENT.get(kind.name, ())]
    bound: dict[str, Any] = {"names": [parameter.name for parameter in names if parameter]}
    if within == PATIENT:
        return _statement("of-patients"), bound
    patients = members_of(connection, within, owners)
    if kind.name == PATIENT:
        return _statement("members"), {"patients": patients}
    return _statement("of-members"), {**bound, "patients": patients}


def _bodies(
    connection: sa.Connection, keys: Sequence[sa.Row[Any]]
) -> Iterator[tuple[sa.Row[Any], str]]:
    current = [key.id for key in keys if not key.superseded]
    found = {row.id: row.body for row in connection.execute(_BODIES, {"ids": current})}
    for key in keys:
        if key.superseded:
            asked = {"the_id": key.id, "the_version": key.version}
            yield key, connection.execute(_OLD_BODY, asked).scalar_one()
        else:
            yield key, found[key.id]


def _place(row: sa.Row[Any]) -> Place:
    return Place(row.owner, row.moment, row.id)


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


@cache
def _statement(within: str | None) -> sa.Select[Any]:
    """Return the page of what one owner has, by its time and id; `within` is of which patients."""
    superseded = _superseded(within).subquery()
    branches = (sa.select(_current(within).subquery()), sa.select(superseded))
    every = sa.union_all(*branches).subquery()
    return sa.select(every).order_by(every.c.moment, every.c.id).limit(_COUNT)


def _current(within: str | None) -> sa.Select[Any]:
    table = fhir_resource.c
    moment = sa.type_coerce(table.last_updated, sa.BigInteger)
    return (
        sa.select(*_columns(fhir_resource, table.id, moment), sa.literal(0).label("superseded"))
        .where(*_THEIRS, moment <= _UNTIL, *_between(moment, table.id))
        .where(table.deleted == _DELETED, *_within(within))
        .order_by(moment, table.id)
        .limit(_COUNT)
    )


def _superseded(within: str | None) -> sa.Select[Any]:
    """Return what has changed since, as it was: the last version before that time."""
    table = fhir_version.c
    moment = sa.type_coerce(table.last_updated, sa.BigInteger)
    other = fhir_version.alias()
    last = sa.select(sa.func.max(other.c.version)).where(
        other.c.resource_id == fhir_resource.c.id,
        sa.type_coerce(other.c.last_updated, sa.BigInteger) <= _UNTIL,
    )
    columns = _columns(fhir_version, table.resource_id.label("id"), moment)
    changed = sa.type_coerce(fhir_resource.c.last_updated, sa.BigInteger) > _UNTIL
    return (
        sa.select(*columns, sa.literal(1).label("superseded"))
        .join(fhir_resource, fhir_resource.c.id == table.resource_id)
        .where(*_THEIRS, table.owner == _OWNER, changed, table.version == last.scalar_subquery())
        .where(table.deleted == _DELETED, *_between(moment, table.resource_id), *_within(within))
        .order_by(moment, table.resource_id)
        .limit(_COUNT)
    )


def _columns(
    table: sa.Table, identity: sa.ColumnElement[Any], moment: sa.ColumnElement[int]
) -> Iterator[sa.ColumnElement[Any]]:
    yield identity
    yield table.c.version
    yield fhir_resource.c.owner.label("owner")
    yield moment.label("moment")
    yield sa.func.length(table.c.body).label("length")


def _between(
    moment: sa.ColumnElement[int], identity: sa.ColumnElement[UUID]
) -> Iterator[sa.ColumnElement[bool]]:
    yield moment > _SINCE
    # Said twice, because an index leads to the first.
    yield moment >= _MOMENT
    yield sa.or_(moment > _MOMENT, identity > _ID)


def _within(within: str | None) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the condition that a resource concerns the patients that are asked for."""
    if within == "members":
        yield fhir_resource.c.id.in_(_PATIENTS)
    elif within is not None:
        index = fhir_index.c
        of_members = index.target.in_(_PATIENTS)
        yield (
            sa.select(sa.literal(1))
            .where(
                index.resource_id == fhir_resource.c.id,
                index.name.in_(sa.bindparam("names", expanding=True)),
                of_members if within == "of-members" else index.value.startswith(f"{PATIENT}/"),
            )
            .correlate(fhir_resource)
            .exists()
        )


_FIRST: Final = UUID(int=0)
_COUNT: Final = sa.bindparam("count", type_=sa.Integer)
_SINCE: Final = sa.bindparam("since", type_=sa.BigInteger)
_UNTIL: Final = sa.bindparam("until", type_=sa.BigInteger)
_MOMENT: Final = sa.bindparam("moment", type_=sa.BigInteger)
_ID: Final = sa.bindparam("id", type_=sa.Uuid)
_DELETED: Final = sa.bindparam("deleted", type_=sa.Boolean)
_PATIENTS: Final = sa.bindparam("patients", type_=sa.Uuid, expanding=True)
_OWNER: Final = sa.bindparam("owner", type_=sa.String)
_THEIRS: Final = (
    fhir_resource.c.type == sa.bindparam("kind", type_=sa.String),
    fhir_resource.c.owner == _OWNER,
)
_BODIES: Final = sa.select(fhir_resource.c.id, fhir_resource.c.body).where(
    fhir_resource.c.id.in_(sa.bindparam("ids", type_=sa.Uuid, expanding=True))
)
_OLD_BODY: Final = sa.select(fhir_version.c.body).where(
    fhir_version.c.resource_id == sa.bindparam("the_id", type_=sa.Uuid),
    fhir_version.c.version == sa.bindparam("the_version", type_=sa.Integer),
)
