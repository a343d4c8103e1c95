"""What happened, append-only and chained by hash, without content.

Talks to the database through the connection it is handed.

Each event carries the SHA-256 of itself and of the digest before it, and events are numbered
without gaps. So an event that was edited, removed or put in between is found by `verify`. Only
the removal of the newest events leaves a sound chain: keep the `head` elsewhere and hand it to
`verify` to find that too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from gateway.locks import lock
from gateway.tables import audit_event

__all__ = [
    "BEGINNING",
    "AuditEvent",
    "Head",
    "events_since",
    "first_broken",
    "head",
    "list_events",
    "record",
    "take_turn",
    "verify",
]


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """`actor` did `action` to `subject`. `old` and `new` are fingerprints or settings."""

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    outcome: str
    old: str | None
    new: str | None
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class Head:
    """The newest event: how many there are, and the digest that stands for all of them."""

    number: int
    digest: str


BEGINNING: Final = Head(0, "0" * 64)


def record(
    connection: sa.Connection,
    *,
    now: datetime,
    actor: str,
    action: str,
    subject: str,
    outcome: str,
    old: str | None = None,
    new: str | None = None,
) -> int:
    """Append an event and return its number.

    Record last in a transaction: on PostgreSQL others who append wait until it commits.
    """
    take_turn(connection)
    last = head(connection)
    event = AuditEvent(
        last.number + 1, now, actor, action, subject, outcome, old, new, last.digest, ""
    )
    values = {name: getattr(event, name) for name in AuditEvent.__slots__}
    connection.execute(_APPEND, {**values, "digest": _digest(event)})
    return event.number


def take_turn(connection: sa.Connection) -> None:
    """Wait until nobody else appends, and let nobody do so before this transaction ends.

    `record` does it; whoever must see what others have written before they append does it first.
    """
    lock(connection, "audit")


def head(connection: sa.Connection) -> Head:
    """Return the newest event; number 0 where there is none."""
    row = connection.execute(_HEAD).first()
    return Head(row.number, row.digest) if row else BEGINNING


def verify(connection: sa.Connection, *, known: Head | None = None) -> int | None:
    """Return the number of the first event that is missing or was changed, or None.

    `known` is a head that was kept elsewhere.
    """
    rows = connection.execute(_ALL).yield_per(1000)
    return first_broken((AuditEvent(*row) for row in rows), known=known)


def first_broken(
    events: Iterable[AuditEvent], *, since: Head = BEGINNING, known: Head | None = None
) -> int | None:
    """Return the number of the first of `events` that does not continue the chain, or None.

    `events` follow `since` and are in order; `known` is a head that they must lead to or past.
    """
    last = since
    for event in events:
        number = last.number + 1
        if (event.number, event.previous) != (number, last.digest):
            return number
        if event.digest != _digest(event):
            return number
        last = Head(number, event.digest)
        if known is not None and known.number == number and known != last:
            return number
    if known is not None and known.number > last.number:
        return last.number + 1
    return None


def list_events(
    connection: sa.Connection,
    *,
    limit: int,
    before: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    subject: str | None = None,
) -> Sequence[AuditEvent]:
    """Return the newest events that match, newest first; `before` continues a listing."""
    query = sa.select(audit_event).order_by(audit_event.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_event.c.number < before)
    for column, value in (
        (audit_event.c.actor, actor),
        (audit_event.c.action, action),
        (audit_event.c.subject, subject),
    ):
        if value is not None:
            query = query.where(column == value)
    return [AuditEvent(*row) for row in connection.execute(query)]


def events_since(connection: sa.Connection, number: int, *, limit: int) -> Sequence[AuditEvent]:
    """Return the events after the one of this number, oldest first."""
    query = _ALL.where(audit_event.c.number > number).limit(limit)
    return [AuditEvent(*row) for row in connection.execute(query)]


def _digest(event: AuditEvent) -> str:
    """Return the SHA-256 over all else of the event, as compact ASCII JSON in a fixed order."""
    covered = [
        event.number,
        event.at.isoformat(timespec="microseconds"),
        event.actor,
        event.action,
        event.subject,
        event.outcome,
        event.old,
        event.new,
        event.previous,
    ]
    return hashlib.sha256(_JSON.encode(covered).encode("ascii")).hexdigest()


_JSON: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
_APPEND: Final = audit_event.insert()
_HEAD: Final = (
    sa.select(audit_event.c.number, audit_event.c.digest)
    .order_by(audit_event.c.number.desc())
    .limit(1)
)
_ALL: Final = sa.select(audit_event).order_by(audit_event.c.number)
