"""gateway.queue_control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from certs.errors import DirectError, Reason
from gateway import queue, queue_control
from gateway.database import SqlDatabase
from gateway.queue import Job, JobState, NewJob
from gateway.queue_control import GIVE_UP, Depth

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


async def put(database: SqlDatabase, *, destination: str = "", due_at: datetime = NOW) -> UUID:
    job = NewJob("deliver", {"n": 1}, due_at, destination)
    return await database.write(lambda c: queue.put(c, job, NOW))


async def claim(database: SqlDatabase, now: datetime = NOW) -> Sequence[Job]:
    return await database.write(lambda c: queue.claim(c, now=now, lease_s=60, limit=9))


async def dead_letter(database: SqlDatabase) -> UUID:
    await put(database)
    [job] = await claim(database)
    await database.write(lambda c: queue.fail(c, job, Reason.DELIVERY_EXPIRED, "24 h"))
    return job.id


async def refused(database: SqlDatabase, work: Callable[[sa.Connection], None]) -> Reason:
    with pytest.raises(DirectError) as caught:
        await database.write(work)
    return caught.value.reason


async def test_a_held_job_waits_until_it_is_released(database: SqlDatabase) -> None:
    job = await put(database)
    for _ in range(2):  # holding what is held changes nothing
        await database.write(lambda c: queue_control.hold(c, job))
    assert await claim(database, LATER) == []
    for _ in range(2):
        await database.write(lambda c: queue_control.release(c, job))
    assert [one.id for one in await claim(database)] == [job]


async def test_a_job_that_is_held_while_it_runs_stays_held_on_a_retry(
    database: SqlDatabase,
) -> None:
    await put(database)
    [job] = await claim(database)
    await database.write(lambda c: queue_control.hold(c, job.id))
    await database.write(lambda c: queue.retry(c, job, NOW, Reason.INTERNAL, "x"))
    assert await claim(database) == []


@pytest.mark.parametrize("verb", [queue_control.hold, queue_control.release])
async def test_a_dead_letter_is_neither_held_nor_released(
    database: SqlDatabase, verb: Callable[..., None]
) -> None:
    job = await dead_letter(database)
    assert await refused(database, partial(verb, job_id=job)) is Reason.RESOURCE_CONFLICT


async def test_a_job_is_retried_now_whatever_its_state(database: SqlDatabase) -> None:
    waiting = await put(database, due_at=LATER)
    held = await put(database)
    await database.write(lambda c: queue_control.hold(c, held))
    dead = await dead_letter(database)
    for job in (waiting, held, dead):
        await database.write(partial(queue_control.retry_now, job_id=job, now=NOW))
    assert {job.id for job in await claim(database)} == {waiting, held, dead}


async def test_a_job_to_give_up_is_due_now_and_says_so_to_its_handler(
    database: SqlDatabase,
) -> None:
    job = await put(database, due_at=LATER)
    await database.write(lambda c: queue_control.give_up(c, job, NOW))
    [claimed] = await claim(database)
    assert claimed.payload == {"n": 1, GIVE_UP: True}


async def test_a_dropped_job_is_gone(database: SqlDatabase) -> None:
    job = await put(database)
    await database.write(lambda c: queue_control.drop(c, job, NOW))
    assert await database.read(lambda c: queue.list_jobs(c, limit=9)) == []


async def test_a_job_that_a_worker_is_at_is_not_dropped_before_its_lease_ends(
    database: SqlDatabase,
) -> None:
    job = await put(database)
    await claim(database)
    drop = partial(queue_control.drop, job_id=job, now=NOW)
    assert await refused(database, drop) is Reason.RESOURCE_CONFLICT
    await database.write(lambda c: queue_control.drop(c, job, LATER))


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(queue_control.hold, id="hold"),
        pytest.param(queue_control.release, id="release"),
        pytest.param(partial(queue_control.retry_now, now=NOW), id="retry-now"),
        pytest.param(partial(queue_control.give_up, now=NOW), id="give-up"),
        pytest.param(partial(queue_control.drop, now=NOW), id="drop"),
    ],
)
async def test_no_such_job(database: SqlDatabase, verb: Callable[..., None]) -> None:
    assert await refused(database, partial(verb, job_id=uuid4())) is Reason.RESOURCE_NOT_FOUND


async def test_nothing_is_delivered_to_a_domain_that_is_paused(database: SqlDatabase) -> None:
    await put(database, destination="a.example")
    other = await put(database, destination="b.example")
    for _ in range(2):  # pausing what is paused changes nothing
        await database.write(lambda c: queue_control.pause(c, "a.example", NOW))
    assert await database.read(queue_control.paused) == ["a.example"]
    assert [job.id for job in await claim(database)] == [other]
    await database.write(lambda c: queue_control.resume(c, "a.example"))
    assert len(await claim(database)) == 1


async def test_what_is_not_paused_cannot_be_resumed(database: SqlDatabase) -> None:
    resume = partial(queue_control.resume, destination="a.example")
    assert await refused(database, resume) is Reason.RESOURCE_NOT_FOUND


async def test_depths_count_by_kind_and_state(database: SqlDatabase) -> None:
    await dead_letter(database)
    await put(database, due_at=LATER)
    await put(database)
    assert await database.read(queue_control.depths) == [
        Depth("deliver", JobState.DEAD, 1, NOW),
        Depth("deliver", JobState.READY, 2, NOW),
    ]
