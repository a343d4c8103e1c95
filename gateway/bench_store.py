"""How fast is a message durably accepted? Rows for `direct-gateway bench`.

Talks to a database of its own in a folder that it is given.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from certs.address import parse_address
from certs.ids import new_id
from gateway import messages
from gateway.database import SqlDatabase
from gateway.messages import Direction, NewMessage, Source
from gateway.queue import NewJob
from gateway.spool import SpoolBodies

__all__ = ["AcceptRow", "measure_accept"]

CALLERS: Final = (1, 20, 100)
_NOW: Final = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
_SENDER: Final = parse_address("drjones@direct.hillside.example")
_RECIPIENT: Final = parse_address("smith@direct.lakeview.example")


@dataclass(frozen=True, slots=True)
class AcceptRow:
    """What one run came to. Sizes are in octets, times in the unit of their names."""

    callers: int
    size: int
    messages: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of this process, for one message


async def measure_accept(
    url: str, folder: Path, *, count: int = 2000, size: int = 10_240
) -> Sequence[AcceptRow]:
    """Accept `count` messages of `size` octets with 1, 20 and 100 callers at a time.

    Each is a message row, a body, a recipient, a job and an audit event, committed before the
    caller goes on, into the spool and database that the gateway itself would use.
    """
    async with SqlDatabase.open(url) as database:
        await database.migrate()
        bodies = SpoolBodies(database=database, folder=folder, clock=lambda: _NOW)
        return [await _run(database, bodies, callers, count, size) for callers in CALLERS]


async def _run(
    database: SqlDatabase, bodies: SpoolBodies, callers: int, count: int, size: int
) -> AcceptRow:
    content = os.urandom(size)
    left = iter(range(count))
    took: list[float] = []
    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_accept(database, bodies, content, left, took) for _ in range(callers)))
    elapsed, cpu = time.perf_counter() - begun, time.process_time() - cpu
    took.sort()
    return AcceptRow(
        callers=callers,
        size=size,
        messages=count,
        per_second=count / elapsed,
        p50_ms=took[len(took) // 2] * 1000,
        p99_ms=took[len(took) * 99 // 100] * 1000,
        cpu_us=cpu / count * 1_000_000,
    )


async def _accept(
    database: SqlDatabase,
    bodies: SpoolBodies,
    content: bytes,
    left: Iterator[int],
    took: list[float],
) -> None:
    """Accept one message after the other, as a listener's session does."""
    for _ in left:
        begun = time.perf_counter()
        sink = bodies.sink()
        sink.write(content)
        body = await sink.finish()
        message_id = new_id(_NOW)
        new = NewMessage(
            id=message_id,
            direction=Direction.INCOMING,
            source=Source.BACKBONE,
            actor="bench",
            envelope_sender=_SENDER,
            recipients=(_RECIPIENT,),
            body=body,
            dedupe_key=hashlib.sha256(message_id.bytes).hexdigest(),
        )
        job = NewJob("incoming", {"message": str(message_id)}, _NOW)
        await database.write(partial(messages.accept, new=new, jobs=[job], now=_NOW))
        took.append(time.perf_counter() - begun)
