"""The rows about trust are measured and named."""

from __future__ import annotations

from gateway.bench_trust import measure_trust


async def test_every_row_is_a_time() -> None:
    rows = await measure_trust(bundles=2, anchors=6)
    assert [row.what for row in rows] == [
        "refresh of 2 bundles, 6 anchors, all new",
        "refresh of 2 bundles, 6 anchors, unchanged",
        "refresh of one with 6, new",
        "diff of 6",
        "first message after a change: its set",
        "trust explain, 2 bundles, 6 anchors",
    ]
    assert all(row.ms > 0 for row in rows)
