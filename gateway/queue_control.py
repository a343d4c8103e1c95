"""What an administrator does to the queue, and what there is to see of it.

Talks to the database through the connection it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from certs.errors import DirectError, Reason
from gateway import messages, progress, queue
from gateway.locks import lock
from gateway.queue import Job, JobState
from gateway.tables import job as jobs
from gateway.tables import paused_destination

__all__ = [
    "GIVE_UP",
    "Depth",
    "act",
    "depths",
    "drop",
    "give_up",
    "hold",
    "pause",
    "paused",
    "release",
    "resume",
    "retry_now",
    "show_some",
]

# A transaction of so many is over in a tenth of a second.
SHOWN_AT_A_TIME: Final = 50

# The name in the payload by which a handler is told to try no more: it records the failure and
# tells the sender, as it does when its patience has ended.
GIVE_UP: Final = "give_up"


@dataclass(frozen=True, slots=True)
class Depth:
    """How many jobs of one kind are in one state. `oldest_due_at`: the first that is due."""

    kind: str
    state: JobState
    count: int
    oldest_due_at: datetime


def act(connection: sa.Connection, verb: str, job_id: UUID, now: datetime) -> None:
    """Do what an administrator says: hold, release, retry, fail or drop; the sender sees it.

    Raises:
        DirectError: as the function of the verb does.
    """
    job = _existing(connection, job_id)
    match verb:
        case "hold":
            hold(connection, job_id)
        case "release":
            release(connection, job_id)
        case "retry":
            retry_now(connection, job_id, now)
        case "fail":
            give_up(connection, job_id, now)
        case _:
            drop(connection, job_id, now)
    if job.kind in ("outgoing", "deliver"):
        message = messages.get(connection, UUID(job.payload["message"]))
        if message is not None:
            progress.announce(connection, message, now)


def hold(connection: sa.Connection, job_id: UUID) -> None:
    """Keep a job back until it is released. A try that is under way is not stopped.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no such job. RESOURCE_CONFLICT; it is a dead letter.
    """
    _move(connection, job_id, (JobState.READY, JobState.HELD), state=JobState.HELD.value)


def release(connection: sa.Connection, job_id: UUID) -> None:
    """Let a held job go on when it is due.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no such job. RESOURCE_CONFLICT; it is a dead letter.
    """
    _move(connection, job_id, (JobState.READY, JobState.HELD), state=JobState.READY.value)


def retry_now(connection: sa.Connection, job_id: UUID, now: datetime) -> None:
    """Make a job due now, whether it waits, is held or is a dead letter; its errors are forgotten.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no such job.
    """
    _move(connection, job_id, tuple(JobState), state=JobState.READY.value, due_at=now, errors=0)


def give_up(connection: sa.Connection, job_id: UUID, now: datetime) -> None:
    """Let the handler of a job record its failure now, and tell those whom it concerns.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no such job.
    """
    payload = {**_existing(connection, job_id).payload, GIVE_UP: True}
    values = {"state": JobState.READY.value, "due_at": now, "payload": payload, "errors": 0}
    _move(connection, job_id, tuple(JobState), **values)


def drop(connection: sa.Connection, job_id: UUID, now: datetime) -> None:
    """Remove a job; nobody is told.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no such job. RESOURCE_CONFLICT; a worker is at it.
    """
    job = _existing(connection, job_id)
    idle = jobs.delete().where(
        jobs.c.id == job_id, sa.or_(jobs.c.lease_until.is_(None), jobs.c.lease_until <= now)
    )
    if connection.execute(idle).rowcount != 1:
        raise DirectError(Reason.RESOURCE_CONFLICT, f"a worker is at job {job.id}")


def pause(connection: sa.Connection, destination: str, now: datetime) -> None:
    """Start no more jobs that deliver to the domain `destination`."""
    lock(connection, f"pause {destination}")
    if destination not in paused(connection):
        connection.execute(
            paused_destination.insert(), {"destination": destination, "paused_at": now}
        )


def resume(connection: sa.Connection, destination: str) -> None:
    """Deliver to `destination` again.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; it is not paused.
    """
    going_on = paused_destination.delete().where(paused_destination.c.destination == destination)
    if connection.execute(going_on).rowcount != 1:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"{destination} is not paused")


def show_some(
    connection: sa.Connection, destination: str, after: UUID, now: datetime
) -> UUID | None:
    """Let those who wait for `destination` see whether it is paused.

    Return where to go on after, or None where those were all: what waits may be much.
    """
    waiting = connection.execute(_WAITING, {"destination": destination, "after": after}).all()
    for identity in {UUID(row.payload["message"]) for row in waiting}:
        message = messages.get(connection, identity)
        if message is not None:
            progress.announce(connection, message, now)
    return waiting[-1].id if len(waiting) == SHOWN_AT_A_TIME else None


def paused(connection: sa.Connection) -> Sequence[str]:
    """Return the domains to which nothing is delivered now."""
    query = sa.select(paused_destination.c.destination).order_by("destination")
    return list(connection.execute(query).scalars())


def depths(connection: sa.Connection) -> Sequence[Depth]:
    """Return how many jobs there are of each kind and state."""
    query = (
        sa.select(jobs.c.kind, jobs.c.state, sa.func.count(), sa.func.min(jobs.c.due_at))
        .group_by(jobs.c.kind, jobs.c.state)
        .order_by(jobs.c.kind, jobs.c.state)
    )
    rows = connection.execute(query)
    return [Depth(kind, JobState(state), count, oldest) for kind, state, count, oldest in rows]


def _move(
    connection: sa.Connection, job_id: UUID, states: Sequence[JobState], **values: object
) -> None:
    """Set `values` on a job that is in one of `states`."""
    move = jobs.update().where(
        jobs.c.id == job_id, jobs.c.state.in_([state.value for state in states])
    )
    if connection.execute(move.values(**values)).rowcount != 1:
        job = _existing(connection, job_id)
        raise DirectError(Reason.RESOURCE_CONFLICT, f"job {job_id} is {job.state.value}")


def _existing(connection: sa.Connection, job_id: UUID) -> Job:
    job = queue.get(connection, job_id)
    if job is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no job {job_id}")
    return job


_WAITING: Final = (
    sa.select(jobs.c.id, jobs.c.payload)
    .where(
        jobs.c.kind == "deliver",
        jobs.c.destination == sa.bindparam("destination"),
        jobs.c.id > sa.bindparam("after"),
    )
    .order_by(jobs.c.id)
    .limit(SHOWN_AT_A_TIME)
)
