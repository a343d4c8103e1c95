"""Put a message where its local recipient reads it: the FHIR inbox, or its own mail server.

Talks to the database through the connection it is handed; making the FHIR view is pure and runs
in a thread.

Standards:
    AS  Applicability Statement v1.3, section 3 (AS-078: the inner message, whatever its shape)
    DN  DN-003, EP-022 of the requirements: dispatched is durable where the recipient reads it
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final, Protocol
from uuid import UUID

import sqlalchemy as sa
from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.address import DirectAddress
from certs.issuers import sha256_of
from fhir_bridge import records
from fhir_bridge.inbound import InboundView, NoticeShown, Reading, view
from fhir_bridge.terms import Terms
from fhir_bridge.trust import Trust as TrustShown
from gateway import audit, queue
from gateway.judgement import Opened
from gateway.locks import lock
from gateway.messages import Direction, MessageState
from gateway.places import Place
from gateway.ports import StoredBody
from gateway.queue import NewJob
from gateway.recipients import set_recipient
from gateway.tables import body, message, recipient
from gateway.tracking import State
from trust_bundles.decision import Verdict

__all__ = ["Arrival", "Copy", "Entry", "Inbox", "Places", "store", "trust_shown"]

# The width of the column, which is for domains.
_DESTINATION_CHARACTERS: Final = 255
_USUAL: Final = Reading()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A readable message: the gateway's id, its durable octets, and what is known of its signer."""

    message: UUID
    content: StoredBody
    message_id: str | None
    trust: TrustShown
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Copy:
    """What one of a pool gets. `view` None: it goes on to that one's own mail server."""

    mailbox: DirectAddress
    view: InboundView | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One recipient's message. `view` None: it goes on to the recipient's own mail server.

    `copies` are for those the recipient forwards to. Nothing is promised to the sender of them:
    what counts is the recipient's own.
    """

    arrival: Arrival
    mailbox: DirectAddress
    view: InboundView | None
    copies: tuple[Copy, ...] = ()

    @property
    def dispatched(self) -> bool:
        """Whether the recipient can read it as soon as the entry is committed (EP-022)."""
        return self.view is not None


class Places(Protocol):
    """Knows where each local address reads its mail."""

    async def place_of(self, mailbox: DirectAddress) -> Place:
        """Return where `mailbox` reads its mail, and who gets copies."""
        ...


class Inbox:
    """Makes what is stored for each local recipient. `shows_notices`: of notifications, too."""

    def __init__(
        self,
        *,
        places: Places,
        terms: Terms,
        reading: Reading = _USUAL,
        shows_notices: bool = False,
    ) -> None:
        self._places = places
        self._terms = terms
        self._reading = reading
        self.shows_notices = shows_notices

    async def entry(self, arrival: Arrival, content: BinaryIO, mailbox: DirectAddress) -> Entry:
        """Return what is to be stored for `mailbox`; `content` holds the message's octets."""
        place = await self._places.place_of(mailbox)
        made = None if place.on_server else await self._view(arrival, content, mailbox)
        copies = []
        for member in place.forward:
            # One step only: those a member forwards to get nothing, so that nothing goes round.
            on_server = (await self._places.place_of(member)).on_server
            view = None if on_server else await self._view(arrival, content, member)
            copies.append(Copy(member, view))
        return Entry(arrival, mailbox, made, tuple(copies))

    async def notice(
        self, arrival: Arrival, content: BinaryIO, mailbox: DirectAddress, told: NoticeShown
    ) -> Entry | None:
        """Return what is to be stored of a notification where they are shown.

        None for those with mail servers, who get reports of our own making (DN-016).
        """
        if (await self._places.place_of(mailbox)).on_server:
            return None
        return Entry(arrival, mailbox, await self._view(arrival, content, mailbox, told))

    async def _view(
        self,
        arrival: Arrival,
        content: BinaryIO,
        mailbox: DirectAddress,
        notice: NoticeShown | None = None,
    ) -> InboundView:
        content.seek(0)
        return await asyncio.to_thread(
            view,
            content,
            message_uuid=arrival.message,
            mailbox=mailbox,
            body_key=arrival.content.key,
            received_at=arrival.received_at,
            trust=arrival.trust,
            terms=self._terms,
            reading=self._reading,
            notice=notice,
        )


