"""Move the recipients of a sent message on, and let everybody who must know know.

Talks to the database through the connection it is handed: state, report job, FHIR resource and
audit event change in the caller's one transaction, so the sender hears of an outcome exactly once.

Standards:
    DN-010 to DN-015 of the requirements: per recipient, one terminal outcome, late notices ignored
    AS-067  what is kept for each sent message
    RFC3461 sections 4.1 and 5.2 (of what a sender at the mail edge is told)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import Reason
from fhir_bridge import records
from fhir_bridge.delivery import RecipientState
from gateway import audit, messages, queue, tracking
from gateway.dsn import Action
from gateway.held import held
from gateway.mdn import Seen
from gateway.messages import Kind, Message, MessageState, Source
from gateway.notify import Notify
from gateway.queue import NewJob
from gateway.recipients import Recipient, recipients_of, set_recipient, set_seen
from gateway.status import REPLIES
from gateway.tracking import Event, State

__all__ = ["IGNORED", "Change", "advance", "announce", "outcome", "subject_of"]

IGNORED: Final = "ignored"  # the outcome of what changed nothing, in the audit chain
# The width of the column: the longest address does not fit in beside the id.
_SUBJECT_CHARACTERS: Final = 320


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one recipient. `status` is an enhanced code, `text` the peer's own words.

    `notice` is the Message-ID of the notification that says so, and `seen` what else it says.
    """

    address: DirectAddress
    event: Event
    reason: Reason | None = None
    detail: str | None = None
    status: str | None = None
    text: str | None = None
    notice: str | None = None
    seen: Seen | None = None


def advance(
    connection: Connection,
    message: Message,
    changes: Sequence[Change],
    *,
    now: datetime,
) -> tuple[Change, ...]:
    """Return those of `changes` that changed something; the others came late or twice (DN-014)."""
    if not changes:
        return ()
    # Of two outcomes that are told at once, over two connections, the second is to see the first;
    # and neither may hold a recipient's row while it waits for its turn in the audit chain.
    audit.take_turn(connection)
    by_address = {r.address: r for r in recipients_of(connection, message.id)}
    applied = tuple(
        change
        for change in changes
        if change.address in by_address
        and _move(connection, message, by_address[change.address], change, now)
    )
    seen = [change for change in changes if _see(connection, message, change, now)]
    if applied:
        rows = recipients_of(connection, message.id)
        _tell_author(connection, message, applied, rows, now)
        _announce(connection, message, rows, now)
    elif seen:
        _show(connection, message, now)
    return applied


def subject_of(message_id: UUID, address_key: str) -> str:
    """Return the subject of audit events about one recipient of a message."""
    return f"{message_id} {address_key}"[:_SUBJECT_CHARACTERS]


def _move(
    connection: Connection,
    message: Message,
    recipient: Recipient,
    change: Change,
    now: datetime,
) -> bool:
    before = State(recipient.state)
    after = tracking.advance(before, change.event, wants_dispatched=message.wants_dispatched)
    moved = after is not None and set_recipient(
        connection,
        message.id,
        recipient.address,
        state=after.value,
        was=before.value,
        now=now,
        reason=change.reason,
        detail=change.detail,
        status=change.status,
        notice=change.notice,
        final=_is_final(message, after),
    )
    audit.record(
        connection,
        now=now,
        actor="agent",
        action=change.event.value,
        subject=subject_of(message.id, recipient.address.key),
        outcome=after.value if moved and after else IGNORED,
        old=before.value,
        new=change.reason.code if change.reason else None,
    )
    return moved


def _see(connection: Connection, message: Message, change: Change, now: datetime) -> bool:
    """Record what the recipient did with it, which completes nothing and contradicts nothing."""
    if change.seen is None or not set_seen(
        connection, message.id, change.address, change.seen, notice=change.notice, now=now
    ):
        return False
    audit.record(
        connection,
        now=now,
        actor="agent",
        action=f"mdn-{change.seen.value}",
        subject=subject_of(message.id, change.address.key),
        outcome=change.seen.value,
    )
    return True


def announce(connection: Connection, message: Message, now: datetime) -> None:
    """Show the recipients' states on the sender's resource; finish what is complete."""
    _announce(connection, message, recipients_of(connection, message.id), now)


