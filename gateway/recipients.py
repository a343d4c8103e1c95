"""The recipients of a message: what became of each, and what each asked for.

Talks to the database through the connection it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress, parse_address
from certs.errors import Reason
from gateway.mdn import Seen
from gateway.notify import USUAL_WISH, Wish, wish_of
from gateway.ports import StoredBody
from gateway.tables import recipient

__all__ = ["Recipient", "late_recipients", "recipients_of", "set_recipient", "set_seen"]


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of a message. `state` is a `gateway.tracking.State` value or "refused".

    `notice` is the Message-ID of the notification that this rests on, if it does on one.
    """

    message_id: UUID
    ordinal: int
    address: DirectAddress
    state: str
    reason: Reason | None
    detail: str | None
    status: str | None
    body_key: str | None
    updated_at: datetime
    relayed_at: datetime | None
    processed_at: datetime | None
    dispatched_at: datetime | None
    due_at: datetime | None
    notice: str | None = None
    seen: Seen | None = None
    wish: Wish = USUAL_WISH


def recipients_of(connection: sa.Connection, message_id: UUID) -> Sequence[Recipient]:
    """Return the recipients of a message, in the order of its envelope."""
    rows = connection.execute(_RECIPIENTS, {"the_id": message_id})
    return [_recipient(row) for row in rows]


def late_recipients(connection: sa.Connection, *, now: datetime, limit: int) -> Sequence[Recipient]:
    """Return recipients whose `due_at` has come, longest due first."""
    is_due = recipient.c.due_at <= now
    query = sa.select(*_RECIPIENT).where(is_due).order_by(recipient.c.due_at).limit(limit)
    return [_recipient(row) for row in connection.execute(query)]


def set_recipient(
    connection: sa.Connection,
    message_id: UUID,
    address: DirectAddress,
    *,
    state: str,
    now: datetime,
    was: str | None = None,
    reason: Reason | None = None,
    detail: str | None = None,
    status: str | None = None,
    notice: str | None = None,
    final: bool = False,
    sealed: StoredBody | None = None,
) -> bool:
    """Move one recipient to `state` and say whether it was there to be moved.

    With `was`, only from that state: of two that compete, one succeeds. A `final` state is never
    late; until then the time of its acceptance counts (DN-017). `sealed` is what goes out for
    this recipient, by a row that was recorded before.
    """
    values: dict[str, object] = {
        "the_id": message_id,
        "the_key": address.key,
        "state": state,
        "reason": reason and reason.code,
        "detail": detail,
        "status": status,
        "notice": notice,
        "updated_at": now,
    }
    if final:
        values["due_at"] = None
    if state in _STAMPED:
        values[f"{state}_at"] = now
    if sealed is not None:
        values["body_key"] = sealed.key
    if was is None:
        return connection.execute(_MOVE, values).rowcount == 1
    return connection.execute(_MOVE_FROM, {**values, "the_state": was}).rowcount == 1


def set_seen(
    connection: sa.Connection,
    message_id: UUID,
    address: DirectAddress,
    seen: Seen,
    *,
    notice: str | None,
    now: datetime,
) -> bool:
    """Record what a recipient did with a message that has not failed; say whether that is new.

    What was deleted is not displayed later: notices may arrive in any order.
    """
    values = {
        "the_id": message_id,
        "the_key": address.key,
        "seen": seen.value,
        "notice": notice,
        "updated_at": now,
    }
    return connection.execute(_SEE[seen], values).rowcount == 1


def _recipient(row: sa.Row[Any]) -> Recipient:
    values = dict(row._mapping)
    values["address"] = parse_address(row.address)
    values["reason"] = row.reason and Reason.of(row.reason)
    values["seen"] = row.seen and Seen(row.seen)
    values["wish"] = wish_of(values.pop("notify"), values.pop("original_recipient"))
    return Recipient(**values)


_STAMPED: Final = frozenset({"relayed", "processed", "dispatched"})
_RECIPIENT: Final = tuple(column for column in recipient.c if column.name != "address_key")
_MOVE: Final = recipient.update().where(
    recipient.c.message_id == sa.bindparam("the_id"),
    recipient.c.address_key == sa.bindparam("the_key"),
)
_MOVE_FROM: Final = _MOVE.where(recipient.c.state == sa.bindparam("the_state"))
_SEE_ONE: Final = _MOVE.where(recipient.c.state != "failed")
_SEE: Final = {
    Seen.DISPLAYED: _SEE_ONE.where(recipient.c.seen.is_(None)),
    Seen.DELETED: _SEE_ONE.where(recipient.c.seen.is_distinct_from(Seen.DELETED.value)),
}
_RECIPIENTS: Final = (
    sa.select(*_RECIPIENT)
    .order_by(recipient.c.ordinal)
    .where(recipient.c.message_id == sa.bindparam("the_id"))
)
