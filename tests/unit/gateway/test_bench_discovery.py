from __future__ import annotations

from gateway.bench_discovery import measure_discovery


async def test_rows_say_what_was_measured() -> None:
    rows = await measure_discovery(addresses=10, revoked=1000)
    assert [row.what for row in rows] == [
        "discovery in DNS, 100 in flight",
        "discovery from the cache",
        "path verdict, first",
        "path verdict, cached",
        "CRL of 1000 entries, read and verified",
        "the same CRL, asked again",
    ]
    assert all(row.each_us > 0 and row.per_second > 0 for row in rows)
