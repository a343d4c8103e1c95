"""gateway.queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import pytest
import sqlalchemy as sa

from certs.errors import Reason
from gateway import queue
from gateway.database import SqlDatabase
from gateway.queue import Job, JobState, LeaseLostError, NewJob

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=10)
LEASE_S = 60.0
LEASE_OVER = NOW + timedelta(seconds=61)


def new(kind: str = "deliver", **values: object) -> NewJob:
    return NewJob(**{"kind": kind, "payload": {"n": 1}, "due_at": NOW, **values})  # type: ignore[arg-type]  # a shorthand


async def put(database: SqlDatabase, *jobs: NewJob) -> None:
    await database.write(lambda c: [queue.put(c, job, NOW) for job in jobs])


async def claim(
    database: SqlDatabase, now: datetime = NOW, limit: int = 10, kinds: Sequence[str] | None = None
) -> Sequence[Job]:
    work: Callable[[sa.Connection], Sequence[Job]] = partial(
        queue.claim, now=now, lease_s=LEASE_S, limit=limit, kinds=kinds
    )
    return await database.write(work)


async def listed(database: SqlDatabase, state: JobState | None = None) -> Sequence[Job]:
    return await database.read(lambda c: queue.list_jobs(c, limit=99, state=state))


async def test_a_job_comes_back_as_it_was_put(database: SqlDatabase) -> None:
    payload = {"message": str(uuid4()), "to": ["a@b.example"], "deep": {"x": None, "y": 1.5}}
    await put(database, new(payload=payload, destination="b.example", key="k"))
    [job] = await claim(database)
    assert (job.kind, job.payload, job.destination, job.key) == (
        "deliver",
        payload,
        "b.example",
        "k",
    )
    assert (job.attempts, job.state, job.due_at, job.created_at) == (1, JobState.READY, NOW, NOW)
    assert job.lease_until == NOW + timedelta(seconds=LEASE_S)


async def test_a_job_is_claimed_once_while_its_lease_lasts(database: SqlDatabase) -> None:
    await put(database, new())
    assert len(await claim(database)) == 1
    assert await claim(database) == []


async def test_a_job_is_claimed_again_when_its_lease_is_over(database: SqlDatabase) -> None:
    await put(database, new())
    [first] = await claim(database)
    [second] = await claim(database, LEASE_OVER)
    assert (second.id, second.attempts) == (first.id, 2)
    assert second.token != first.token


async def test_a_job_is_not_claimed_before_it_is_due(database: SqlDatabase) -> None:
    await put(database, new(due_at=LATER))
    assert await claim(database) == []
    assert len(await claim(database, LATER)) == 1


async def test_the_longest_due_are_claimed_first_and_no_more_than_asked_for(
    database: SqlDatabase,
) -> None:
    for n in (3, 1, 2, 0):
        await put(database, new(payload={"n": n}, due_at=NOW - timedelta(minutes=9 - n)))
    assert [job.payload["n"] for job in await claim(database, limit=3)] == [0, 1, 2]
    assert [job.payload["n"] for job in await claim(database)] == [3]


async def test_only_the_kinds_asked_for_are_claimed(database: SqlDatabase) -> None:
    await put(database, new("deliver"), new("incoming"))
    assert [job.kind for job in await claim(database, kinds=["incoming"])] == ["incoming"]


async def test_destinations_that_are_left_alone_are_not_claimed(database: SqlDatabase) -> None:
    await put(database, new(destination="a.example"), new(destination="b.example"), new())
    claimed = await database.write(
        lambda c: queue.claim(c, now=NOW, lease_s=60, limit=9, not_to={"a.example"})
    )
    assert sorted(job.destination for job in claimed) == ["", "b.example"]


async def test_a_key_is_put_once_while_its_job_exists(database: SqlDatabase) -> None:
    first = await database.write(lambda c: queue.put(c, new(key="k"), NOW))
    again = await database.write(lambda c: queue.put(c, new(key="k"), NOW))
    assert first == again
    [job] = await claim(database)
    await database.write(lambda c: queue.finish(c, job))
    assert await database.write(lambda c: queue.put(c, new(key="k"), NOW)) != first


async def test_a_dead_letter_with_a_key_is_tried_again_when_there_is_news_for_it(
    database: SqlDatabase,
) -> None:
    await put(database, new(key="k"))
    [job] = await claim(database)
    await database.write(lambda c: queue.fail(c, job, Reason.INTERNAL, "KeyError"))
    await put(database, new(key="k"))
    [again] = await claim(database)
    assert (again.id, again.errors) == (job.id, 0)


async def test_a_finished_job_is_gone(database: SqlDatabase) -> None:
    await put(database, new())
    [job] = await claim(database)
    await database.write(lambda c: queue.finish(c, job))
    assert await listed(database) == []


OUTCOMES = [
    pytest.param(lambda c, job: queue.finish(c, job), id="finish"),
    pytest.param(lambda c, job: queue.retry(c, job, LATER, Reason.INTERNAL, "x"), id="retry"),
    pytest.param(lambda c, job: queue.fail(c, job, Reason.INTERNAL, "x"), id="fail"),
    pytest.param(lambda c, job: queue.hand_back(c, job), id="hand-back"),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_who_lost_the_lease_can_record_nothing(
    database: SqlDatabase, outcome: Callable[[sa.Connection, Job], None]
) -> None:
    await put(database, new())
    [late] = await claim(database)
    [present] = await claim(database, LEASE_OVER)
    with pytest.raises(LeaseLostError):
        await database.write(lambda c: outcome(c, late))
    [job] = await listed(database)
    assert job == present


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_an_outcome_is_recorded_once(
    database: SqlDatabase, outcome: Callable[[sa.Connection, Job], None]
) -> None:
    await put(database, new())
    [job] = await claim(database)
    await database.write(lambda c: outcome(c, job))
    with pytest.raises(LeaseLostError):
        await database.write(lambda c: outcome(c, job))


async def test_a_retried_job_is_due_later_and_tells_why(database: SqlDatabase) -> None:
    await put(database, new())
    [job] = await claim(database)
    reason = Reason.BACKBONE_UNAVAILABLE
    await database.write(lambda c: queue.retry(c, job, LATER, reason, "no route"))
    assert await claim(database, LATER - timedelta(seconds=1)) == []
    [again] = await claim(database, LATER)
    assert (again.attempts, again.reason, again.detail) == (2, reason, "no route")


async def test_a_dead_letter_is_kept_and_not_claimed(database: SqlDatabase) -> None:
    await put(database, new())
    [job] = await claim(database)
    await database.write(lambda c: queue.fail(c, job, Reason.DELIVERY_EXPIRED, "24 h"))
    assert await claim(database, LATER) == []
    [dead] = await listed(database, JobState.DEAD)
    assert (dead.reason, dead.detail, dead.token) == (Reason.DELIVERY_EXPIRED, "24 h", None)


async def test_a_job_handed_back_is_due_as_if_never_claimed(database: SqlDatabase) -> None:
    await put(database, new())
    [job] = await claim(database)
    await database.write(lambda c: queue.hand_back(c, job))
    [again] = await claim(database)
    assert (again.attempts, again.due_at) == (1, NOW)


async def test_a_renewed_lease_lasts_longer_and_a_lost_one_is_told(database: SqlDatabase) -> None:
    await put(database, new(payload={"n": 1}), new(payload={"n": 2}))
    kept, lost = await claim(database)
    await database.write(lambda c: queue.finish(c, lost))
    half = NOW + timedelta(seconds=LEASE_S / 2)
    assert await database.write(lambda c: queue.renew(c, [kept, lost], half, LEASE_S)) == [lost]
    assert await claim(database, LEASE_OVER) == []
    assert len(await claim(database, half + timedelta(seconds=LEASE_S))) == 1


async def test_broken_leases_are_claimed_at_once_and_their_holders_record_nothing(
    database: SqlDatabase,
) -> None:
    await put(database, new())
    [killed] = await claim(database)
    assert await database.write(lambda c: queue.break_leases(c, NOW)) == 1
    [present] = await claim(database)
    assert present.id == killed.id
    with pytest.raises(LeaseLostError):
        await database.write(lambda c: queue.finish(c, killed))
    await database.write(lambda c: queue.finish(c, present))
    assert await database.write(lambda c: queue.break_leases(c, NOW)) == 0


async def test_what_several_processes_were_killed_with_waits_each_for_another_time(
    database: SqlDatabase,
) -> None:
    await put(database, *[new() for _ in range(3)])
    for killed in range(1, 4):
        held = await claim(database, limit=3)
        assert {job.errors for job in held} == {killed - 1}
        assert await database.write(lambda c: queue.break_leases(c, NOW)) == 3
    suspects = await listed(database)
    assert {job.errors for job in suspects} == {3}
    assert len({job.due_at for job in suspects}) == 3
    minute = timedelta(minutes=1)
    assert all(NOW + minute <= job.due_at < NOW + 2 * minute for job in suspects)


@pytest.mark.parametrize("holder", [b"\x00" * 8, b"killed 8", b"\xff" * 8])
async def test_only_the_leases_of_the_process_that_was_killed_are_taken_back(
    database: SqlDatabase, holder: bytes
) -> None:
    await put(database, *[new() for _ in range(3)])

    async def claim_as(one: bytes) -> Job:
        [job] = await database.write(
            lambda c: queue.claim(c, now=NOW, lease_s=60, limit=1, holder=one)
        )
        return job

    before, killed, after = [await claim_as(one) for one in (b"\x55" * 8, holder, b"\xaa" * 8)]
    assert await database.write(lambda c: queue.break_leases(c, NOW, holder)) == 1
    [taken_over] = await claim(database, limit=3)
    assert taken_over.id == killed.id
    for held in (before, after):
        await database.write(partial(queue.finish, job=held))
    with pytest.raises(LeaseLostError):
        await database.write(lambda c: queue.finish(c, killed))


async def test_errors_count_in_a_row_and_who_let_the_lease_end_has_made_one(
    database: SqlDatabase,
) -> None:
    await put(database, new())
    await claim(database)
    [job] = await claim(database, now=NOW + timedelta(hours=1))
    assert (job.attempts, job.errors) == (2, 1)
    await database.write(
        lambda c: queue.retry(c, job, NOW, Reason.INTERNAL, "KeyError", broken=True)
    )
    [job] = await claim(database, now=NOW + timedelta(hours=1))
    assert job.errors == 2
    await database.write(lambda c: queue.retry(c, job, NOW, Reason.BACKBONE_UNAVAILABLE, "busy"))
    [job] = await listed(database)
    assert job.errors == 0


async def test_jobs_are_listed_by_destination_and_found_by_id(database: SqlDatabase) -> None:
    await put(database, new(destination="a.example"), new(destination="b.example"))
    [job] = await database.read(lambda c: queue.list_jobs(c, limit=9, destination="b.example"))
    assert await database.read(lambda c: queue.get(c, job.id)) == job
    assert await database.read(lambda c: queue.get(c, uuid4())) is None
