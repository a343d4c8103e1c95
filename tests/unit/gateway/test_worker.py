"""gateway.worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import pytest
import sqlalchemy as sa
import structlog
from structlog.testing import LogCapture

from certs.errors import DirectError, Reason
from certs.ports import Database
from gateway import audit, queue, queue_control
from gateway.database import SqlDatabase
from gateway.queue import Job, JobState, NewJob
from gateway.results import Done, Failed, Result, Retry
from gateway.worker import ERRORS, Abandon, Handler, Worker

T = TypeVar("T")
NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LONG_S = 3600.0  # for what must not happen by the passing of time


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def working(
    database: Database,
    handlers: Mapping[str, Handler],
    *,
    clock: Callable[[], datetime] = lambda: NOW,
    concurrency: int = 4,
    lease_s: float = LONG_S,
    poll_s: float = LONG_S,
    grace_s: float = LONG_S,
    per_destination: int = 20,
    abandon: Abandon = lambda *_: None,
) -> AsyncIterator[Worker]:
    worker = Worker(
        database=database,
        handlers=handlers,
        clock=clock,
        concurrency=concurrency,
        lease_s=lease_s,
        poll_s=poll_s,
        grace_s=grace_s,
        per_destination=per_destination,
        abandon=abandon,
    )
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running


async def put(database: SqlDatabase, *kinds: str) -> None:
    jobs = [NewJob(kind, {"n": n}, NOW) for n, kind in enumerate(kinds)]
    await database.write(lambda c: [queue.put(c, job, NOW) for job in jobs])


async def jobs(database: SqlDatabase) -> Sequence[Job]:
    return await database.read(lambda c: queue.list_jobs(c, limit=99))


def note(connection: sa.Connection, subject: str) -> None:
    """Something that a handler records, visible in the audit chain."""
    audit.record(connection, now=NOW, actor="job", action="done", subject=subject, outcome="")


async def noted(database: SqlDatabase) -> list[str]:
    events = await database.read(lambda c: audit.list_events(c, limit=999))
    return [event.subject for event in reversed(events)]


class Handlers:
    """Handlers that tell when they run and return what the test wants."""

    def __init__(self, *results: Result | BaseException) -> None:
        self.results = list(results)
        self.seen: asyncio.Queue[Job] = asyncio.Queue()

    async def __call__(self, job: Job) -> Result:
        self.seen.put_nowait(job)
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result


class Abandoned:
    """What is called as a job becomes a dead letter."""

    def __init__(self, error: Exception | None = None) -> None:
        self.jobs: list[Job] = []
        self.told = asyncio.Event()
        self._error = error
        self._loop = asyncio.get_running_loop()

    def __call__(self, connection: sa.Connection, job: Job, now: datetime) -> None:
        self.jobs.append(job)
        note(connection, "abandoned")
        if self._error is not None:
            raise self._error
        self._loop.call_soon_threadsafe(self.told.set)


class Blocked:
    """A handler that waits until it is let go."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[Job] = asyncio.Queue()
        self.go_on = asyncio.Event()
        self.cancelled: asyncio.Queue[Job] = asyncio.Queue()

    async def __call__(self, job: Job) -> Result:
        self.begun.put_nowait(job)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(job)
            raise
        return Done(partial(note, subject=str(job.payload["n"])))


async def test_a_job_is_done_and_what_came_of_it_recorded(database: SqlDatabase) -> None:
    await put(database, "a")
    handler = Handlers(Done(partial(note, subject="a")))
    async with working(database, {"a": handler}):
        await handler.seen.get()
    assert await jobs(database) == []
    assert await noted(database) == ["a"]


async def test_jobs_that_are_there_run_at_once_and_later_ones_when_woken(
    sqlite_database: SqlDatabase,
) -> None:
    handler = Handlers(*[Done()] * 3)
    await put(sqlite_database, "a")
    async with working(sqlite_database, {"a": handler}) as worker:
        await handler.seen.get()
        await put(sqlite_database, "a", "a")
        worker.wake()
        await handler.seen.get()
        await handler.seen.get()
    assert await jobs(sqlite_database) == []


