"""The end of a job: what came of it and the end of its lease, in one transaction.

Talks to the database through the connection it is handed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from certs.errors import Reason
from gateway import queue
from gateway.begun import put_begun
from gateway.queue import Job, LeaseLostError
from gateway.results import Done, Failed, Next, Record, Result, Retry, nothing

__all__ = ["Broken", "hand_back", "settle"]


@dataclass(frozen=True, slots=True)
class Broken:
    """The handler raised; the job is to be tried again at `due_at`."""

    due_at: datetime
    reason: Reason
    detail: str
    record: Record = nothing


def settle(
    connection: Connection,
    job: Job,
    result: Result | Broken,
    following: Iterable[tuple[Next, Job | None]],
    now: datetime,
) -> set[UUID]:
    """Record `result`, give up the lease and put what follows; return the ids of what is begun.

    The lease first: a lost one records nothing.
    """
    match result:
        case Done():
            queue.finish(connection, job)
        case Retry():
            queue.retry(connection, job, result.due_at, result.reason, result.detail)
        case Broken():
            queue.retry(connection, job, result.due_at, result.reason, result.detail, broken=True)
        case Failed():
            queue.fail(connection, job, result.reason, result.detail)
    result.record(connection)
    under_way = set()
    for one, follower in following:
        if not one.wanted():
            continue
        if follower is None:
            queue.put(connection, one.job, now)
        elif put_begun(connection, follower):
            under_way.add(follower.id)
    return under_way


def hand_back(connection: Connection, jobs: Iterable[Job]) -> None:
    """Give up the leases of `jobs`, those that were lost excepted."""
    for job in jobs:
        with suppress(LeaseLostError):  # its outcome was committed as it was cancelled
            queue.hand_back(connection, job)
