"""Which recipients of a message an administrator holds back, with the job that is for them.

Talks to the database through the connection it is handed.

Standards:
    fhir.md section 3.5 (held, by hand)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from gateway.queue import JobState
from gateway.recipients import Recipient
from gateway.tables import job
from gateway.tracking import State

__all__ = ["held"]


def held(
    connection: sa.Connection, message: UUID, rows: Sequence[Recipient]
) -> frozenset[Recipient]:
    """Return those of a message's recipients `rows` that wait for a job which is held."""
    waiting = [row for row in rows if row.state == State.QUEUED.value]
    if not waiting:
        return frozenset()
    payloads = [each.payload for each in connection.execute(_HELD)]
    # What is to be secured has no sealed body yet; a sealed one is delivered by a job of its own.
    bodies = {each.get("body") for each in payloads if each.get("message") == str(message)}
    return frozenset(row for row in waiting if row.body_key in bodies)


# There are as many as people have held by hand.
_HELD: Final = sa.select(job.c.payload).where(
    job.c.state == JobState.HELD.value, sa.or_(job.c.kind == "outgoing", job.c.kind == "deliver")
)