def store(connection: sa.Connection, entry: Entry, now: datetime) -> None:
    """Store one entry with its copies, unless this mailbox has the same message already."""
    arrival, mailbox = entry.arrival, entry.mailbox
    if _is_duplicate(connection, entry):
        state = State.DISPATCHED
    else:
        state = _put(connection, arrival, mailbox, entry.view, now, copy=False)
        for each in entry.copies:
            _put(connection, arrival, each.mailbox, each.view, now, copy=True)
    set_recipient(connection, arrival.message, mailbox, state=state.value, now=now)


def _put(
    connection: sa.Connection,
    arrival: Arrival,
    mailbox: DirectAddress,
    made: InboundView | None,
    now: datetime,
    *,
    copy: bool,
) -> State:
    """Store the view, or the job that relays to a mail server."""
    if made is not None:
        identity = records.store_received(connection, made, now)
        # fhir.md 3.3: an import, of which nothing but the resource is said.
        audit.record(
            connection,
            now=now,
            actor="backbone",
            action="communication-received",
            subject=f"Communication/{identity}",
            outcome=arrival.trust.status,
        )
        return State.DISPATCHED
    payload: dict[str, Any] = {
        "message": str(arrival.message),
        "recipient": str(mailbox),
        "body": arrival.content.key,
        "size": arrival.content.size,
        **({"copy": True} if copy else {}),
    }
    destination = mailbox.key[:_DESTINATION_CHARACTERS]
    queue.put(connection, NewJob("relay", payload, now, destination=destination), now)
    return State.PROCESSED


def trust_shown(
    opened: Opened, verdict: Verdict | None, bundle: str | None, now: datetime
) -> TrustShown:
    """Return what a reader is told about the signer; `verdict` is what decided for this one."""
    unsealed, algorithms = opened.unsealed, opened.unsealed.algorithms
    times = (
        s.signing_time for s in unsealed.signers if verdict and s.certificate == verdict.certificate
    )
    return TrustShown(
        status="trusted",
        signer=sha256_of(verdict.certificate).hex() if verdict else None,
        binding=verdict.binding.value if verdict and verdict.binding else None,
        organization=_organization(verdict.certificate) if verdict else None,
        anchor=sha256_of(verdict.anchor).hex() if verdict and verdict.anchor else None,
        bundle=bundle,
        algorithms=f"{algorithms.signature} {algorithms.digest} {algorithms.content_encryption}",
        checked=now,
        signed_at=next(times, None),
        author=opened.facts.author,
        signature=unsealed.signature,
    )


def _organization(certificate: x509.Certificate) -> str | None:
    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if names else None


def _is_duplicate(connection: sa.Connection, entry: Entry) -> bool:
    """Say whether this mailbox has this very message already: a peer may send twice (RFC5321 6.1).

    The same Message-ID over other content is another message.
    """
    if entry.arrival.message_id is None:
        return False
    lock(connection, f"inbox {entry.mailbox.key} {entry.arrival.message_id}")
    values = {
        "the_id": entry.arrival.message,
        "the_header": entry.arrival.message_id,
        "the_mailbox": entry.mailbox.key,
        "the_sha256": entry.arrival.content.sha256,
    }
    return connection.execute(_SAME, values).first() is not None


# By the Message-ID first: a mailbox has many messages, and a Message-ID few. A database without
# statistics would not know, where this was a join.
_OF_MAILBOX: Final = sa.exists().where(
    recipient.c.message_id == message.c.id,
    recipient.c.address_key == sa.bindparam("the_mailbox"),
    # One that failed is not there: sent again, it is delivered.
    sa.or_(recipient.c.state == State.DISPATCHED.value, recipient.c.state == State.PROCESSED.value),
)
_WITH_CONTENT: Final = sa.exists().where(
    body.c.key == message.c.content_key, body.c.sha256 == sa.bindparam("the_sha256")
)
_SAME: Final = (
    sa.select(message.c.id)
    .where(
        message.c.message_id_header == sa.bindparam("the_header"),
        message.c.direction == Direction.INCOMING.value,
        message.c.state == MessageState.FINISHED.value,
        message.c.id != sa.bindparam("the_id"),
        _OF_MAILBOX,
        _WITH_CONTENT,
    )
    .limit(1)
)
