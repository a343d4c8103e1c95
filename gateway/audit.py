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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from gateway.locks import lock
from gateway.tables import audit_event

__all__ = ["AuditEvent", "Head", "head", "list_events", "record", "verify"]

_FIRST_PREVIOUS: Final = "0" * 64


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
    lock(connection, "audit")
    last = head(connection)
    event = {
        "number": last.number + 1,
        "at": now,
        "actor": actor,
        "action": action,
        "subject": subject,
        "outcome": outcome,
        "old": old,
        "new": new,
        "previous": last.digest,
    }
    connection.execute(_APPEND, {**event, "digest": _digest(event)})
    return last.number + 1


def head(connection: sa.Connection) -> Head:
    """Return the newest event; number 0 where there is none."""
    row = connection.execute(_HEAD).first()
    return Head(row.number, row.digest) if row else Head(0, _FIRST_PREVIOUS)


def verify(connection: sa.Connection, *, known: Head | None = None) -> int | None:
    """Return the number of the first event that is missing or was changed, or None.

    `known` is a head that was kept elsewhere.
    """
    expected = Head(0, _FIRST_PREVIOUS)
    for row in connection.execute(_ALL).yield_per(1000):
        number = expected.number + 1
        if row.number != number or row.previous != expected.digest:
            return number
        if row.digest != _digest(row._mapping):
            return number
        expected = Head(number, row.digest)
        if known and known.number == number and known.digest != row.digest:
            return number
    if known and known.number > expected.number:
        return expected.number + 1
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


def _digest(event: Any) -> str:
    """Return the digest of `event` under the columns that it covers, in their fixed order."""
    covered = [event[name] for name in _COVERED]
    covered[1] = covered[1].isoformat(timespec="microseconds")
    text = json.dumps(covered, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


_COVERED: Final = (
    "number",
    "at",
    "actor",
    "action",
    "subject",
    "outcome",
    "old",
    "new",
    "previous",
)
_APPEND: Final = audit_event.insert()
_HEAD: Final = (
    sa.select(audit_event.c.number, audit_event.c.digest)
    .order_by(audit_event.c.number.desc())
    .limit(1)
)
_ALL: Final = sa.select(audit_event).order_by(audit_event.c.number)
