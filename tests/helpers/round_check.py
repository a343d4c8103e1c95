"""Did every message of a round come to one end, and was it told once?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import sqlalchemy as sa

from certs.address import parse_address
from gateway import audit, messages, queue, queue_control
from gateway.clock import utc_now
from gateway.database import SqlDatabase
from gateway.mdn import Disposition
from gateway.messages import Direction, Kind, Message
from gateway.recipients import recipients_of
from gateway.tables import audit_event, message
from tests.helpers.neighbours import NOBODY, PEER, USER, Neighbours

__all__ = ["SETTLED_S", "Round", "settled", "told_once"]

SETTLED_S: Final = 60.0  # how long it may take to work all off

ENDS = {PEER: "processed", NOBODY: "failed"}


@dataclass(slots=True)
class Round:
    """The Message-IDs of what is sent in one round."""

    submitted: list[str]  # each for PEER, some also for NOBODY
    received: list[str]
    created: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, number: int) -> Round:
        names = [f"<{number}.{name}@test.example>" for name in "abcdef"]
        return cls(names[:3], names[3:])

    @property
    def outgoing(self) -> list[str]:
        return [*self.submitted, *self.created]

    @property
    def all(self) -> list[str]:
        return [*self.outgoing, *self.received]

    async def note_created(self, around: Neighbours) -> None:
        """Have the application create a Communication."""
        self.created.append(await around.create("Please see the patient."))


async def settled(around: Neighbours, this: Round, patience_s: float = SETTLED_S) -> str | None:
    """Wait until all of a round has ended as it must; return what has not, in the end."""
    end = time.monotonic() + patience_s
    problem: str | None = "not looked at"
    async with SqlDatabase.open(around.database_url) as database:
        while problem and time.monotonic() < end:
            await _hurry(database)
            problem = await _told_once(database, around, this)
            await asyncio.sleep(0.1)
        return problem or await _sound(database)


async def _hurry(database: SqlDatabase) -> None:
    """Make due now what waits for its next try, as `queue retry` does."""
    now = utc_now()
    jobs = await database.read(lambda c: queue.list_jobs(c, limit=100))
    for job in jobs:
        if job.due_at > now:
            with contextlib.suppress(Exception):
                await database.write(partial(queue_control.retry_now, job_id=job.id, now=now))


async def told_once(around: Neighbours, this: Round) -> str | None:
    """Say what is not yet, or no more, as it must be at the end of a round."""
    async with SqlDatabase.open(around.database_url) as database:
        return await _told_once(database, around, this)


async def _told_once(database: SqlDatabase, around: Neighbours, this: Round) -> str | None:
    # While there is work, the rest need not be looked at: that costs the gateway its processor.
    left = await database.read(lambda c: queue.list_jobs(c, limit=1))
    if left:
        return f"a job is left: {left[0].kind}, {left[0].detail}"
    if problem := await database.read(lambda c: _unfinished(c, this)):
        return problem
    for message_id in this.outgoing:
        if around.hisp.copies[message_id] == 0:
            return f"{message_id} has not reached the other HISP"
    for message_id in this.received:
        answers = around.hisp.answers[message_id]
        if [disposition for disposition, _ in answers] != [Disposition.PROCESSED]:
            return f"{message_id}: the sender heard {len(answers)} outcomes"
        found = await around.inbox(message_id)
        if len(found) != 1:
            return f"{message_id} is in the inbox {len(found)} times"
    return None


def _unfinished(connection: sa.Connection, this: Round) -> str | None:
    for message_id in this.outgoing:
        sent = messages.find_sent(connection, message_id, [parse_address(USER)])
        if len(sent) != 1:
            return f"{message_id} was taken over {len(sent)} times"
        if problem := _not_ended(connection, sent[0]):
            return f"{message_id}: {problem}"
    for message_id in this.received:
        states = connection.execute(
            sa.select(message.c.state).where(
                message.c.message_id_header == message_id,
                message.c.direction == Direction.INCOMING.value,
            )
        )
        if {*states.scalars()} != {"finished"}:
            return f"{message_id} is not finished"
    return None


def _not_ended(connection: sa.Connection, sent: Message) -> str | None:
    failures = 0
    for recipient in recipients_of(connection, sent.id):
        address = recipient.address.key
        if recipient.state != ENDS[address]:
            return f"{address} is {recipient.state}"
        ends = connection.execute(
            sa.select(audit_event.c.number).where(
                audit_event.c.subject == f"{sent.id} {address}",
                audit_event.c.outcome == ENDS[address],
            )
        )
        if len(ends.all()) != 1:
            return f"the end of {address} was recorded more than once"
        failures += recipient.state == "failed"
    reports = connection.execute(
        sa.select(message.c.state).where(
            message.c.parent == sent.id,
            message.c.kind == Kind.DSN.value,
            message.c.direction == Direction.INCOMING.value,
        )
    )
    told = len(reports.all())
    return f"{failures} failed, {told} reports" if told != failures else None


async def _sound(database: SqlDatabase) -> str | None:
    """Say what is broken in the database as a whole."""
    if await database.read(audit.verify) is not None:
        return "the audit chain is broken"
    said = await database.read(_integrity)
    return None if said == "ok" else str(said)


def _integrity(connection: sa.Connection) -> object:
    if connection.dialect.name == "postgresql":
        return "ok"  # it has no such question
    return connection.exec_driver_sql("PRAGMA integrity_check").scalar_one()
