"""Forget what has been kept for long enough.

Talks to the database and, for the files of forgotten bodies, to the spool.

First the content goes, then the record of the message; the audit chain stays. Content that a
FHIR `Binary` serves is the recipient's to delete, not ours: it stays as long as the Binary does.

Standards:
    DN-018 of the requirements: tracking state is kept for 7 days after completion
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from certs.ports import Database
from fhir_bridge.tables import fhir_binary
from gateway import spool
from gateway.spool import SpoolBodies
from gateway.tables import message, recipient

__all__ = ["Forgotten", "Retention", "forget", "forget_unnamed"]

# One transaction forgets so many messages: whoever waits for the database does not wait long.
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Retention:
    """How long after it is finished a message is kept: its content, and the record of it."""

    content: timedelta = timedelta(days=30)
    record: timedelta = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many messages lost their content, how many went altogether, how many files."""

    contents: int
    records: int
    files: int


async def forget(
    database: Database, bodies: SpoolBodies, retention: Retention, now: datetime
) -> Forgotten:
    """Forget all that is old enough at `now`, in small transactions."""
    contents = await _in_batches(
        database, partial(_forget_contents, finished_before=now - retention.content)
    )
    records = await _in_batches(
        database, partial(_forget_records, finished_before=now - retention.record)
    )
    return Forgotten(contents, records, await bodies.sweep(now))


async def _in_batches(database: Database, work: Callable[[sa.Connection], int]) -> int:
    total = 0
    while count := await database.write(work):
        total += count
    return total


def _forget_contents(connection: sa.Connection, finished_before: datetime) -> int:
    """Take the bodies from a batch of old messages; return from how many."""
    has_content = sa.or_(
        message.c.body_key.is_not(None),
        message.c.content_key.is_not(None),
        sa.exists().where(
            recipient.c.message_id == message.c.id, recipient.c.body_key.is_not(None)
        ),
    )
    found = _old(connection, finished_before, has_content)
    _take_bodies(connection, found)
    return len(found)


def _forget_records(connection: sa.Connection, finished_before: datetime) -> int:
    """Delete a batch of old messages with their recipients and attempts; return how many."""
    found = _old(connection, finished_before)
    _take_bodies(connection, found)
    # What answered them may be younger, and outlives them.
    connection.execute(message.update().where(message.c.parent.in_(found)).values(parent=None))
    connection.execute(message.delete().where(message.c.id.in_(found)))
    return len(found)


def _old(
    connection: sa.Connection, finished_before: datetime, *conditions: sa.ColumnElement[bool]
) -> Sequence[UUID]:
    query = (
        sa.select(message.c.id)
        .where(message.c.finished_at < finished_before, *conditions)
        .order_by(message.c.finished_at)
        .limit(_BATCH)
    )
    return connection.execute(query).scalars().all()


def _take_bodies(connection: sa.Connection, messages: Sequence[UUID]) -> None:
    """Let these messages name no body, and delete the bodies that nothing names then."""
    of_messages = message.c.id.in_(messages)
    of_recipients = recipient.c.message_id.in_(messages)
    named = sa.union(
        sa.select(message.c.body_key).where(of_messages),
        sa.select(message.c.content_key).where(of_messages),
        sa.select(recipient.c.body_key).where(of_recipients),
    )
    keys = [key for key in connection.execute(named).scalars() if key is not None]
    connection.execute(message.update().where(of_messages).values(body_key=None, content_key=None))
    connection.execute(recipient.update().where(of_recipients).values(body_key=None))
    forget_unnamed(connection, keys)


def forget_unnamed(connection: sa.Connection, keys: Sequence[str]) -> None:
    """Delete those of these bodies that neither a message nor a Binary names."""
    still_named = sa.union(
        *(
            sa.select(column).where(column.in_(keys))
            for column in (
                message.c.body_key,
                message.c.content_key,
                recipient.c.body_key,
                fhir_binary.c.body_key,
            )
        )
    )
    spool.forget(connection, list({*keys} - {*connection.execute(still_named).scalars()}))
