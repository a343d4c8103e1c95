"""Two served gateways on one PostgreSQL, one of them killed: each message ends once."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.database import PostgresqlServer
from tests.helpers.neighbours import PEER, Neighbours, neighbours
from tests.helpers.round_check import Round, settled

COUNT = 20
IN_FLIGHT = 8  # the jobs that one gateway works on at a time


async def submit(around: Neighbours, message_ids: list[str]) -> None:
    async with asyncio.TaskGroup() as group:
        for message_id in message_ids:
            group.create_task(around.submit(message_id, [PEER], 2000))


async def test_no_recipient_is_served_twice_and_a_kill_repeats_only_what_was_in_flight(
    tmp_path: Path, postgresql_server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRECT_GATEWAY_GATEWAY__LEASE_S", "10")
    names = [f"<{number}@test.example>" for number in range(2 * COUNT)]
    url = await postgresql_server.migrated_database()
    async with neighbours(tmp_path, database=url) as around:
        other = around.here.another()
        with around.here.served(), other.served() as process:
            await submit(around, names[:COUNT])
            assert await settled(around, Round(names[:COUNT], [])) is None
            # Two workers on one queue, and nothing went out twice.
            assert around.hisp.copies == Counter(names[:COUNT])

            load = asyncio.create_task(submit(around, names[COUNT:]))
            await asyncio.wait_for(around.hisp.until(COUNT + 10), 120)
            process.send_signal(signal.SIGKILL)
            process.wait()
            await load
            # What the killed one had begun comes back when its leases run out.
            assert await settled(around, Round(names, []), 150) is None
            assert around.hisp.repeated(names) <= IN_FLIGHT