def _announce(
    connection: Connection, message: Message, rows: Sequence[Recipient], now: datetime
) -> None:
    _show(connection, message, now)
    if all(_is_final(message, State(row.state)) for row in rows):
        messages.set_outcome(connection, message.id, state=MessageState.FINISHED, now=now)


def _show(connection: Connection, message: Message, now: datetime) -> None:
    if message.source is Source.FHIR:
        states = partial(_shown, connection, message)
        records.delivery_changed(connection, message=message.id, states=states, now=now)


def _shown(connection: Connection, message: Message) -> list[RecipientState]:
    rows = recipients_of(connection, message.id)
    kept_back = held(connection, message.id, rows)
    return [
        RecipientState(
            address=row.address,
            code="held" if row in kept_back else _code(message, row),
            time=row.updated_at,
            reason=row.reason,
            status=row.status,
            notice=row.notice,
        )
        for row in rows
    ]


def _code(message: Message, row: Recipient) -> str:
    state = State(row.state)
    if state is State.FAILED:
        return "refused" if row.body_key is None else row.state
    # Who awaits a dispatched notice is not told of less in its place.
    return row.seen.value if row.seen and _is_final(message, state) else row.state


def _is_final(message: Message, state: State) -> bool:
    if message.kind is not Kind.MESSAGE:
        # DN-008: a notification is never answered; it is done when it has left.
        return state is not State.QUEUED
    return tracking.is_final(state, wants_dispatched=message.wants_dispatched)


def _tell_author(
    connection: Connection,
    message: Message,
    applied: Sequence[Change],
    rows: Sequence[Recipient],
    now: datetime,
) -> None:
    """Put the jobs that tell an edge user of outcomes; DN-022: never of a notification's."""
    if message.kind is not Kind.MESSAGE or message.source is not Source.EDGE:
        return
    by_address = {row.address: row for row in rows}
    successes, failures = [], []
    for change in applied:
        row = by_address[change.address]
        action = _success(message, row)
        if row.state == State.FAILED.value and Notify.FAILURE in row.wish.notify:
            status = change.status or _status(change.reason)
            failures.append(
                outcome(row, Action.FAILED, status, change.text or _text(change.reason))
            )
        elif action is not None and Notify.SUCCESS in row.wish.notify:
            # RFC3461 4.1; and DN-016 asks for one notice of a success, of whatever form.
            successes.append(outcome(row, action, "2.0.0", _SUCCESSES[action]))
        elif action is not None and message.wants_dispatched:
            payload = {"message": str(message.id), "recipient": str(change.address)}
            queue.put(connection, NewJob("confirm", payload, now), now)
    for outcomes in filter(None, (failures, successes)):
        report: dict[str, Any] = {"message": str(message.id), "outcomes": outcomes}
        queue.put(connection, NewJob("report", report, now), now)


def outcome(row: Recipient, action: Action, status: str, text: str) -> dict[str, str | None]:
    """Return what a report is to tell of one recipient, as it stands in a job."""
    return {
        "recipient": str(row.address),
        "action": action.value,
        "status": status,
        "text": text,
        "original": row.wish.original,
    }


def _success(message: Message, row: Recipient) -> Action | None:
    """Return the success that has come for this recipient and is the first of its kind, if any."""
    if row.state == State.DISPATCHED.value:
        told_before = row.processed_at is not None and not message.wants_dispatched
        return None if told_before else Action.DELIVERED
    # RFC3464 2.3.3: the recipient's system has it, and whether it tells of delivery is its affair.
    # It may still tell of a failure, so that this is no final word (DN-006, DN-013).
    modest = row.state == State.PROCESSED.value and not message.wants_dispatched
    return Action.RELAYED if modest else None


def _status(reason: Reason | None) -> str:
    reply = REPLIES[reason] if reason else None
    # RFC3464 2.3.4: the class of a failed action is 5.
    return f"5{reply.status[1:]}" if reply else "5.0.0"


def _text(reason: Reason | None) -> str:
    reply = REPLIES[reason] if reason else None
    return reply.text if reply else "The recipient's system reported a failure"


_SUCCESSES: Final = {
    Action.RELAYED: "Its delivery is not reported further, unless it fails",
    Action.DELIVERED: "It is where the recipient reads it",
}
