"""Deliver to our own users: what became of their messages, and mail to their mail servers.

Talks to the database and the body store, and to SMTP through its port. A method is the handler of
one kind of job.

Standards:
    DN      DN-003, DN-006, DN-016, DN-020, DN-023 of the requirements
    RFC3464 section 2, RFC3461 section 4.1, RFC5321 section 4.5.5 (the null reverse-path)
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any, BinaryIO, Final

from sqlalchemy import Connection

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.trust import Trust as TrustShown
from gateway import messages, timeline
from gateway.dsn import Action, Outcome
from gateway.header import read_header
from gateway.inbox import Arrival, Inbox, store
from gateway.mdn import Disposition
from gateway.message import facts_of
from gateway.messages import Kind, Message, MessageState, NewMessage
from gateway.notices import Notices
from gateway.notify import Notify
from gateway.outcomes import Task, load, must_go_on, send
from gateway.ports import Attempt, BodyStore, Delivery, RetryAt, Sender
from gateway.queue import Job
from gateway.recipients import Recipient, set_recipient
from gateway.results import Done, Result, Retry
from gateway.status import REPLIES, Reply
from gateway.tracking import State

__all__ = ["EdgeDelivery"]

_UNREACHED: Final = Reply(451, "4.4.1", "The recipient's system cannot be reached")


class EdgeDelivery:
    """Brings messages to where local users read them.

    `answer_by` is the patience with what a sender waits to hear of (DN-006); `retry_at` is that
    with everything else.
    """

    def __init__(
        self,
        *,
        database: Database,
        bodies: BodyStore,
        sender: Sender,
        inbox: Inbox,
        notices: Notices,
        clock: Clock,
        retry_at: RetryAt,
        answer_by: RetryAt,
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._sender = sender
        self._inbox = inbox
        self._notices = notices
        self._clock = clock
        self._retry_at = retry_at
        self._answer_by = answer_by

    async def report(self, job: Job) -> Result:
        """Tell the author of a message, by DSN, what became of it, and why."""
        task = await self._database.read(lambda c: load(c, job))
        return await self._tell(task, [_outcome(item) for item in job.payload["outcomes"]])

    async def delayed(self, job: Job) -> Result:
        """Tell the author of a message, who asked for it, which recipients have it not yet."""
        task = await self._database.read(lambda c: load(c, job))
        waiting = [_delayed(r) for r in task.recipients if _is_delayed(r)]
        return await self._tell(task, waiting) if waiting else Done()

    async def _tell(self, task: Task, outcomes: Sequence[Outcome]) -> Result:
        now = self._clock()
        header = await self._header(task)
        new, text = await self._notices.dsn(task.message, header, outcomes, now)
        return await self._bring(new, text, task.author, now)

    async def confirm(self, job: Job) -> Result:
        """Tell the author of a message, who asked for it, that a recipient has it (DN-016)."""
        now = self._clock()
        task = await self._database.read(lambda c: load(c, job))
        recipient = parse_address(job.payload["recipient"])
        header = await self._header(task)
        new, text = await self._notices.confirmation(task.message, header, recipient, now)
        return await self._bring(new, text, task.author, now)

    async def _header(self, task: Task) -> bytes:
        async with self._bodies.open(task.body_key) as submitted:
            return await asyncio.to_thread(read_header, submitted)

    async def _bring(
        self, new: NewMessage, text: bytes, reader: DirectAddress, now: datetime
    ) -> Result:
        """Store a notice of our own where its reader reads, once."""
        shown = TrustShown("local", None, None, None, None, None, None, now)
        arrival = Arrival(new.id, new.body, new.message_id_header, shown, now)
        entry = await self._inbox.entry(arrival, io.BytesIO(text), reader)

        def record(connection: Connection) -> None:
            _, created = messages.accept(connection, new, [], now)
            if created:
                store(connection, entry, now)
                messages.set_outcome(connection, new.id, state=MessageState.FINISHED, now=now)

        return Done(record)

    async def relay(self, job: Job) -> Result:
        """Hand a message to its recipient's own mail server; dispatched after its 250 (DN-003)."""
        task = await self._database.read(lambda c: load(c, job))
        mailbox = parse_address(job.payload["recipient"])
        if "copy" not in job.payload and not _is_under_way(task, mailbox):
            return Done()
        async with self._bodies.open(job.payload["body"]) as content:
            facts = await asyncio.to_thread(facts_of, content, task.message.author)
            content.seek(0)
            delivery = await self._send(job, task, mailbox, content)
        now = self._clock()
        [attempt] = delivery.attempts
        answerable = _answerable(task.message) and "copy" not in job.payload
        again_at = self._answer_by if answerable else self._retry_at
        due = again_at(job.attempts, task.message.received_at, now)
        if attempt.reason is not None and attempt.reason.retryable and due is not None:
            return Retry(
                due,
                attempt.reason,
                attempt.reply,
                lambda c: timeline.add_attempts(c, task.message.id, delivery, now),
                delivery.answered,
            )
        if "copy" in job.payload:
            # A pool's copy: what becomes of it is in the timeline, and the sender's business never.
            return Done(lambda c: timeline.add_attempts(c, task.message.id, delivery, now))
        delivered = attempt.reason is None
        answers = []
        if answerable and (not delivered or task.message.wants_dispatched):
            # DN-006: a trusted message that cannot be delivered fails, asked for or not.
            disposition = Disposition.DISPATCHED if delivered else Disposition.FAILED
            answers = [
                await self._notices.mdn(
                    disposition, parent=task.message.id, original=facts, recipient=mailbox, now=now
                )
            ]

        def record(connection: Connection) -> None:
            timeline.add_attempts(connection, task.message.id, delivery, now)
            set_recipient(
                connection,
                task.message.id,
                mailbox,
                state=(State.DISPATCHED if delivered else State.FAILED).value,
                now=now,
                reason=attempt.reason,
                detail=None if delivered else attempt.reply,
                status=attempt.status,
            )
            for answer in answers:
                send(connection, answer, now)

        return Done(record)

    async def _send(
        self, job: Job, task: Task, mailbox: DirectAddress, content: BinaryIO
    ) -> Delivery:
        try:
            must_go_on(job)
        except DirectError as error:
            given_up = Attempt(mailbox, error.reason, "5.4.7", error.detail)
            return Delivery((given_up,), "", None, False)
        return await self._sender.send(
            domain=job.destination,
            sender=task.message.envelope_sender,
            recipients=[mailbox],
            message=content,
            size=job.payload["size"],
        )


