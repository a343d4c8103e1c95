"""Deliver what is queued: sealed messages to other HISPs, and notice what is late.

Talks to the database and the body store, and to SMTP through its port.

Standards:
    RFC5321 section 4.5.4.1 (retry), RFC3464 (what a sender is told)
    DN      DN-011, DN-012, DN-017, DN-019 of the requirements
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from gateway import messages, progress, timeline
from gateway.messages import Message
from gateway.observer import Observer
from gateway.outcomes import Sealed, Task, must_go_on, task_of
from gateway.ports import Attempt, BodyStore, RetryAt, Sender
from gateway.progress import Change
from gateway.queue import Job, NewJob
from gateway.recipients import Recipient, late_recipients
from gateway.results import Done, Next, Result, Retry
from gateway.tracking import Event, State

__all__ = ["Transmission", "deliveries"]

LATE_AT_A_TIME: Final = 100

_log = structlog.get_logger(__name__)


class Transmission:
    """Sends sealed messages on; a method is the handler of one kind of job."""

    def __init__(
        self,
        *,
        database: Database,
        bodies: BodyStore,
        sender: Sender,
        observer: Observer,
        clock: Clock,
        retry_at: RetryAt,
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._sender = sender
        self._observer = observer
        self._clock = clock
        self._retry_at = retry_at

    async def deliver(self, job: Job) -> Result:
        """Deliver one sealed copy to its domain; retry those recipients that may work later."""
        task = await task_of(self._database, job)
        body_key = job.payload["body"]
        waiting = [r for r in task.recipients if _waits_for(r, body_key)]
        if not waiting:
            return Done()
        try:
            must_go_on(job)
        except DirectError as error:
            return self._given_up(task, waiting, error)
        async with self._bodies.open(body_key) as sealed:
            delivery = await self._sender.send(
                domain=job.destination,
                sender=task.message.envelope_sender,
                recipients=[r.address for r in waiting],
                message=sealed,
                size=job.payload["size"],
            )
        now = self._clock()
        later = [a for a in delivery.attempts if a.reason is not None and a.reason.retryable]
        due = self._retry_at(job.attempts, task.message.received_at, now) if later else None
        changes = [
            _change(attempt, given_up=due is None)
            for attempt in delivery.attempts
            if attempt not in later or due is None
        ]

        for change in changes:
            if change.event is Event.RELAYED:
                self._observer.heard(change.event.value, now - task.message.received_at)

        def record(connection: Connection) -> None:
            timeline.add_attempts(connection, task.message.id, delivery, now)
            progress.advance(connection, task.message, changes, now=now)

        if later and due is not None:
            reason = later[0].reason or Reason.BACKBONE_UNAVAILABLE
            return Retry(due, reason, later[0].reply, record, delivery.answered)
        return Done(record)

    def _given_up(self, task: Task, waiting: Sequence[Recipient], error: DirectError) -> Result:
        now = self._clock()
        changes = [
            Change(r.address, Event.GAVE_UP, error.reason, error.detail, "5.4.7") for r in waiting
        ]
        return Done(lambda c: progress.advance(c, task.message, changes, now=now))

    async def watch(self, poll_s: float) -> None:
        """Look for recipients that are late, every `poll_s` seconds, until cancelled."""
        while True:
            try:
                while await self.time_out() == LATE_AT_A_TIME:
                    pass
            except DirectError as error:
                _log.error("time-outs not recorded", reason=error.reason.code, detail=error.detail)
            await asyncio.sleep(poll_s)

    async def time_out(self) -> int:
        """Fail the recipients whose notification is overdue (DN-011); return how many were.

        Raises:
            DirectError: INTERNAL; the database failed. What could be recorded is, whatever is
                wrong with one message.
        """
        now = self._clock()
        late = await self._database.read(
            lambda c: late_recipients(c, now=now, limit=LATE_AT_A_TIME)
        )
        failures = []
        # One report tells of all recipients of a message that are late (DN-020).
        for identifier, recipients in _by_message(late).items():
            try:
                await self._database.write(partial(self._fail, identifier, recipients, now))
            except DirectError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return len(late)

    def _fail(
        self,
        identifier: UUID,
        recipients: Sequence[Recipient],
        now: datetime,
        connection: Connection,
    ) -> None:
        message = messages.get(connection, identifier)
        if message is not None:
            changes = [_overdue(recipient) for recipient in recipients]
            progress.advance(connection, message, changes, now=now)


def deliveries(task: Task, copies: Sequence[Sealed], now: datetime) -> list[Next]:
    """Return the jobs that deliver the sealed copies, one for each domain."""
    return [Next(_delivery(task.message, copy, now), _sealed(task, copy)) for copy in copies]


def _delivery(message: Message, copy: Sealed, now: datetime) -> NewJob:
    payload: dict[str, Any] = {
        "message": str(message.id),
        "body": copy.body.key,
        "size": copy.body.size,
    }
    return NewJob("deliver", payload, now, destination=copy.domain)


def _sealed(task: Task, copy: Sealed) -> Task:
    """Return `task` as it is once `send_on` has written of this copy."""
    theirs = {decision.address for decision in copy.recipients}
    return Task(
        task.message,
        tuple(
            replace(r, body_key=copy.body.key) if r.address in theirs else r
            for r in task.recipients
        ),
    )


def _by_message(late: Sequence[Recipient]) -> dict[UUID, list[Recipient]]:
    found: dict[UUID, list[Recipient]] = {}
    for recipient in late:
        found.setdefault(recipient.message_id, []).append(recipient)
    return found


def _waits_for(recipient: Recipient, body_key: str) -> bool:
    return recipient.state == State.QUEUED.value and recipient.body_key == body_key


def _change(attempt: Attempt, *, given_up: bool) -> Change:
    if attempt.reason is None:
        return Change(attempt.recipient, Event.RELAYED, status=attempt.status)
    if attempt.reason.retryable and given_up:
        return Change(
            attempt.recipient, Event.GAVE_UP, Reason.DELIVERY_EXPIRED, attempt.reply, "5.4.7"
        )
    return Change(
        attempt.recipient,
        Event.REFUSED,
        attempt.reason,
        attempt.reply,
        attempt.status,
        attempt.reply,
    )


def _overdue(recipient: Recipient) -> Change:
    detail = f"no notification of delivery in time; it was {recipient.state}"
    return Change(recipient.address, Event.TIME_OUT, Reason.DELIVERY_EXPIRED, detail, "5.4.7")
