"""The job queue: one table of leased jobs, in the database that holds what the jobs are about.

Talks to the database through the connection it is handed.

A worker claims jobs for a time (the lease), and a job whose lease ran out is claimed again: work
is done at least once. Each claim has a token of its own, and only the holder of the present token
can finish, retry or fail the job: an outcome is recorded exactly once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, Final, TypeAlias
from uuid import UUID

import sqlalchemy as sa

from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.tables import UtcDateTime
from gateway.locks import lock
from gateway.tables import job as jobs
from gateway.tables import paused_destination

__all__ = [
    "Job",
    "JobState",
    "LeaseLostError",
    "NewJob",
    "break_leases",
    "claim",
    "fail",
    "finish",
    "get",
    "hand_back",
    "lease_token",
    "list_jobs",
    "put",
    "renew",
    "retry",
]

# A job that was held when this many processes were killed is thought to be the reason.
_INNOCENT: Final = 2
_SUSPECT_WAIT: Final = timedelta(minutes=1)

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"


class JobState(Enum):
    """A job that is done has no row; one under a lease stays READY."""

    READY = "ready"
    HELD = "held"  # an administrator keeps it back
    DEAD = "dead"  # a dead letter: nobody tries again unasked


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to put. While a job with the same `key` exists, putting it again changes nothing."""

    kind: str
    payload: Mapping[str, JSON]
    due_at: datetime
    destination: str = ""  # the domain that it delivers to, where it does
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is in the queue. `attempts` counts the claims, this one included.

    `errors` counts how often, in a row, it ended as nobody foresaw, its process's death included.
    `known` is what its maker knew as it was committed, where the same process does it at once.
    """

    id: UUID
    kind: str
    destination: str
    key: str | None
    state: JobState
    due_at: datetime
    created_at: datetime
    attempts: int
    lease_until: datetime | None
    token: UUID | None
    reason: Reason | None
    detail: str | None
    payload: Mapping[str, Any]
    errors: int = 0
    known: object = None


class LeaseLostError(DirectError):
    """The job was dropped, or its lease ran out and it was claimed again."""

    def __init__(self, job: Job) -> None:
        super().__init__(Reason.INTERNAL, f"the lease on job {job.id} is lost")


def put(connection: sa.Connection, job: NewJob, now: datetime) -> UUID:
    """Add `job` and return its id, or the id of the job that has its key.

    Where that one is a dead letter, it is tried again: there is news for it.
    """
    if job.key is not None:
        lock(connection, f"job {job.key}")
        taken = connection.execute(_BY_KEY, {"the_key": job.key}).scalar()
        if taken is not None:
            connection.execute(_REVIVE, {"the_id": taken, "due_at": job.due_at})
            return UUID(str(taken))
    identifier = new_id(now)
    connection.execute(
        _PUT,
        {
            "id": identifier,
            "kind": job.kind,
            "destination": job.destination,
            "key": job.key,
            "state": JobState.READY.value,
            "due_at": job.due_at,
            "created_at": now,
            "attempts": 0,
            "errors": 0,
            "payload": job.payload,
        },
    )
    return identifier


def claim(
    connection: sa.Connection,
    *,
    now: datetime,
    lease_s: float,
    limit: int,
    kinds: Sequence[str] | None = None,
    not_to: Collection[str] = (),
    holder: bytes = b"",
) -> Sequence[Job]:
    """Lease up to `limit` due jobs for `lease_s` seconds and return them, longest due first.

    Jobs to a destination in `not_to`, or to one that is paused, are left alone. `holder` begins
    the token, by which a process's leases are known where it is killed.
    """
    values: dict[str, object] = {
        "now": now,
        "count": limit,
        "until": now + timedelta(seconds=lease_s),
        "token": lease_token(holder),
    }
    if not_to:
        values["not_to"] = list(not_to)
    by_kind = None if kinds is None else tuple(kinds)
    rows = connection.execute(_claim(by_kind, bool(not_to)), values)
    return sorted(map(_job, rows), key=lambda job: (job.due_at, job.id))


@cache
def _claim(kinds: tuple[str, ...] | None, but_some: bool) -> sa.Executable:
    """Return the statement of `claim`; to build it anew would cost more than to run it."""
    now = sa.bindparam("now", type_=UtcDateTime)
    due = sa.select(jobs.c.id).where(
        jobs.c.state == JobState.READY.value,
        jobs.c.due_at <= now,
        sa.or_(jobs.c.lease_until.is_(None), jobs.c.lease_until <= now),
        jobs.c.destination.not_in(sa.select(paused_destination.c.destination)),
    )
    if kinds is not None:
        due = due.where(sa.or_(sa.false(), *(jobs.c.kind == kind for kind in kinds)))
    if but_some:
        due = due.where(jobs.c.destination.not_in(sa.bindparam("not_to", expanding=True)))
    # PostgreSQL may run a sub-select more than once, and past its limit, unless it is
    # materialized. SQLAlchemy leaves FOR UPDATE out on SQLite, where there is one writer.
    chosen = (
        due.order_by(jobs.c.due_at)
        .limit(sa.bindparam("count", type_=sa.Integer))
        .with_for_update(skip_locked=True)
        .cte("chosen")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return (
        jobs.update()
        .where(jobs.c.id.in_(sa.select(chosen.c.id)))
        .values(
            lease_until=sa.bindparam("until", type_=UtcDateTime),
            lease_token=sa.bindparam("token", type_=sa.Uuid),
            attempts=jobs.c.attempts + 1,
            # Whoever held it has not come to an end.
            errors=jobs.c.errors + sa.case((jobs.c.lease_token.is_not(None), 1), else_=0),
        )
        .returning(*_COLUMNS)
    )


def renew(
    connection: sa.Connection, held: Sequence[Job], now: datetime, lease_s: float
) -> Sequence[Job]:
    """Lease `held` for another `lease_s` seconds from `now`; return those that were lost."""
    until = now + timedelta(seconds=lease_s)
    return [job for job in held if not _change(connection, job, lease_until=until)]


def finish(connection: sa.Connection, job: Job) -> None:
    """Take `job`, which is done, off the queue.

    Raises:
        LeaseLostError: this claim is not the present one; nothing of it may be recorded.
    """
    if connection.execute(_FINISH, {"the_id": job.id, "the_token": job.token}).rowcount != 1:
        raise LeaseLostError(job)


def retry(
    connection: sa.Connection,
    job: Job,
    due_at: datetime,
    reason: Reason,
    detail: str,
    *,
    broken: bool = False,
) -> None:
    """Put `job` back until `due_at`; `broken`: by an error. One held meanwhile stays held.

    Raises:
        LeaseLostError: this claim is not the present one.
    """
    errors = job.errors + 1 if broken else 0
    _settle(connection, job, due_at=due_at, reason=reason.code, detail=detail, errors=errors)


def fail(connection: sa.Connection, job: Job, reason: Reason, detail: str) -> None:
    """Keep `job` as a dead letter.

    Raises:
        LeaseLostError: this claim is not the present one.
    """
    state = JobState.DEAD.value
    _settle(connection, job, state=state, reason=reason.code, detail=detail)


def hand_back(connection: sa.Connection, job: Job) -> None:
    """Give up the lease on `job` as if it had not been claimed.

    Raises:
        LeaseLostError: this claim is not the present one.
    """
    _settle(connection, job, attempts=job.attempts - 1)


def break_leases(connection: sa.Connection, now: datetime, holder: bytes = b"") -> int:
    """Take every lease of `holder` back and return how many: for who knows that it is no more.

    Without a holder, of all: for a process that knows it is the only one.

    What a killed process held is done again at once, instead of when its leases run out. What
    several were killed with waits, each for another time: one of them may be the reason.
    """
    theirs = {
        "least": UUID(bytes=holder.ljust(16, b"\x00")),
        "most": UUID(bytes=holder.ljust(16, b"\xff")),
    }
    suspects = connection.execute(_SUSPECTS, {"few": _INNOCENT, **theirs}).all()
    for number, row in enumerate(suspects):
        wait = _SUSPECT_WAIT * 2 ** min(row.errors - _INNOCENT, 5)
        due_at = now + wait * (1 + number / len(suspects))
        connection.execute(_POSTPONE, {"the_id": row.id, "due_at": due_at})
    return connection.execute(_FREE, theirs).rowcount


def lease_token(holder: bytes) -> UUID:
    """Return a new token that begins with `holder`."""
    return UUID(bytes=holder + os.urandom(16 - len(holder)))


def list_jobs(
    connection: sa.Connection,
    *,
    limit: int,
    state: JobState | None = None,
    destination: str | None = None,
) -> Sequence[Job]:
    """Return the jobs that match, those that are due first."""
    query = sa.select(*_COLUMNS).order_by(jobs.c.due_at, jobs.c.id).limit(limit)
    if state is not None:
        query = query.where(jobs.c.state == state.value)
    if destination is not None:
        query = query.where(jobs.c.destination == destination)
    return [_job(row) for row in connection.execute(query)]


def get(connection: sa.Connection, job_id: UUID) -> Job | None:
    """Return the job with this id."""
    row = connection.execute(sa.select(*_COLUMNS).where(jobs.c.id == job_id)).first()
    return _job(row) if row else None


def _token(holder: bytes) -> UUID:
    return UUID(bytes=holder + os.urandom(16 - len(holder)))


def _settle(connection: sa.Connection, job: Job, **values: object) -> None:
    if not _change(connection, job, lease_until=None, lease_token=None, **values):
        raise LeaseLostError(job)


def _change(connection: sa.Connection, job: Job, **values: object) -> bool:
    held = {"the_id": job.id, "the_token": job.token}
    return connection.execute(_CHANGE, {**held, **values}).rowcount == 1


def _job(row: sa.Row[Any]) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        destination=row.destination,
        key=row.key,
        state=JobState(row.state),
        due_at=row.due_at,
        created_at=row.created_at,
        attempts=row.attempts,
        lease_until=row.lease_until,
        token=row.lease_token,
        reason=Reason.of(row.reason) if row.reason else None,
        detail=row.detail,
        payload=row.payload,
        errors=row.errors,
    )


_COLUMNS: Final = tuple(jobs.c)
_PUT: Final = jobs.insert()
_IS_HELD: Final = (
    jobs.c.id == sa.bindparam("the_id"),
    jobs.c.lease_token == sa.bindparam("the_token"),
)
_FINISH: Final = jobs.delete().where(*_IS_HELD)
_CHANGE: Final = jobs.update().where(*_IS_HELD)
_IS_THEIRS: Final = jobs.c.lease_token.between(sa.bindparam("least"), sa.bindparam("most"))
_SUSPECTS: Final = sa.select(jobs.c.id, jobs.c.errors).where(
    _IS_THEIRS, jobs.c.errors >= sa.bindparam("few")
)
_FREE: Final = (
    jobs.update()
    .where(_IS_THEIRS)
    .values(lease_until=None, lease_token=None, errors=jobs.c.errors + 1)
)
_POSTPONE: Final = jobs.update().where(jobs.c.id == sa.bindparam("the_id"))
_REVIVE: Final = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("the_id"), jobs.c.state == JobState.DEAD.value)
    .values(state=JobState.READY.value, due_at=sa.bindparam("due_at"), errors=0)
)
_BY_KEY: Final = sa.select(jobs.c.id).where(jobs.c.key == sa.bindparam("the_key"))
