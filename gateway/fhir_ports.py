"""What the FHIR bridge is handed: where messages leave from, and where their octets lie.

Talks to the database and the body store; implements `fhir_bridge.ports`.

Standards:
    AS  Applicability Statement v1.3, section 2 (AS-060)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import BinaryIO, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection

from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge.ports import Body, Submission
from gateway import domains, messages, retention, spool
from gateway.acceptance import NO_PEERS, USUAL, first_job, must_fit
from gateway.messages import Direction, NewMessage, Source
from gateway.peers import Peers
from gateway.ports import BodySink, BodyStore, StoredBody
from gateway.recipients import recipients_of
from gateway.tracking import Windows

__all__ = ["FhirBodies", "FhirOutbox"]

_log = structlog.get_logger(__name__)

# How often a waiting client's message is looked at, in seconds.
SETTLED_POLL_S: Final = 0.02


class FhirBodies:
    """The body store as the bridge sees it (`fhir_bridge.ports.Bodies`)."""

    def __init__(self, *, bodies: BodyStore, clock: Clock) -> None:
        self._bodies = bodies
        self._clock = clock

    def sink(self) -> BodySink:
        """Return a new, empty sink."""
        return self._bodies.sink()

    def open(self, key: str) -> AbstractAsyncContextManager[BinaryIO]:
        """Open a recorded body for reading; seekable."""
        return self._bodies.open(key)

    def record(self, connection: Connection, body: Body) -> None:
        """Record `body`, which came from a sink of ours, in this transaction."""
        spool.record(connection, _ours(body), self._clock())

    def forget(self, connection: Connection, key: str) -> None:
        """Forget a body that no Binary names any more, unless one of our messages does."""
        retention.forget_unnamed(connection, [key])


class FhirOutbox:
    """Where FHIR clients' messages leave from (`fhir_bridge.ports.Outbox`)."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        wake: Callable[[], None],
        windows: Windows = USUAL,
        peers: Peers = NO_PEERS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._wake = wake
        self._windows = windows
        self._peers = peers

    async def submit(
        self, submission: Submission, record: Callable[[Connection, UUID], None]
    ) -> UUID:
        """Commit the message with its first job and return its id.

        Raises:
            DirectError: SENDER_NOT_ALLOWED; not an address of ours. MESSAGE_TOO_BIG; sealed, it
                would fit nowhere. Or what `record` raises.
        """
        now = self._clock()
        news = [self._message(each, now) for each in (submission, *submission.copies)]

        def work(connection: Connection) -> None:
            if not domains.is_local(connection, submission.sender):
                raise DirectError(Reason.SENDER_NOT_ALLOWED, "not an address of ours")
            for new in news:
                messages.accept(connection, new, [first_job("outgoing", new, now)], now)
            record(connection, news[0].id)

        await self._database.write(work)
        for new in news:
            _log.info("message accepted", message=str(new.id), by="fhir", size=new.body.size)
        self._wake()
        return news[0].id

    def _message(self, submission: Submission, now: datetime) -> NewMessage:
        must_fit(submission.content.size, submission.recipients, self._peers)
        return NewMessage(
            id=submission.id or new_id(now),
            direction=Direction.OUTGOING,
            source=Source.FHIR,
            actor="fhir",
            envelope_sender=submission.sender,
            author=submission.sender,
            recipients=submission.recipients,
            body=_ours(submission.content),
            message_id_header=submission.message_id,
            wants_dispatched=submission.wants_dispatched,
            due_at=now + self._windows.of(submission.sender.domain),
        )

    async def settled(self, message: UUID, wait_s: float) -> None:
        """Return when every recipient of `message` has been decided on, or after `wait_s`."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    if await self._database.read(lambda c: _decided(c, message)):
                        return
                    await asyncio.sleep(SETTLED_POLL_S)
        except TimeoutError:
            return


def _ours(body: Body) -> StoredBody:
    if not isinstance(body, StoredBody):
        raise DirectError(Reason.INTERNAL, "the content is not in a sink of ours")
    return body


def _decided(connection: Connection, message: UUID) -> bool:
    return all(
        row.state != "queued" or row.body_key is not None or row.reason is not None
        for row in recipients_of(connection, message)
    )
