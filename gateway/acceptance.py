"""Take a message over: commit it with its first job, and only then say 250 or 201.

Talks to the database and the body store. What can be judged without a look-up is judged here;
everything else is the pipeline's, after the message is safe.

Standards:
    RFC5321 sections 4.2.5 and 6.1 (whose message it is after 250), 6.3 (loops)
    AS      Applicability Statement v1.3, sections 2 and 3 (AS-026, AS-029, AS-060, AS-070)
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from gateway import audit, domains, mdn, messages
from gateway.answers import as_accepted
from gateway.begun import Taker
from gateway.header import HEADER_OCTETS, Field, parse_header, read_header
from gateway.message import Facts, facts_from
from gateway.messages import Direction, Kind, NewMessage, Source
from gateway.notification import kind_of
from gateway.notify import Notify
from gateway.peers import Peers
from gateway.ports import BodySink, BodyStore, Envelope, Role, Session, StoredBody
from gateway.queue import Job, NewJob
from gateway.recent import Recent
from gateway.tracking import Windows

__all__ = [
    "NO_PEERS",
    "USUAL",
    "HeadKeepingSink",
    "SmtpReception",
    "dedupe_key",
    "first_job",
    "must_fit",
]

_log = structlog.get_logger(__name__)

NO_PEERS: Final = Peers()
USUAL: Final = Windows()

# RFC5321 6.3: a message that has passed so many hosts goes in circles.
RECEIVED_LINES: Final = 50
# Argon2id takes its time and memory on purpose; who guesses passwords must not have all threads.
PASSWORDS_AT_A_TIME: Final = 2
# With the name of its field it must fit into one line of each notice about the message, where a
# line has 998 octets at most (RFC5322 2.1.1).
MESSAGE_ID_OCTETS: Final = 900


class HeadKeepingSink:
    """A body sink that also keeps the first octets, so that the header can be judged at once."""

    def __init__(self, sink: BodySink) -> None:
        self._sink = sink
        self._head = bytearray()

    @property
    def size(self) -> int:
        """Octets written so far."""
        return self._sink.size

    @property
    def head(self) -> bytes:
        """The first octets, at most the header's limit and one chunk."""
        return bytes(self._head)

    def write(self, data: bytes | memoryview) -> int:
        """Take the next octets."""
        if len(self._head) <= HEADER_OCTETS:
            self._head += data[: HEADER_OCTETS + 1 - len(self._head)]
        return self._sink.write(data)

    async def finish(self) -> StoredBody:
        """Make the body durable and describe it."""
        return await self._sink.finish()

    async def discard(self) -> None:
        """Forget the body."""
        await self._sink.discard()


