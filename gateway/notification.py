"""Learn from a received MDN or DSN what became of a message of ours.

Talks to the database through the connection it is handed; reading the notice is pure.

Standards:
    AS      Applicability Statement v1.3, section 3 (AS-079, AS-096, AS-097)
    DN      DN-010 to DN-015 of the requirements
    RFC8098 section 3.2, RFC3464 section 2
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO, Final
from uuid import UUID

from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import Reason
from gateway import dsn, mdn, messages, progress, tracking
from gateway.mdn import Disposition
from gateway.message import Facts
from gateway.messages import Kind, Message
from gateway.progress import Change
from gateway.recipients import Recipient, recipients_of
from gateway.tracking import Event, State

__all__ = ["Notice", "kind_of", "learn", "read_notice"]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notification says. `final_destination`: it carries the DNIG field (DN-004)."""

    kind: Kind
    author: DirectAddress
    original_message_id: str | None
    changes: tuple[Change, ...]
    final_destination: bool


def kind_of(facts: Facts) -> Kind:
    """Return what a message is for, by its header."""
    return _KINDS.get(facts.report_type or "", Kind.MESSAGE)


def read_notice(message: BinaryIO, facts: Facts) -> Notice:
    """Return what the decrypted notification in `message` says.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is not the report that its header promises.
    """
    message.seek(0)
    name = messages.kept_id(facts.message_id)
    if kind_of(facts) is Kind.DSN:
        report = dsn.parse(message)
        changes = tuple(
            Change(
                each.recipient,
                Event.DSN_FAILED,
                Reason.BACKBONE_REFUSED,
                "the recipient's HISP reported a failure",
                each.status,
                notice=name,
            )
            for each in report.recipients
            if each.failed and each.recipient is not None
        )
        about = _bracketed(report.original_message_id)
        return Notice(Kind.DSN, facts.author, about, changes, False)
    notice = mdn.parse(message)
    changes = ()
    if notice.final_recipient is not None and notice.disposition is not None:
        change = _change(notice.final_recipient, notice.disposition)
        changes = (replace(change, notice=name, seen=notice.seen),)
    about = _bracketed(notice.original_message_id)
    return Notice(Kind.MDN, facts.author, about, changes, notice.final_destination)


def learn(
    connection: Connection,
    notice: Notice,
    told: Sequence[DirectAddress],
    *,
    now: datetime,
) -> tuple[UUID | None, tuple[Change, ...]]:
    """Move the recipients that `notice` speaks for; return the message it answers, and changes.

    `told` are the addresses that it was sent to. The same Message-ID from another author is
    another message: nobody learns of it, or spoils it, by using its Message-ID.
    """
    if notice.original_message_id is None:
        return None, ()
    sent = [
        _Sent(message, {r.address: r for r in recipients_of(connection, message.id)})
        for message in messages.find_sent(connection, notice.original_message_id, told)
    ]
    if not sent:
        return None, ()
    meant: dict[UUID, tuple[Message, list[Change]]] = {}
    for change in notice.changes:
        one = _meant(sent, change) if _may_speak(notice, change.address) else None
        if one is not None and _counts(notice, one.message, change):
            meant.setdefault(one.message.id, (one.message, []))[1].append(change)
    applied = [
        change
        for message, changes in meant.values()
        for change in progress.advance(connection, message, changes, now=now)
    ]
    return next(iter(meant), sent[-1].message.id), tuple(applied)


@dataclass(frozen=True, slots=True)
class _Sent:
    message: Message
    recipients: Mapping[DirectAddress, Recipient]

    def moves(self, change: Change) -> bool:
        state = State(self.recipients[change.address].state)
        wanted = self.message.wants_dispatched
        return tracking.advance(state, change.event, wants_dispatched=wanted) is not None

    def left(self, address: DirectAddress) -> bool:
        return self.recipients[address].state != State.QUEUED.value


def _meant(sent: Iterable[_Sent], change: Change) -> _Sent | None:
    """Return which of several messages under one Message-ID the notice is about.

    What was never sealed for the recipient cannot have reached it. Of the others, the oldest that
    still waits for such a notice; what we know to have left comes before what may be on its way.
    """
    reached = [one for one in sent if _sealed(one, change.address)]
    waiting = [one for one in reached if one.moves(change)]
    left = [one for one in waiting if one.left(change.address)]
    return next(iter((*left, *waiting, *reversed(reached))), None)


def _sealed(one: _Sent, address: DirectAddress) -> bool:
    return address in one.recipients and one.recipients[address].body_key is not None


def _counts(notice: Notice, original: Message, change: Change) -> bool:
    # DN-010: in mode B only a dispatched notice with the field completes the message.
    wanting = original.wants_dispatched and not notice.final_destination
    return not (wanting and change.event is Event.MDN_DISPATCHED)


def _bracketed(message_id: str | None) -> str | None:
    # AS-096: some leave the angle brackets out.
    if message_id is None or message_id.startswith("<"):
        return message_id
    return f"<{message_id}>"


def _may_speak(notice: Notice, recipient: DirectAddress) -> bool:
    # AS-097: a notice speaks for its author only; a DSN of the mail system speaks for its domain.
    # Nobody else there does: a colleague must not make a message look undelivered.
    author = notice.author
    if author == recipient:
        return True
    speaks_for_domain = notice.kind is Kind.DSN and author.local_part.lower() in _MAIL_SYSTEM
    return speaks_for_domain and author.domain == recipient.domain


def _change(recipient: DirectAddress, disposition: Disposition) -> Change:
    event = _EVENTS[disposition]
    if event is not Event.MDN_FAILED:
        return Change(recipient, event)
    return Change(
        recipient, event, Reason.BACKBONE_REFUSED, "the recipient's HISP could not deliver it"
    )


# RFC5321 4.5.1, and what mail servers sign their reports with.
_MAIL_SYSTEM: Final = frozenset({"postmaster", "mailer-daemon"})
_KINDS: Final = {"disposition-notification": Kind.MDN, "delivery-status": Kind.DSN}
_EVENTS: Final = {
    Disposition.PROCESSED: Event.MDN_PROCESSED,
    Disposition.DISPATCHED: Event.MDN_DISPATCHED,
    Disposition.FAILED: Event.MDN_FAILED,
}
