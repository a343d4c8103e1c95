"""gateway.begun, and what a worker makes of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from certs.errors import Reason
from gateway import queue, queue_control
from gateway.begun import put_begun
from gateway.database import SqlDatabase
from gateway.queue import Job, NewJob
from gateway.results import Done, Next, Retry
from gateway.worker import Worker
from tests.integration.test_mt_cases import eventually
from tests.unit.gateway.test_worker import NOW, Blocked, Handlers, jobs, note, noted, put, working

SOON_S = 20.0
NEW = NewJob("a", {"n": 1}, NOW)
FAR = "far.example"


async def begun(worker: Worker, new: NewJob = NEW) -> Job:
    """Return `new` as a job once the worker has seen that none wait."""
    found: list[Job] = []

    async def is_begun() -> bool:
        found.extend(job for job in [worker.begin(new)] if job)
        return bool(found)

    await eventually(is_begun)
    return found[0]


async def test_a_job_begun_with_its_commit_is_done_and_knows_what_its_maker_knew(
    database: SqlDatabase,
) -> None:
    handler = Handlers(Done(partial(note, subject="a")))
    async with working(database, {"a": handler}) as worker:
        job = await begun(worker)
        await database.write(lambda c: put_begun(c, job))
        worker.start(job, "known")
        done = await handler.seen.get()
    assert (done.id, done.attempts, done.payload, done.known) == (job.id, 1, {"n": 1}, "known")
    assert await jobs(database) == []
    assert await noted(database) == ["a"]


async def test_a_begun_job_is_nobody_elses_until_its_lease_runs_out(database: SqlDatabase) -> None:
    async with working(database, {}, lease_s=60.0) as worker:
        job = await begun(worker)
        await database.write(lambda c: put_begun(c, job))
        claim = partial(queue.claim, lease_s=60.0, limit=9)
        assert await database.write(partial(claim, now=NOW)) == []
        [again] = await database.write(partial(claim, now=NOW + timedelta(seconds=60)))
        assert (again.id, again.attempts, again.errors) == (job.id, 2, 1)


async def test_a_job_that_was_not_committed_makes_room_again(sqlite_database: SqlDatabase) -> None:
    async with working(sqlite_database, {}, concurrency=1, per_destination=1) as worker:
        for _ in range(3):
            worker.leave(await begun(worker, NewJob("a", {}, NOW, destination=FAR)))
    assert await jobs(sqlite_database) == []


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(NewJob("a", {}, NOW, key="one"), id="with-a-key"),
        pytest.param(NewJob("a", {}, NOW + timedelta(seconds=1)), id="due-later"),
    ],
)
async def test_such_a_job_is_not_begun(sqlite_database: SqlDatabase, new: NewJob) -> None:
    async with working(sqlite_database, {}) as worker:
        worker.leave(await begun(worker))
        assert worker.begin(new) is None


async def test_no_more_are_begun_than_the_concurrency_and_none_before_those_that_wait(
    sqlite_database: SqlDatabase,
) -> None:
    handler = Blocked()
    async with working(sqlite_database, {"a": handler}, concurrency=1) as worker:
        first = await begun(worker)
        await sqlite_database.write(lambda c: put_begun(c, first))
        worker.start(first, None)
        await handler.begun.get()
        assert worker.begin(NEW) is None
        await put(sqlite_database, "a")
        # There is room when the first has ended, for the one that waits.
        handler.go_on.set()
        worker.wake()
        assert worker.begin(NEW) is None
        await handler.begun.get()
    assert await noted(sqlite_database) == ["1", "0"]


async def test_no_more_are_begun_to_a_destination_than_it_has_room_for(
    sqlite_database: SqlDatabase,
) -> None:
    async with working(sqlite_database, {}, per_destination=1) as worker:
        one = await begun(worker, NewJob("a", {}, NOW, destination=FAR))
        far = NewJob("a", {}, NOW, destination=FAR)
        assert worker.begin(far) is None
        worker.leave(one)
        # What was put instead goes first, now that there is room; then there is none that waits.
        assert worker.begin(far) is None
        worker.leave(await begun(worker, far))


async def test_none_is_begun_by_a_worker_that_stops(sqlite_database: SqlDatabase) -> None:
    async with working(sqlite_database, {}) as worker:
        worker.leave(await begun(worker))
        worker.stop()
        assert worker.begin(NEW) is None


async def test_what_follows_begins_as_the_job_ends_in_its_room(database: SqlDatabase) -> None:
    # What nobody looks for for an hour is begun, or not at all.
    first = Handlers(Done(then=[Next(NewJob("b", {"n": 2}, NOW), "known")]))
    second = Handlers(Done(partial(note, subject="b")))
    await put(database, "a")
    async with working(database, {"a": first, "b": second}, concurrency=1):
        done = await asyncio.wait_for(second.seen.get(), SOON_S)
    assert (done.payload, done.known) == ({"n": 2}, "known")
    assert await jobs(database) == []
    assert await noted(database) == ["b"]


async def test_what_follows_a_retry_is_put_as_well(sqlite_database: SqlDatabase) -> None:
    follower = Next(NewJob("b", {"n": 2}, NOW), None)
    later = NOW + timedelta(minutes=5)
    first = Handlers(Retry(later, Reason.BACKBONE_UNAVAILABLE, "", then=[follower]))
    second = Handlers(Done())
    await put(sqlite_database, "a")
    async with working(sqlite_database, {"a": first, "b": second}):
        await asyncio.wait_for(second.seen.get(), SOON_S)
    [job] = await jobs(sqlite_database)
    assert (job.kind, job.due_at) == ("a", later)


async def test_what_follows_in_numbers_is_done_one_after_the_other(
    sqlite_database: SqlDatabase,
) -> None:
    some = [Next(NewJob("b", {"n": n}, NOW), None) for n in range(5)]
    first, second = Handlers(Done(then=some)), Handlers(*[Done()] * 5)
    await put(sqlite_database, "a")
    async with working(sqlite_database, {"a": first, "b": second}, concurrency=1):
        seen = {(await asyncio.wait_for(second.seen.get(), SOON_S)).payload["n"] for _ in some}
    assert seen == set(range(5))
    assert await jobs(sqlite_database) == []


async def test_what_follows_to_a_paused_destination_waits(sqlite_database: SqlDatabase) -> None:
    await sqlite_database.write(lambda c: queue_control.pause(c, FAR, NOW))
    follower = NewJob("b", {"n": 2}, NOW, destination=FAR)
    first, second = Handlers(Done(then=[Next(follower, None)])), Handlers(Done())
    await put(sqlite_database, "a")
    async with working(sqlite_database, {"a": first, "b": second}) as worker:
        await first.seen.get()

        async def followed() -> bool:
            return [job.kind for job in await jobs(sqlite_database)] == ["b"]

        await eventually(followed)
        [job] = await jobs(sqlite_database)
        assert (job.attempts, job.token, job.lease_until) == (0, None, None)
        assert second.seen.empty()
        await sqlite_database.write(lambda c: queue_control.resume(c, FAR))
        worker.wake()
        done = await asyncio.wait_for(second.seen.get(), SOON_S)
    assert (done.id, done.attempts) == (job.id, 1)


async def test_of_a_job_whose_lease_was_lost_nothing_follows(sqlite_database: SqlDatabase) -> None:
    await put(sqlite_database, "a")

    lost = asyncio.Event()

    async def lose(job: Job) -> Done:
        other = partial(queue.claim, now=NOW + timedelta(hours=2), lease_s=60.0, limit=9)
        assert len(await sqlite_database.write(other)) == 1
        lost.set()
        return Done(then=[Next(NewJob("b", {}, NOW), None)])

    second = Handlers(Done())
    async with working(sqlite_database, {"a": lose, "b": second}):
        await lost.wait()
    assert [job.kind for job in await jobs(sqlite_database)] == ["a"]
    assert second.seen.empty()
