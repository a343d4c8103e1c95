"""What was acknowledged is there after a kill -9, whole, and is worked off once."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from gateway import audit, messages, queue
from gateway.messages import MessageState
from gateway.queue import Job
from tests.helpers.accepting import Store, clock, open_store


def run_until(folder: Path, lines: int) -> dict[UUID, str]:
    """Run a store in a process, kill it after `lines` lines; return what it said it accepted."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.accepting", folder, "100000"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        told += child.stdout.readlines()
    return accepted_in(told)


def accepted_in(lines: list[str]) -> dict[UUID, str]:
    """Return id and SHA-256 of each message that a line of the process says it accepted."""
    words = [line.split() for line in lines if line.endswith("\n")]
    return {UUID(word[1]): word[2] for word in words if word[0] == "accepted"}


async def work_off(store: Store) -> None:
    """Do what is left to do, an hour later: the leases of the killed process are over."""
    later = clock() + timedelta(hours=1)
    claim = partial(queue.claim, now=later, lease_s=60, limit=100)
    while jobs := await store.database.write(claim):
        for job in jobs:
            result = await store.incoming(job)
            await store.database.write(partial(settle, job=job, record=result.record))


def settle(connection: sa.Connection, job: Job, record: Callable[[sa.Connection], object]) -> None:
    queue.finish(connection, job)
    record(connection)


async def check(store: Store, accepted: dict[UUID, str]) -> None:
    """Everything accepted is there whole, is worked off, and the chain of events is sound."""
    everything = await store.database.read(lambda c: messages.list_messages(c, limit=10**6))
    assert accepted.keys() <= {message.id for message in everything}
    await work_off(store)
    for message in await store.database.read(lambda c: messages.list_messages(c, limit=10**6)):
        assert message.state is MessageState.FINISHED
        assert message.body_key is not None
        async with store.bodies.open(message.body_key) as body:
            digest = hashlib.sha256(body.read()).hexdigest()
        assert digest == accepted.get(message.id, digest)
        assert message.evidence is not None
        assert message.evidence["sha256"] == digest
        reached = partial(messages.recipients_of, message_id=message.id)
        assert len(await store.database.read(reached)) == 2
    assert await store.database.read(audit.verify) is None
    integrity = await store.database.read(
        lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()
    )
    assert integrity == "ok"


@pytest.mark.parametrize("rounds", [(1, 2, 3), (10, 37, 64), (150, 301)], ids=str)
async def test_nothing_acknowledged_is_lost_by_a_kill(
    tmp_path: Path, rounds: tuple[int, ...]
) -> None:
    accepted: dict[UUID, str] = {}
    for lines in rounds:
        accepted |= await asyncio.to_thread(run_until, tmp_path, lines)
    assert len(accepted) >= sum(rounds)
    async with open_store(tmp_path, print) as store:
        await check(store, accepted)
