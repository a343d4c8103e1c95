"""Messages and what became of each recipient.

Talks to the database through the connection it is handed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress, parse_address
from certs.errors import Reason
from gateway import audit, spool
from gateway.begun import put_all
from gateway.locks import lock
from gateway.notify import USUAL_WISH, Wish, stored_wish
from gateway.ports import StoredBody
from gateway.queue import Job, NewJob
from gateway.tables import message, recipient

__all__ = [
    "Direction",
    "Kind",
    "Message",
    "MessageState",
    "NewMessage",
    "Source",
    "accept",
    "find_sent",
    "get",
    "kept_id",
    "list_messages",
    "set_outcome",
]


# The column's width: the longest line that a Message-ID can be in (RFC5322 2.1.1).
_MESSAGE_ID_CHARACTERS: Final = 998


class Direction(Enum):
    """Seen from the domains we serve."""

    OUTGOING = "outgoing"
    INCOMING = "incoming"


class Source(Enum):
    """Who gave us the message."""

    EDGE = "edge"  # a user's system, by SMTP submission
    FHIR = "fhir"
    BACKBONE = "backbone"  # another HISP
    AGENT = "agent"  # our own STA: notifications


class Kind(Enum):
    """What the message is for."""

    MESSAGE = "message"
    MDN = "mdn"
    DSN = "dsn"


class MessageState(Enum):
    """How far we are with the message as a whole."""

    RECEIVED = "received"
    PROCESSING = "processing"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to accept.

    `dedupe_key` is the SHA-256 of envelope, Message-ID and body: the same submission has the same
    key. `actor` goes into the audit event: the user, client or peer that it came from.
    """

    id: UUID
    direction: Direction
    source: Source
    actor: str
    envelope_sender: DirectAddress | None
    recipients: Sequence[DirectAddress]
    body: StoredBody
    kind: Kind = Kind.MESSAGE
    author: DirectAddress | None = None
    message_id_header: str | None = None
    wants_dispatched: bool = False
    dedupe_key: str | None = None
    parent: UUID | None = None
    recipient_state: str = "queued"
    due_at: datetime | None = None  # when a recipient is late of whom nothing is heard
    envelope_id: str | None = None
    wishes: Mapping[DirectAddress, Wish] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is stored. `size` is in octets; `evidence` is about the signer."""

    id: UUID
    direction: Direction
    source: Source
    kind: Kind
    state: MessageState
    envelope_sender: DirectAddress | None
    author: DirectAddress | None
    message_id_header: str | None
    body_key: str | None
    content_key: str | None
    size: int
    wants_dispatched: bool
    reason: Reason | None
    detail: str | None
    evidence: Mapping[str, Any] | None
    dedupe_key: str | None
    received_at: datetime
    finished_at: datetime | None
    parent: UUID | None
    envelope_id: str | None = None


def accept(
    connection: sa.Connection, new: NewMessage, jobs: Sequence[NewJob | Job], now: datetime
) -> tuple[UUID, bool]:
    """Write message, body, recipients, first jobs (a `Job` is a begun one) and audit event.

    Returns its id and True, or, where its dedupe key is known, the id it has and False: then
    nothing is written. A peer that heard no answer sends again (RFC5321 6.1).
    """
    if new.dedupe_key is not None:
        lock(connection, f"message {new.dedupe_key}")
        known = connection.execute(_BY_DEDUPE_KEY, {"key": new.dedupe_key}).scalar()
        if known is not None:
            return known, False
    spool.record(connection, new.body, now)
    connection.execute(_ADD_MESSAGE, _message_row(new, now))
    connection.execute(_ADD_RECIPIENTS, _recipient_rows(new, now))
    put_all(connection, jobs, now)
    audit.record(
        connection,
        now=now,
        actor=new.actor,
        action="message-accepted",
        subject=str(new.id),
        outcome=new.direction.value,
    )
    return new.id, True


def _message_row(new: NewMessage, now: datetime) -> dict[str, object]:
    return {
        "id": new.id,
        "direction": new.direction.value,
        "source": new.source.value,
        "kind": new.kind.value,
        "state": MessageState.RECEIVED.value,
        "envelope_sender": _text(new.envelope_sender),
        "envelope_id": new.envelope_id,
        "author": _text(new.author),
        "message_id_header": new.message_id_header,
        "body_key": new.body.key,
        "size": new.body.size,
        "wants_dispatched": new.wants_dispatched,
        "dedupe_key": new.dedupe_key,
        "received_at": now,
        "parent": new.parent,
    }


def _recipient_rows(new: NewMessage, now: datetime) -> list[dict[str, object]]:
    return [
        {
            "message_id": new.id,
            "ordinal": ordinal,
            "address": str(address),
            "address_key": address.key,
            "state": new.recipient_state,
            "updated_at": now,
            "due_at": new.due_at,
            **stored_wish(new.wishes.get(address, USUAL_WISH)),
        }
        for ordinal, address in enumerate(dict.fromkeys(new.recipients))
    ]


def get(connection: sa.Connection, message_id: UUID) -> Message | None:
    """Return the message with this id."""
    row = connection.execute(_BY_ID, {"the_id": message_id}).first()
    return _message(row) if row else None


def find_sent(
    connection: sa.Connection, message_id_header: str, told: Sequence[DirectAddress]
) -> Sequence[Message]:
    """Return what `told`, else others of their domain, sent under this Message-ID, oldest first."""
    sent = [_message(r) for r in connection.execute(_SENT, {"the_header": message_id_header})]
    theirs = [m for m in sent if m.author in told or m.envelope_sender in told]
    domains = {address.domain for address in told}
    return theirs or [m for m in sent if m.author is not None and m.author.domain in domains]


def list_messages(
    connection: sa.Connection,
    *,
    limit: int,
    direction: Direction | None = None,
    state: MessageState | None = None,
    after: UUID | None = None,
) -> Sequence[Message]:
    """Return the newest messages that match, newest first; `after` continues a listing."""
    query = sa.select(*_MESSAGE).order_by(message.c.id.desc()).limit(limit)
    if direction is not None:
        query = query.where(message.c.direction == direction.value)
    if state is not None:
        query = query.where(message.c.state == state.value)
    if after is not None:
        query = query.where(message.c.id < after)
    return [_message(row) for row in connection.execute(query)]


def set_outcome(
    connection: sa.Connection,
    message_id: UUID,
    *,
    state: MessageState,
    now: datetime,
    reason: Reason | None = None,
    detail: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    content: StoredBody | None = None,
    kind: Kind | None = None,
    author: DirectAddress | None = None,
    message_id_header: str | None = None,
    wants_dispatched: bool | None = None,
    parent: UUID | None = None,
) -> None:
    """Move the message to `state`; what else was learnt is written, what is None is left alone.

    `content` is the decrypted message, or the prepared one; its row is written too.
    """
    if content is not None:
        spool.record(connection, content, now)
    learnt = {
        "reason": reason and reason.code,
        "detail": detail,
        "evidence": evidence,
        "content_key": content and content.key,
        "kind": kind and kind.value,
        "author": _text(author),
        "message_id_header": message_id_header,
        "wants_dispatched": wants_dispatched,
        "parent": parent,
        "finished_at": now if state in (MessageState.REFUSED, MessageState.FINISHED) else None,
    }
    values = {name: value for name, value in learnt.items() if value is not None}
    connection.execute(_CHANGE, {"the_id": message_id, "state": state.value, **values})


def kept_id(message_id: str | None) -> str | None:
    """Return a Message-ID as it is kept: a peer's may be of any length, and is not cut."""
    fits = message_id is not None and len(message_id) <= _MESSAGE_ID_CHARACTERS
    return message_id if fits else None


