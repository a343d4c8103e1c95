"""Which recipients of a message an administrator holds back: their job, or their whole domain.

Talks to the database through the connection it is handed.

Standards:
    fhir.md section 3.5 (held, by hand)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from gateway.queue import JobState
from gateway.recipients import Recipient
from gateway.tables import job, paused_destination
from gateway.tracking import State

__all__ = ["held", "is_any_paused"]


def held(
    connection: sa.Connection, message: UUID, rows: Sequence[Recipient]
) -> frozenset[Recipient]:
    """Return those of a message's recipients `rows` that wait because an administrator says so."""
    waiting = [row for row in rows if row.state == State.QUEUED.value]
    if not waiting:
        return frozenset()
    paused = frozenset(connection.execute(_PAUSED).scalars())
    payloads = [each.payload for each in connection.execute(_HELD)]
    # What is to be secured has no sealed body yet; a sealed one is delivered by a job of its own.
    bodies = {each.get("body") for each in payloads if each.get("message") == str(message)}
    return frozenset(row for row in waiting if row.body_key in bodies or _is_paused(row, paused))


def is_any_paused(connection: sa.Connection, domains: Iterable[str]) -> bool:
    """Say whether nothing is delivered to one of `domains` now."""
    return not frozenset(domains).isdisjoint(connection.execute(_PAUSED).scalars())


def _is_paused(row: Recipient, paused: Collection[str]) -> bool:
    # Until it is sealed it waits for nobody.
    return row.body_key is not None and row.address.domain in paused


_PAUSED: Final = sa.select(paused_destination.c.destination)
# There are as many as people have held by hand.
_HELD: Final = sa.select(job.c.payload).where(
    job.c.state == JobState.HELD.value, sa.or_(job.c.kind == "outgoing", job.c.kind == "deliver")
)
