"""Two workers, each with its own connections to one database, as two processes have."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial

import sqlalchemy as sa

from certs.errors import Reason
from gateway import audit, queue
from gateway.database import SqlDatabase
from gateway.queue import Job, NewJob
from gateway.results import Done, Result, Retry
from gateway.worker import Handler, Worker

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
JOBS = 120
LEASE_S = 60.0


class Station:
    """Does jobs, some of them at the second try, and tells how many times each was done."""

    def __init__(self) -> None:
        self.now = NOW
        self.runs: Counter[int] = Counter()
        self.enough = asyncio.Event()
        self.wanted = JOBS
        self._done: set[int] = set()

    def clock(self) -> datetime:
        return self.now

    async def work(self, job: Job) -> Result:
        number = int(job.payload["n"])
        self.runs[number] += 1
        await asyncio.sleep(0)
        if number % 3 == 0 and self.runs[number] == 1:
            return Retry(self.now, Reason.BACKBONE_UNAVAILABLE, "again")
        self._done.add(number)
        if len(self._done) == self.wanted:
            self.enough.set()
        return Done(partial(note, subject=str(number)))


def note(connection: sa.Connection, subject: str) -> None:
    audit.record(connection, now=NOW, actor="job", action="done", subject=subject, outcome="")


def worker(database: SqlDatabase, station: Station, handler: Handler) -> Worker:
    return Worker(
        database=database,
        handlers={"a": handler},
        clock=station.clock,
        concurrency=7,
        lease_s=LEASE_S,
        poll_s=0.01,
    )


async def stop(worker: Worker, running: asyncio.Task[None]) -> None:
    worker.stop()
    await running


async def only(database: SqlDatabase, count: int) -> None:
    """Return when so many jobs are left."""
    async with asyncio.timeout(60):
        while True:
            left = await database.read(lambda c: queue.list_jobs(c, limit=JOBS))
            if len(left) == count:
                return
            await asyncio.sleep(0.01)


async def test_two_workers_of_which_one_crashes_record_each_job_once(database_url: str) -> None:
    station, held = Station(), asyncio.Queue[Job]()

    async def hang(job: Job) -> Result:
        held.put_nowait(job)
        await asyncio.Event().wait()
        raise AssertionError("it was cancelled")

    async with SqlDatabase.open(database_url) as one, SqlDatabase.open(database_url) as other:
        jobs = [NewJob("a", {"n": n}, NOW) for n in range(JOBS)]
        await one.write(lambda c: [queue.put(c, job, NOW) for job in jobs])
        crashing = asyncio.create_task(worker(one, station, hang).run())
        for _ in range(7):
            await held.get()
        crashing.cancel()
        await asyncio.gather(crashing, return_exceptions=True)

        workers = [worker(database, station, station.work) for database in (one, other)]
        running = [asyncio.create_task(w.run()) for w in workers]
        station.wanted = JOBS - 7
        await station.enough.wait()  # all but those that the crashed one has leased
        await only(one, 7)  # and recorded, so that no lease of a living one runs out below
        station.enough.clear()
        station.wanted = JOBS
        station.now += timedelta(seconds=LEASE_S)
        await station.enough.wait()
        await asyncio.gather(*(stop(w, r) for w, r in zip(workers, running, strict=True)))

        events = await one.read(lambda c: audit.list_events(c, limit=10 * JOBS))
        assert sorted(int(event.subject) for event in events) == list(range(JOBS))
        assert station.runs.total() == JOBS + JOBS // 3
        assert await one.read(lambda c: queue.list_jobs(c, limit=9)) == []
        assert await one.read(audit.verify) is None