def _message(row: sa.Row[Any]) -> Message:
    values = dict(row._mapping)
    values["direction"] = Direction(row.direction)
    values["source"] = Source(row.source)
    values["kind"] = Kind(row.kind)
    values["state"] = MessageState(row.state)
    values["envelope_sender"] = _address(row.envelope_sender)
    values["author"] = _address(row.author)
    values["reason"] = row.reason and Reason.of(row.reason)
    return Message(**values)


def _address(text: str | None) -> DirectAddress | None:
    return parse_address(text) if text is not None else None


def _text(address: DirectAddress | None) -> str | None:
    return str(address) if address is not None else None


_MESSAGE: Final = tuple(message.c)
_ADD_MESSAGE: Final = message.insert()
_ADD_RECIPIENTS: Final = recipient.insert()
_BY_DEDUPE_KEY: Final = sa.select(message.c.id).where(message.c.dedupe_key == sa.bindparam("key"))
_CHANGE: Final = message.update().where(message.c.id == sa.bindparam("the_id"))
_BY_ID: Final = sa.select(*_MESSAGE).where(message.c.id == sa.bindparam("the_id"))
_SENT: Final = (
    sa.select(*_MESSAGE)
    .order_by(message.c.id)
    .where(
        message.c.message_id_header == sa.bindparam("the_header"),
        message.c.direction == Direction.OUTGOING.value,
        message.c.kind == Kind.MESSAGE.value,
    )
)
