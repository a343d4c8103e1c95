"""Learn from a received MDN or DSN what became of a message of ours.

Talks to the database through the connection it is handed; reading the notice is pure.

Standards:
    AS      Applicability Statement v1.3, section 3 (AS-079, AS-096, AS-097)
    DN      DN-010 to DN-015 of the requirements
    RFC8098 section 3.2, RFC3464 section 2
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Final
from uuid import UUID

from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import Reason
from gateway import dsn, mdn, messages, progress
from gateway.mdn import Disposition
from gateway.message import Facts
from gateway.messages import Kind
from gateway.progress import Change
from gateway.tracking import Event

__all__ = ["Notice", "learn", "read_notice"]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notification says. `final_destination`: it carries the DNIG field (DN-004)."""

    kind: Kind
    author: DirectAddress
    original_message_id: str | None
    changes: tuple[Change, ...]
    final_destination: bool


def read_notice(message: BinaryIO, facts: Facts) -> Notice:
    """Return what the decrypted notification in `message` says.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is not the report that its header promises.
    """
    message.seek(0)
    if facts.report_type == "delivery-status":
        report = dsn.parse(message)
        changes = tuple(
            Change(
                each.recipient,
                Event.DSN_FAILED,
                Reason.BACKBONE_REFUSED,
                "the recipient's HISP reported a failure",
                each.status,
            )
            for each in report.recipients
            if each.failed and each.recipient is not None
        )
        return Notice(Kind.DSN, facts.author, report.original_message_id, changes, False)
    notice = mdn.parse(message)
    changes = ()
    if notice.final_recipient is not None and notice.disposition is not None:
        changes = (_change(notice.final_recipient, notice.disposition),)
    return Notice(
        Kind.MDN, facts.author, notice.original_message_id, changes, notice.final_destination
    )


def learn(
    connection: Connection, notice: Notice, *, now: datetime, window: timedelta
) -> tuple[UUID | None, tuple[Change, ...]]:
    """Move the recipients that `notice` speaks for; return the message it answers, and changes."""
    if notice.original_message_id is None:
        return None, ()
    original = messages.find_outgoing(connection, notice.original_message_id)
    if original is None or original.kind is not Kind.MESSAGE:
        return None, ()
    changes = [
        change
        for change in notice.changes
        if _may_speak(notice, change.address)
        and not (
            # DN-010: in mode B only a dispatched notice with the field completes the message.
            original.wants_dispatched
            and change.event is Event.MDN_DISPATCHED
            and not notice.final_destination
        )
    ]
    applied = progress.advance(connection, original, changes, now=now, window=window)
    return original.id, applied


def _may_speak(notice: Notice, recipient: DirectAddress) -> bool:
    # AS-097: an MDN speaks for its author only. A DSN comes from a postmaster of the domain.
    if notice.kind is Kind.MDN:
        return notice.author == recipient
    return notice.author.domain == recipient.domain


def _change(recipient: DirectAddress, disposition: Disposition) -> Change:
    event = _EVENTS[disposition]
    if event is not Event.MDN_FAILED:
        return Change(recipient, event)
    return Change(
        recipient, event, Reason.BACKBONE_REFUSED, "the recipient's HISP could not deliver it"
    )


_EVENTS: Final = {
    Disposition.PROCESSED: Event.MDN_PROCESSED,
    Disposition.DISPATCHED: Event.MDN_DISPATCHED,
    Disposition.FAILED: Event.MDN_FAILED,
}
