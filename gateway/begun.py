"""Jobs that are begun before they are put: no worker need look for them, nor read what they are of.

Talks to the database through the connection it is handed. Such a job is put under the lease of who
does it, so that nobody else takes it; where its process dies, it is claimed again like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Protocol

import sqlalchemy as sa

from certs.ids import new_id
from gateway.queue import Job, JobState, NewJob, lease_token, put
from gateway.tables import job as jobs
from gateway.tables import paused_destination

__all__ = ["Taker", "begun", "put_all", "put_begun"]


class Taker(Protocol):
    """Takes jobs up as they are committed, so that nobody need look for them."""

    def begin(self, new: NewJob) -> Job | None:
        """Return `new` under a lease, where there is room for it now; else put it and `wake`."""
        ...

    def start(self, job: Job, known: object) -> None:
        """Do a job of `begin`, now that it is committed; `known` is for its handler."""
        ...

    def leave(self, job: Job) -> None:
        """Forget a job of `begin` that was not committed, or left for later."""
        ...

    def wake(self) -> None:
        """Look for jobs: one was committed that was not begun."""
        ...


def begun(new: NewJob, *, now: datetime, lease_s: float, holder: bytes = b"") -> Job:
    """Return `new`, which has no key, as `claim` would right after `put`."""
    return Job(
        id=new_id(now),
        kind=new.kind,
        destination=new.destination,
        key=None,
        state=JobState.READY,
        due_at=new.due_at,
        created_at=now,
        attempts=1,
        lease_until=now + timedelta(seconds=lease_s),
        token=lease_token(holder),
        reason=None,
        detail=None,
        payload=new.payload,
    )


def put_begun(connection: sa.Connection, job: Job) -> bool:
    """Add a job under its lease. Say whether: one to a paused destination is put to wait."""
    paused = bool(
        job.destination and connection.execute(_PAUSED, {"name": job.destination}).first()
    )
    connection.execute(
        _PUT_BEGUN,
        {
            "id": job.id,
            "kind": job.kind,
            "destination": job.destination,
            "state": job.state.value,
            "due_at": job.due_at,
            "created_at": job.created_at,
            "attempts": 0 if paused else job.attempts,
            "errors": job.errors,
            "payload": job.payload,
            "lease_until": None if paused else job.lease_until,
            "lease_token": None if paused else job.token,
        },
    )
    return not paused


def put_all(connection: sa.Connection, some: Iterable[NewJob | Job], now: datetime) -> None:
    """Add jobs, and among them those that were begun."""
    for one in some:
        if isinstance(one, Job):
            put_begun(connection, one)
        else:
            put(connection, one, now)


_PUT_BEGUN: Final = jobs.insert()
_PAUSED: Final = sa.select(paused_destination.c.destination).where(
    paused_destination.c.destination == sa.bindparam("name")
)