class SmtpReception:
    """What both SMTP listeners ask of the gateway (`gateway.ports.Reception`).

    Who may send and whom there is are believed for as long as `believed` once they were looked
    up: that is two of three look-ups for a client with many messages. The commit looks again.
    """

    def __init__(
        self,
        *,
        database: Database,
        bodies: BodyStore,
        clock: Clock,
        wake: Callable[[], None],
        windows: Windows = USUAL,
        peers: Peers = NO_PEERS,
        believed: timedelta = timedelta(0),
        taker: Taker | None = None,
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._clock = clock
        self._wake = wake
        self._windows = windows
        self._peers = peers
        self._passwords = asyncio.Semaphore(PASSWORDS_AT_A_TIME)
        self._recent = Recent(believed)
        self._taker = taker

    async def authenticate(self, user: str, password: str) -> bool:
        """Say whether the edge user may come in."""
        stored = await self._database.read(lambda c: domains.edge_user_hash(c, user))
        async with self._passwords:  # in a thread, and not in the database's
            known = await asyncio.to_thread(domains.password_matches, stored, password)
        await self._database.write(
            lambda c: audit.record(
                c,
                now=self._clock(),
                actor=f"edge:{user}"[:320],
                action="login",
                subject="edge",
                outcome="success" if known else "failure",
            )
        )
        return known

    async def check_sender(self, session: Session, sender: DirectAddress | None) -> None:
        """Return where this session may send as `sender`.

        Raises:
            DirectError: SENDER_NOT_ALLOWED; at the edge only a user's own address (AS-060), and
                never the null reverse-path.
        """
        if session.role is not Role.EDGE:
            return
        now, fact = self._clock(), (session.user, sender)
        if not self._recent.holds(fact, now):
            await self._database.read(lambda c: _may_send(c, session, sender))
            self._recent.found(fact, now)

    async def check_recipient(self, session: Session, recipient: DirectAddress) -> None:
        """Return where this session may send to `recipient`.

        Raises:
            DirectError: RECIPIENT_UNKNOWN; a domain of ours has no such address (AS-070).
                RELAY_REFUSED; the backbone takes mail for our own domains only (R-011).
        """
        now, fact = self._clock(), (session.role, recipient)
        if self._recent.holds(fact, now):
            return
        known, ours = await self._database.read(lambda c: _local(c, recipient))
        if ours and not known:
            raise DirectError(Reason.RECIPIENT_UNKNOWN, "no such address here")
        if not ours and session.role is Role.BACKBONE:
            raise DirectError(Reason.RELAY_REFUSED, "not a domain of ours")
        self._recent.found(fact, now)

    def sink(self) -> BodySink:
        """Return where the content goes as it arrives."""
        return HeadKeepingSink(self._bodies.sink())

    async def accept(self, session: Session, envelope: Envelope, content: BodySink) -> UUID:
        """Commit the message with its first job and return its id.

        Raises:
            DirectError: MESSAGE_MALFORMED, ENVELOPE_MISMATCH, SENDER_NOT_ALLOWED; MESSAGE_TOO_BIG
                where it would fit nowhere, sealed; INTERNAL where it could not be made durable.
        """
        if not isinstance(content, HeadKeepingSink):
            raise DirectError(Reason.INTERNAL, "the content is not in a sink of ours")
        now = self._clock()
        header = read_header(io.BytesIO(content.head))
        fields = parse_header(header)
        if sum(1 for field in fields if field.name == "received") > RECEIVED_LINES:
            raise DirectError(Reason.MESSAGE_MALFORMED, "too many hops")
        if session.role is Role.EDGE:
            facts = _facts_of_submission(header, fields)
            new = await self._submitted(session, envelope, content, facts, now)
        else:
            new = await _relayed(session, envelope, content, now)
        accepted = await self._commit(session, new, now)
        _log.info(
            "message accepted", message=str(accepted), by=session.role.value, size=content.size
        )
        return accepted

    async def _submitted(
        self,
        session: Session,
        envelope: Envelope,
        content: HeadKeepingSink,
        facts: Facts,
        now: datetime,
    ) -> NewMessage:
        """Return a message of one of our users, its header judged."""
        # AS-029: the receiving HISP refuses what we would let pass here. Whether the author is one
        # of the user's is otherwise seen to by the commit.
        if envelope.sender not in (facts.author, facts.sender):
            await self._database.read(lambda c: _may_send(c, session, facts.author))
            raise DirectError(Reason.ENVELOPE_MISMATCH, "MAIL FROM is neither From nor Sender")
        # AS-030: on the backbone there is no Bcc; the user sends such a copy as its own message.
        named = {*facts.to, *facts.cc}
        if any(address not in named for address in envelope.recipients):
            raise DirectError(Reason.ENVELOPE_MISMATCH, "RCPT TO is in neither To nor Cc")
        must_fit(content.size, envelope.recipients, self._peers)
        identifier = new_id(now)
        kind = kind_of(facts)
        body = await content.finish()
        return NewMessage(
            id=identifier,
            direction=Direction.OUTGOING,
            source=Source.EDGE,
            actor=f"edge:{session.user}",
            kind=kind,
            envelope_sender=envelope.sender,
            author=facts.author,
            recipients=envelope.recipients,
            body=body,
            # AS-026: an edge message without a Message-ID gets one before it is wrapped.
            message_id_header=facts.message_id or f"<{identifier}@{facts.author.domain}>",
            wants_dispatched=mdn.wants_dispatched(facts.notification_options),
            dedupe_key=dedupe_key(envelope, facts.message_id, body),
            envelope_id=envelope.envelope_id,
            wishes=envelope.wishes,
            # DN-008: nobody answers a notification.
            due_at=now + self._windows.of(facts.author.domain) if kind is Kind.MESSAGE else None,
        )

    async def _commit(self, session: Session, new: NewMessage, now: datetime) -> UUID:
        kind = "outgoing" if new.direction is Direction.OUTGOING else "incoming"
        first = first_job(kind, new, now)
        begun = self._taker.begin(first) if self._taker is not None else None
        jobs: list[NewJob | Job] = [begun or first]
        delay_counts = any(Notify.DELAY in wish.notify for wish in new.wishes.values())
        if delay_counts and new.kind is Kind.MESSAGE:  # DN-022
            jobs.append(first_job("delayed", new, now + self._windows.delay))

        def work(connection: Connection) -> tuple[UUID, bool]:
            if session.role is Role.EDGE:
                _may_send(connection, session, new.author)
            return messages.accept(connection, new, jobs, now)

        is_new = False
        try:
            accepted, is_new = await self._database.write(work)
        finally:
            if self._taker is not None and begun is not None:
                if is_new:
                    self._taker.start(begun, as_accepted(new, now))
                else:
                    self._taker.leave(begun)
        if begun is None:
            self._wake()
        return accepted


def _may_send(connection: Connection, session: Session, address: DirectAddress | None) -> None:
    """Return where the session's user may send as `address`.

    Raises:
        DirectError: SENDER_NOT_ALLOWED.
    """
    user = session.user
    if user is None or address is None or not domains.may_send_as(connection, user, address):
        raise DirectError(Reason.SENDER_NOT_ALLOWED, f"{user} may not send as {address}")


def must_fit(size: int, recipients: Sequence[DirectAddress], peers: Peers) -> None:
    """Return where a message of `size` octets, sealed, is not too large for everybody.

    A message that is for some is accepted, and fails for the others. One that is not canonical
    grows before it is sealed; it is judged again then.

    Raises:
        DirectError: MESSAGE_TOO_BIG.
    """
    if not peers.fits(size, Counter(recipient.domain for recipient in recipients)):
        raise DirectError(Reason.MESSAGE_TOO_BIG, f"{size} octets are too many when sealed")


def dedupe_key(envelope: Envelope, message_id: str | None, body: StoredBody) -> str | None:
    """Return what a repeated submission has in common with the first (RFC5321 6.1).

    None where there is no Message-ID: two equal messages without one are two messages.
    """
    if message_id is None:
        return None
    parts = [
        envelope.sender.key if envelope.sender else "",
        *sorted(address.key for address in envelope.recipients),
        message_id,
        body.sha256,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


async def _relayed(
    session: Session, envelope: Envelope, content: HeadKeepingSink, now: datetime
) -> NewMessage:
    """Return a message from another HISP; all but its envelope is judged after it is safe."""
    body = await content.finish()
    return NewMessage(
        id=new_id(now),
        direction=Direction.INCOMING,
        source=Source.BACKBONE,
        actor=f"smtp:{session.peer}",
        envelope_sender=envelope.sender,
        recipients=envelope.recipients,
        body=body,
        # The sealed octets differ even for the same message sealed twice.
        dedupe_key=dedupe_key(envelope, "backbone", body),
    )


def _local(connection: Connection, recipient: DirectAddress) -> tuple[bool, bool]:
    """Say whether we serve the address, and whether we serve its domain."""
    known = domains.is_local(connection, recipient)
    return known, known or domains.is_local_domain(connection, recipient.domain)


def _facts_of_submission(header: bytes, fields: Sequence[Field]) -> Facts:
    if not header.isascii():
        # AS-032: it needs SMTPUTF8, which Direct has not.
        raise DirectError(Reason.MESSAGE_MALFORMED, "the header is not ASCII")
    facts = facts_from(fields)
    if facts.message_id is not None and len(facts.message_id) > MESSAGE_ID_OCTETS:
        raise DirectError(Reason.MESSAGE_MALFORMED, "the Message-ID is too long")
    return facts


def first_job(kind: str, new: NewMessage, now: datetime) -> NewJob:
    """Return a job that takes up a new message at `now`: outgoing, incoming or delayed."""
    return NewJob(kind, {"message": str(new.id)}, now)
