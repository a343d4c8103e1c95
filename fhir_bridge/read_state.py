"""What a mailbox has read, as Tasks: one for each received message, until it is read and after.

Store functions: plain synchronous SQL on the caller's connection; they never commit. The Task and
the mailbox's own mark say the same, whichever of them a client changes: `$mark-read` completes
the Task, and completing the Task marks the message as read. Where the operator has received
messages in progress until they are read, their status says it too.

Standards:
    FHIR    R4 Task
    fhir.md section 2 row 17 (Medplum's option A: the status), row 18 (option C: Task
            `read-receipt`, searchable count)
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

import sqlalchemy as sa

from fhir_bridge.indexing import local_id
from fhir_bridge.store import Stored, insert, read, replace, version
from fhir_bridge.tables import fhir_read
from fhir_bridge.terms import JSON, InboundStatus, Terms, extension_value, mailto_identifier
from fhir_bridge.trust import instant

__all__ = ["follow", "set_read", "set_unread", "show_read", "store_read_task"]

READ: Final = "completed"
UNREAD: Final = "requested"
OPEN: Final = InboundStatus.IN_PROGRESS.value


def store_read_task(
    connection: sa.Connection, communication: UUID, *, owner: str, now: datetime, terms: Terms
) -> None:
    """Store the Task that says that mailbox `owner` has not read `communication` yet."""
    task: JSON = {
        "resourceType": "Task",
        "status": UNREAD,
        "intent": "order",
        "code": {"coding": [{"system": terms.system("task"), "code": "read-receipt"}]},
        "focus": {"reference": f"Communication/{communication}"},
        "authoredOn": instant(now),
        "lastModified": instant(now),
        "owner": {"identifier": mailto_identifier(owner)},
    }
    identity = _task_of(communication)
    insert(connection, task, identity=identity, owner=owner, now=now, terms=terms)


def set_read(
    connection: sa.Connection, ids: Iterable[UUID], *, owner: str, client: UUID, now: datetime
) -> list[UUID]:
    """Mark the messages `ids` as read, and return those that were not."""
    wanted = list(ids)
    known = _known(connection, wanted)
    new = [identity for identity in wanted if identity not in known]
    if new:
        row = {"owner": owner, "client_id": client, "read_at": now}
        connection.execute(fhir_read.insert(), [{"communication_id": i, **row} for i in new])
    return new


def set_unread(connection: sa.Connection, ids: Iterable[UUID]) -> list[UUID]:
    """Mark the messages `ids` as unread, and return those that were read."""
    known = _known(connection, list(ids))
    connection.execute(fhir_read.delete().where(fhir_read.c.communication_id.in_(known)))
    return sorted(known)


def show_read(
    connection: sa.Connection,
    ids: Iterable[UUID],
    *,
    owner: str,
    is_read: bool,
    now: datetime,
    terms: Terms,
) -> None:
    """Let the Tasks of the messages `ids` say whether they are read, and those that are open."""
    for communication in ids:
        _show_task(connection, communication, owner, is_read, now, terms)
        _show_status(connection, communication, owner, is_read, now, terms)


def follow(
    connection: sa.Connection,
    old: Stored,
    resource: JSON,
    *,
    client: UUID,
    now: datetime,
    terms: Terms,
) -> None:
    """Mark a message as read, or as unread, where a client says so by what `old` became."""
    is_read = resource.get("status") == READ
    if old.type == "Task":
        communication = local_id(old.resource().get("focus", {}).get("reference", ""))
        if communication is None or old.id != _task_of(communication):
            return
        _mark(connection, communication, old.owner, is_read, client, now)
        _show_status(connection, communication, old.owner, is_read, now, terms)
    elif old.message is not None and is_read and old.resource().get("status") == OPEN:
        _mark(connection, old.id, old.owner, is_read, client, now)
        _show_task(connection, old.id, old.owner, is_read, now, terms)


def _mark(
    connection: sa.Connection,
    communication: UUID,
    owner: str,
    is_read: bool,
    client: UUID,
    now: datetime,
) -> None:
    if is_read:
        set_read(connection, [communication], owner=owner, client=client, now=now)
    else:
        set_unread(connection, [communication])


def _show_task(
    connection: sa.Connection,
    communication: UUID,
    owner: str,
    is_read: bool,
    now: datetime,
    terms: Terms,
) -> None:
    stored = read(connection, "Task", _task_of(communication), [owner])
    if stored is None or stored.deleted:
        return
    before = stored.resource()
    status = READ if is_read else UNREAD
    if before.get("status") != status:
        after = {**before, "status": status, "lastModified": instant(now)}
        replace(connection, stored, after, now=now, terms=terms)


def _show_status(
    connection: sa.Connection,
    communication: UUID,
    owner: str,
    is_read: bool,
    now: datetime,
    terms: Terms,
) -> None:
    """Complete a message that came in progress when it is read, and open it when it is not."""
    stored = read(connection, "Communication", communication, [owner])
    if stored is None or stored.deleted or stored.message is None:
        return
    first = version(connection, "Communication", communication, 1, [owner])
    if first is None or not _came_open(first.resource(), terms):
        return
    before, ends = stored.resource(), (OPEN, READ)
    if before.get("status") == ends[not is_read]:
        replace(connection, stored, {**before, "status": ends[is_read]}, now=now, terms=terms)


def _came_open(first: JSON, terms: Terms) -> bool:
    inbound = extension_value(first, terms.extension("direction")) == "inbound"
    return inbound and first.get("status") == OPEN


def _known(connection: sa.Connection, ids: list[UUID]) -> set[UUID]:
    statement = sa.select(fhir_read.c.communication_id).where(fhir_read.c.communication_id.in_(ids))
    return set(connection.execute(statement).scalars())


def _task_of(communication: UUID) -> UUID:
    return uuid5(communication, "Task/read-receipt")