def _is_under_way(task: Task, mailbox: DirectAddress) -> bool:
    """Say whether nothing final is known of the delivery: what was told stays true (DN-014)."""
    states = {recipient.address: recipient.state for recipient in task.recipients}
    return states.get(mailbox) == State.PROCESSED.value


def _answerable(message: Message) -> bool:
    # AS-091: nothing is said about a notification, about a report of our own, or to nobody.
    return message.kind is Kind.MESSAGE and message.envelope_sender is not None


def _outcome(item: dict[str, Any]) -> Outcome:
    return Outcome(
        recipient=parse_address(item["recipient"]),
        status=item["status"],
        text=item["text"],
        action=Action(item["action"]),
        original=item["original"],
    )


def _is_delayed(recipient: Recipient) -> bool:
    # RFC3464 2.3.3: what the next host has is not delayed any more, as far as we know.
    return recipient.state == State.QUEUED.value and Notify.DELAY in recipient.wish.notify


def _delayed(recipient: Recipient) -> Outcome:
    waits_for = REPLIES[recipient.reason or Reason.BACKBONE_UNAVAILABLE] or _UNREACHED
    return Outcome(
        recipient=recipient.address,
        status=waits_for.status,
        text=waits_for.text,
        action=Action.DELAYED,
        original=recipient.wish.original,
        until=recipient.due_at,
    )
