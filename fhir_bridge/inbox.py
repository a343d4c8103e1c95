"""The inbox: threads by their last message, what of them is unread, marking it read.

Store functions: plain synchronous SQL on the caller's connection; they never commit. Read state
is the mailbox's, not the message's: Communication.status tells of the transmission.

Standards:
    fhir.md section 2 rows 14, 17 and 18
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from fhir_bridge.read_state import set_read, set_unread, show_read
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.tables import NEVER, fhir_index, fhir_read, fhir_resource
from fhir_bridge.terms import Terms

__all__ = ["Thread", "mark_read", "threads"]


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread's header, its last message, and how many received messages are unread."""

    header: Stored
    last: Stored
    unread: int


def threads(
    connection: sa.Connection,
    mailboxes: Collection[str],
    *,
    limit: int,
    before: datetime | None = None,
) -> tuple[Thread, ...]:
    """Return the threads of `mailboxes`, the latest message first; `before` for a next page."""
    part = fhir_index.alias()
    in_thread = (
        sa.select(sa.literal(1))
        .where(part.c.resource_id == fhir_resource.c.id, part.c.name == "part-of")
        .correlate(fhir_resource)
        .exists()
    )
    statement = (
        sa.select(fhir_resource)
        .where(
            fhir_resource.c.type == "Communication",
            fhir_resource.c.owner.in_(mailboxes),
            fhir_resource.c.deleted.is_(False),
            fhir_resource.c.activity > NEVER,
            ~in_thread,
        )
        .order_by(fhir_resource.c.activity.desc(), fhir_resource.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        microseconds = round(before.timestamp() * 1_000_000)
        statement = statement.where(fhir_resource.c.activity < microseconds)
    found = []
    for row in connection.execute(statement):
        header = stored_of(row)
        last = _last(connection, header)
        if last is not None:
            found.append(Thread(header, last, _unread(connection, header)))
    return tuple(found)


def mark_read(
    connection: sa.Connection,
    stored: Stored,
    *,
    read: bool,
    client: UUID,
    now: datetime,
    terms: Terms,
) -> int:
    """Mark a message, or each received message of a thread, and return how many changed."""
    part = fhir_index.alias()
    of_thread = (
        sa.select(part.c.resource_id)
        .join(fhir_resource, fhir_resource.c.id == part.c.resource_id)
        .where(
            part.c.name == "part-of",
            part.c.target == stored.id,
            fhir_resource.c.owner == stored.owner,
        )
    )
    ids: Sequence[UUID] = [*connection.execute(of_thread).scalars()] or [stored.id]
    owner = stored.owner
    if read:
        changed = set_read(connection, ids, owner=owner, client=client, now=now)
    else:
        changed = set_unread(connection, ids)
    show_read(connection, changed, owner=owner, is_read=read, now=now, terms=terms)
    return len(changed)


# Anybody may write a reference to a header: what is not of its mailbox is not of its thread.
def _last(connection: sa.Connection, header: Stored) -> Stored | None:
    statement = (
        sa.select(fhir_resource)
        .join(fhir_index, fhir_index.c.resource_id == fhir_resource.c.id)
        .where(
            fhir_index.c.name == "part-of",
            fhir_index.c.target == header.id,
            fhir_resource.c.owner == header.owner,
            fhir_resource.c.deleted.is_(False),
        )
        .order_by(fhir_resource.c.activity.desc(), fhir_resource.c.id.desc())
        .limit(1)
    )
    row = connection.execute(statement).one_or_none()
    return stored_of(row) if row else None


def _unread(connection: sa.Connection, header: Stored) -> int:
    part, direction = fhir_index.alias(), fhir_index.alias()
    statement = (
        sa.select(sa.func.count())
        .select_from(part)
        .join(fhir_resource, fhir_resource.c.id == part.c.resource_id)
        .join(direction, direction.c.resource_id == part.c.resource_id)
        .outerjoin(fhir_read, fhir_read.c.communication_id == part.c.resource_id)
        .where(
            part.c.name == "part-of",
            part.c.target == header.id,
            fhir_resource.c.owner == header.owner,
            direction.c.name == "direction",
            direction.c.value == "inbound",
            fhir_read.c.communication_id.is_(None),
        )
    )
    return connection.execute(statement).scalar_one()
