"""The life of one message, as it is told to people: what happened to it, in order.

Talks to the database through the connection it is handed. Delivery attempts are recorded here;
the rest is read from where it is recorded anyway: recipients, notifications, the audit chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from certs.ids import new_id
from gateway import progress
from gateway.ports import Delivery
from gateway.tables import attempt, audit_event, message, recipient

__all__ = ["Event", "add_attempts", "timeline"]

_FAILURE_CHARACTERS: Final = 200  # the width of the column


@dataclass(frozen=True, slots=True)
class Event:
    """`what` happened at `at`; `who` is the recipient or actor that it concerns."""

    at: datetime
    what: str
    who: str
    outcome: str
    detail: str


def add_attempts(
    connection: sa.Connection, message_id: UUID, delivery: Delivery, now: datetime
) -> None:
    """Record what became of each recipient in one delivery attempt."""
    rows = [
        {
            "id": new_id(now),
            "message_id": message_id,
            "recipient": str(one.recipient),
            "at": now,
            "host": delivery.host,
            "tls": delivery.tls,
            "verified": delivery.verified,
            "tls_policy": delivery.tls_policy,
            "tls_failure": delivery.tls_failure and delivery.tls_failure[:_FAILURE_CHARACTERS],
            "reason": one.reason and one.reason.code,
            "status": one.status,
            "reply": one.reply,
        }
        for one in delivery.attempts
    ]
    if rows:
        connection.execute(_ADD_ATTEMPTS, rows)


def timeline(connection: sa.Connection, message_id: UUID) -> Sequence[Event]:
    """Return what happened to the message, oldest first."""
    values = {"the_id": message_id}
    events = [
        *map(_audited, connection.execute(_AUDITED, {"the_subject": str(message_id)})),
        *map(_attempted, connection.execute(_ATTEMPTS, values)),
        *map(_notified, connection.execute(_NOTIFICATIONS, values)),
    ]
    for row in connection.execute(_RECIPIENTS, values):
        events.extend(_reached(row))
        subject = progress.subject_of(message_id, row.address_key)
        for ignored in connection.execute(_IGNORED, {"the_subject": subject}):
            events.append(_suppressed(ignored, row.address))
    # A stable sort: of events at one time, the audit chain's come first.
    return sorted(events, key=lambda event: event.at)


def _audited(row: sa.Row[Any]) -> Event:
    return Event(row.at, row.action, row.actor, row.outcome, row.new or "")


def _suppressed(row: sa.Row[Any], recipient: str) -> Event:
    """Return what came late, twice or against what had been told, and changed nothing (DN-014)."""
    return Event(row.at, row.action, recipient, row.outcome, f"it was {row.old}")


def _attempted(row: sa.Row[Any]) -> Event:
    verified = "verified" if row.verified else "not verified"
    failure = f", which failed: {row.tls_failure}" if row.tls_failure else ""
    tls = f"{row.tls} ({verified}, policy {row.tls_policy})" if row.tls else f"no TLS{failure}"
    detail = f"{row.host}, {tls}: {row.status} {row.reply}"
    return Event(row.at, "delivery-attempted", row.recipient, row.reason or "delivered", detail)


def _notified(row: sa.Row[Any]) -> Event:
    what = f"{row.kind}-{'received' if row.direction == 'incoming' else 'sent'}"
    return Event(row.received_at, what, row.author or "", row.state, str(row.id))


def _reached(row: sa.Row[Any]) -> Iterator[Event]:
    """Yield the states that the recipient has been in, as far as they are stamped."""
    for state in ("relayed", "processed", "dispatched"):
        if (at := getattr(row, f"{state}_at")) is not None:
            yield Event(at, state, row.address, row.status or "", "")
    if row.state in ("failed", "refused"):
        yield Event(row.updated_at, row.state, row.address, row.reason or "", row.detail or "")


_ADD_ATTEMPTS: Final = attempt.insert()
_AUDITED: Final = (
    sa.select(audit_event)
    .where(audit_event.c.subject == sa.bindparam("the_subject"))
    .order_by(audit_event.c.number)
)
_IGNORED: Final = _AUDITED.where(audit_event.c.outcome == progress.IGNORED)
_ATTEMPTS: Final = (
    sa.select(attempt)
    .where(attempt.c.message_id == sa.bindparam("the_id"))
    .order_by(attempt.c.at, attempt.c.recipient)
)
_NOTIFICATIONS: Final = (
    sa.select(message).where(message.c.parent == sa.bindparam("the_id")).order_by(message.c.id)
)
_RECIPIENTS: Final = (
    sa.select(recipient)
    .where(recipient.c.message_id == sa.bindparam("the_id"))
    .order_by(recipient.c.ordinal)
)