async def test_jobs_that_nobody_tells_of_are_found_by_looking(
    sqlite_database: SqlDatabase,
) -> None:
    handler = Handlers(Done())
    async with working(sqlite_database, {"a": handler}, poll_s=0.01):
        await put(sqlite_database, "a")
        await handler.seen.get()
    assert await jobs(sqlite_database) == []


async def test_no_more_than_the_concurrency_run_at_a_time(sqlite_database: SqlDatabase) -> None:
    await put(sqlite_database, *["a"] * 5)
    handler = Blocked()
    async with working(sqlite_database, {"a": handler}, concurrency=2):
        await handler.begun.get()
        await handler.begun.get()
        leased = [job for job in await jobs(sqlite_database) if job.token]
        assert len(leased) == 2
        handler.go_on.set()
        for _ in range(3):
            await handler.begun.get()
    assert sorted(await noted(sqlite_database)) == list("01234")


async def test_a_retry_is_recorded_and_the_job_due_later(database: SqlDatabase) -> None:
    await put(database, "a")
    later = NOW + timedelta(minutes=5)
    handler = Handlers(
        Retry(later, Reason.BACKBONE_UNAVAILABLE, "no route", partial(note, subject="tried"))
    )
    async with working(database, {"a": handler}):
        await handler.seen.get()
    [job] = await jobs(database)
    assert (job.due_at, job.reason, job.detail) == (
        later,
        Reason.BACKBONE_UNAVAILABLE,
        "no route",
    )
    assert (job.token, await noted(database)) == (None, ["tried"])


async def test_a_failure_is_recorded_and_the_job_kept_as_a_dead_letter(
    database: SqlDatabase,
) -> None:
    await put(database, "a")
    handler = Handlers(Failed(Reason.DELIVERY_EXPIRED, "24 h", partial(note, subject="given up")))
    async with working(database, {"a": handler}):
        await handler.seen.get()
    [job] = await jobs(database)
    assert (job.state, job.reason) == (JobState.DEAD, Reason.DELIVERY_EXPIRED)
    assert await noted(database) == ["given up"]


