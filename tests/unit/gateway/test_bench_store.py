"""gateway.bench_store."""

from __future__ import annotations

from pathlib import Path

from gateway import audit, messages, queue
from gateway.bench_store import CALLERS, measure_accept
from gateway.database import SqlDatabase


async def test_each_row_tells_of_messages_that_were_accepted(
    database_url: str, tmp_path: Path
) -> None:
    rows = await measure_accept(database_url, tmp_path / "spool", count=10, size=500)
    assert [(row.callers, row.messages, row.size) for row in rows] == [
        (callers, 10, 500) for callers in CALLERS
    ]
    assert all(row.per_second > 0 and row.cpu_us > 0 for row in rows)
    assert all(0 < row.p50_ms <= row.p99_ms for row in rows)
    async with SqlDatabase.open(database_url) as database:
        accepted = 10 * len(CALLERS)
        assert len(await database.read(lambda c: messages.list_messages(c, limit=99))) == accepted
        assert len(await database.read(lambda c: queue.list_jobs(c, limit=99))) == accepted
        assert (await database.read(audit.head)).number == accepted