async def test_a_handler_that_raises_a_direct_error_is_tried_again(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    handler = Handlers(DirectError(Reason.DIRECTORY_UNAVAILABLE, "no answer"))
    async with working(sqlite_database, {"a": handler}):
        await handler.seen.get()
    [job] = await jobs(sqlite_database)
    assert (job.reason, job.detail) == (Reason.DIRECTORY_UNAVAILABLE, "no answer")
    assert job.due_at == NOW + timedelta(minutes=1)


async def test_an_unforeseen_error_is_tried_again_ever_later_and_quotes_nothing(
    sqlite_database: SqlDatabase,
) -> None:
    logged = LogCapture()
    structlog.configure(processors=[logged])
    await put(sqlite_database, "a")
    clock = Clock()
    waits = []
    for _ in range(8):
        handler = Handlers(ValueError("the patient's name"))
        async with working(sqlite_database, {"a": handler}, clock=clock):
            await handler.seen.get()
        [job] = await jobs(sqlite_database)
        waits.append((job.due_at - clock.now) / timedelta(minutes=1))
        clock.now = job.due_at
    structlog.reset_defaults()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert job.reason is Reason.INTERNAL
    assert "ValueError at test_worker.py" in str(job.detail)
    assert "patient" not in str(job.detail) + str(logged.entries)


async def test_a_job_that_breaks_again_and_again_becomes_a_dead_letter_and_is_told_of_once(
    database: SqlDatabase,
) -> None:
    await put(database, "a")
    clock, abandoned = Clock(), Abandoned()
    for tried in range(ERRORS):
        assert abandoned.jobs == []
        handler = Handlers(ValueError("x"))
        async with working(database, {"a": handler}, clock=clock, abandon=abandoned):
            await handler.seen.get()
        [job] = await jobs(database)
        assert job.attempts == tried + 1
        clock.now = job.due_at
    assert (job.state, job.reason) == (JobState.DEAD, Reason.INTERNAL)
    assert [each.id for each in abandoned.jobs] == [job.id]
    # What it wrote is in the transaction that made the dead letter.
    assert await noted(database) == ["abandoned"]
    # Within half a day: nobody waits longer than a message may take.
    assert timedelta(hours=2) < clock.now - NOW < timedelta(hours=12)


async def test_a_dead_letter_stays_one_where_telling_of_it_breaks(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    clock, abandoned = Clock(), Abandoned(KeyError("y"))
    for _ in range(ERRORS):
        handler = Handlers(ValueError("x"))
        async with working(sqlite_database, {"a": handler}, clock=clock, abandon=abandoned):
            await handler.seen.get()
        [job] = await jobs(sqlite_database)
        clock.now = job.due_at
    assert (job.state, bool(abandoned.jobs)) == (JobState.DEAD, True)
    assert await noted(sqlite_database) == []


async def test_a_job_that_kills_its_process_becomes_a_dead_letter_and_runs_no_more(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    clock, abandoned = Clock(), Abandoned()
    for _ in range(ERRORS):
        await sqlite_database.write(
            lambda c: queue.claim(c, now=clock.now, lease_s=LONG_S, limit=1)
        )
        await sqlite_database.write(lambda c: queue.break_leases(c, clock.now))
        clock.now += timedelta(hours=2)
    handler = Handlers(Done())
    async with working(sqlite_database, {"a": handler}, clock=clock, abandon=abandoned):
        await abandoned.told.wait()
    assert handler.seen.empty()
    [job] = await jobs(sqlite_database)
    assert job.state is JobState.DEAD
    await sqlite_database.write(lambda c: queue_control.retry_now(c, job.id, clock.now))
    async with working(sqlite_database, {"a": handler}, clock=clock):
        await handler.seen.get()
    assert await jobs(sqlite_database) == []


async def test_a_retry_that_was_foreseen_is_no_error_however_often(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    for _ in range(ERRORS + 1):
        handler = Handlers(Retry(NOW, Reason.BACKBONE_UNAVAILABLE, "busy"))
        async with working(sqlite_database, {"a": handler}, clock=lambda: NOW, concurrency=1) as w:
            await handler.seen.get()
            w.stop()
    [job] = await jobs(sqlite_database)
    assert (job.state, job.errors) == (JobState.READY, 0)


async def test_a_handler_that_is_cancelled_from_within_is_tried_again(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    handler = Handlers(asyncio.CancelledError())
    async with working(sqlite_database, {"a": handler}):
        await handler.seen.get()
    [job] = await jobs(sqlite_database)
    assert job.reason is Reason.INTERNAL


async def test_a_record_that_raises_leaves_nothing_and_the_job_is_tried_again(
    sqlite_database: SqlDatabase,
) -> None:
    def broken(connection: sa.Connection) -> None:
        note(connection, "half")
        raise KeyError("x")

    await put(sqlite_database, "a")
    handler = Handlers(Done(broken))
    async with working(sqlite_database, {"a": handler}):
        await handler.seen.get()
    [job] = await jobs(sqlite_database)
    assert job.due_at == NOW + timedelta(minutes=1)
    assert await noted(sqlite_database) == []


async def test_kinds_without_a_handler_are_left_alone(sqlite_database: SqlDatabase) -> None:
    await put(sqlite_database, "other", "a")
    handler = Handlers(Done())
    async with working(sqlite_database, {"a": handler}):
        await handler.seen.get()
    [job] = await jobs(sqlite_database)
    assert (job.kind, job.attempts) == ("other", 0)


async def test_a_stopping_worker_lets_what_runs_end(sqlite_database: SqlDatabase) -> None:
    await put(sqlite_database, "a", "a")
    handler = Blocked()
    async with working(sqlite_database, {"a": handler}, concurrency=1) as worker:
        await handler.begun.get()
        worker.stop()
        handler.go_on.set()
    assert len(await noted(sqlite_database)) == 1
    [left] = await jobs(sqlite_database)
    assert (left.attempts, left.token) == (0, None)


async def test_what_does_not_end_within_the_grace_period_is_cancelled_and_handed_back(
    database: SqlDatabase,
) -> None:
    await put(database, "a", "a")
    handler = Blocked()
    async with working(database, {"a": handler}, grace_s=0.01):
        await handler.begun.get()
        await handler.begun.get()
    assert handler.cancelled.qsize() == 2
    assert [(job.attempts, job.token) for job in await jobs(database)] == [(0, None)] * 2


async def test_a_database_that_fails_does_not_keep_a_worker_from_stopping(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    failing, handler = Failing(sqlite_database), Blocked()
    async with working(failing, {"a": handler}, grace_s=0.01):
        await handler.begun.get()
        failing.failures = 1000
    [job] = await jobs(sqlite_database)
    assert job.token is not None  # its lease will end by itself


async def test_a_lease_is_renewed_while_its_handler_runs(sqlite_database: SqlDatabase) -> None:
    await put(sqlite_database, "a")
    clock, handler = Clock(), Blocked()
    async with working(sqlite_database, {"a": handler}, clock=clock, lease_s=0.02):
        first = await handler.begun.get()
        clock.now += timedelta(hours=1)
        while True:  # as long as it takes: the test ends when the lease has moved
            [job] = await jobs(sqlite_database)
            if job.lease_until != first.lease_until:
                break
        handler.go_on.set()
    assert await noted(sqlite_database) == ["0"]


async def test_a_handler_whose_lease_was_lost_is_cancelled_and_records_nothing(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    handler = Blocked()
    async with working(sqlite_database, {"a": handler}, lease_s=0.02):
        await handler.begun.get()
        [other] = await sqlite_database.write(
            lambda c: queue.claim(c, now=NOW + timedelta(hours=1), lease_s=60, limit=9)
        )
        await handler.cancelled.get()
    [job] = await jobs(sqlite_database)
    assert job == other
    assert await noted(sqlite_database) == []


async def test_who_ends_after_the_lease_was_lost_records_nothing(
    database: SqlDatabase,
) -> None:
    await put(database, "a")
    handler = Blocked()
    async with working(database, {"a": handler}):
        await handler.begun.get()
        await database.write(
            lambda c: queue.claim(c, now=NOW + timedelta(hours=2), lease_s=60, limit=9)
        )
        handler.go_on.set()
    assert await noted(database) == []
    assert len(await jobs(database)) == 1


class Failing:
    """A database whose next writes fail, as on a full disk."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database
        self.failures = 0
        self.failed = asyncio.Event()
        self.read = database.read

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        if self.failures:
            self.failures -= 1
            self.failed.set()
            raise DirectError(Reason.INTERNAL, "database or disk is full")
        return await self._database.write(work)


async def test_the_outcome_survives_a_database_that_fails_for_a_while(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    failing, handler = Failing(sqlite_database), Blocked()
    async with working(failing, {"a": handler}, poll_s=0.01):
        await handler.begun.get()
        failing.failures = 3
        handler.go_on.set()
    assert handler.begun.empty()
    assert await noted(sqlite_database) == ["0"]
    assert await jobs(sqlite_database) == []


async def test_an_outcome_that_cannot_be_recorded_leaves_the_job_to_its_lease(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    failing, handler = Failing(sqlite_database), Blocked()
    async with working(failing, {"a": handler}, poll_s=0.001):
        await handler.begun.get()
        failing.failures = 1000
        handler.go_on.set()
        await failing.failed.wait()
    [job] = await jobs(sqlite_database)
    assert job.token is not None
    again = await sqlite_database.write(
        lambda c: queue.claim(c, now=NOW + timedelta(hours=2), lease_s=60, limit=9)
    )
    assert [job.id for job in again] == [job.id]


async def test_a_database_that_fails_does_not_end_the_worker(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    failing, handler = Failing(sqlite_database), Handlers(Done())
    failing.failures = 3
    async with working(failing, {"a": handler}, poll_s=0.01):
        await handler.seen.get()
    assert await jobs(sqlite_database) == []


async def test_leases_that_cannot_be_renewed_are_kept_and_tried_again(
    sqlite_database: SqlDatabase,
) -> None:
    await put(sqlite_database, "a")
    failing, handler = Failing(sqlite_database), Blocked()
    async with working(failing, {"a": handler}, lease_s=0.02):
        await handler.begun.get()
        failing.failures = 1
        await failing.failed.wait()
        handler.go_on.set()
    assert await noted(sqlite_database) == ["0"]


async def test_a_cancelled_worker_cancels_what_runs(sqlite_database: SqlDatabase) -> None:
    await put(sqlite_database, "a")
    handler = Blocked()
    worker = Worker(
        database=sqlite_database,
        handlers={"a": handler},
        clock=Clock(),
        concurrency=1,
        lease_s=LONG_S,
        poll_s=LONG_S,
    )
    running = asyncio.create_task(worker.run())
    await handler.begun.get()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await handler.cancelled.get()


async def test_a_silent_destination_holds_up_neither_the_others_nor_all_workers(
    sqlite_database: SqlDatabase,
) -> None:
    silent, other = "silent.example", "other.example"
    jobs_in = [NewJob("a", {"n": n}, NOW, destination=silent) for n in range(6)]
    jobs_in.append(NewJob("a", {"n": 6}, NOW + timedelta(seconds=1), destination=other))
    await sqlite_database.write(lambda c: [queue.put(c, job, NOW) for job in jobs_in])
    tried: list[str] = []
    reached = asyncio.Event()
    clock = Clock()
    clock.now = NOW + timedelta(seconds=1)

    async def deliver(job: Job) -> Result:
        tried.append(job.destination)
        if job.destination == silent:
            later = clock.now + timedelta(hours=1)
            return Retry(later, Reason.BACKBONE_UNAVAILABLE, "no route")
        reached.set()
        return Done()

    async with working(sqlite_database, {"a": deliver}, clock=clock, concurrency=1):
        await reached.wait()
    assert tried == [silent, silent, other]
    assert [job.attempts for job in await jobs(sqlite_database)] == [0, 0, 0, 0, 1, 1]


async def test_a_destination_that_puts_single_recipients_off_is_not_left_alone(
    sqlite_database: SqlDatabase,
) -> None:
    jobs_in = [NewJob("a", {"n": n}, NOW, destination="b.example") for n in range(6)]
    await sqlite_database.write(lambda c: [queue.put(c, job, NOW) for job in jobs_in])
    tried: list[int] = []
    all_tried = asyncio.Event()

    async def deliver(job: Job) -> Result:
        tried.append(job.payload["n"])
        if len(tried) == len(jobs_in):
            all_tried.set()
        later = NOW + timedelta(hours=1)
        return Retry(later, Reason.BACKBONE_UNAVAILABLE, "mailbox full", answered=True)

    async with working(sqlite_database, {"a": deliver}, concurrency=1):
        await asyncio.wait_for(all_tried.wait(), 30)
    assert sorted(tried) == list(range(6))


async def test_no_more_than_fits_run_to_one_destination_at_a_time(
    sqlite_database: SqlDatabase,
) -> None:
    jobs_in = [NewJob("a", {"n": n}, NOW, destination="b.example") for n in range(4)]
    await sqlite_database.write(lambda c: [queue.put(c, job, NOW) for job in jobs_in])
    handler = Blocked()
    async with working(sqlite_database, {"a": handler}, per_destination=2):
        await handler.begun.get()
        await handler.begun.get()
        leased = [job for job in await jobs(sqlite_database) if job.token]
        assert len(leased) == 2
        handler.go_on.set()
        for _ in range(2):
            await handler.begun.get()
    assert sorted(await noted(sqlite_database)) == list("0123")
