"""gateway.bench_gateway, with the real servers it measures."""

from __future__ import annotations

import asyncio

from gateway.bench_gateway import measure_gateway


async def test_rows_tell_of_messages_that_went_through_the_gateway_and_through_postfix() -> None:
    rows = await asyncio.to_thread(measure_gateway, 25, 3000)
    assert [(row.what, row.processes) for row in rows] == [
        ("mail edge to sealed SMTP", 1),
        ("sealed SMTP to inbox and MDN", 1),
        ("mail edge to sealed SMTP", 2),
        ("sealed SMTP to inbox and MDN", 2),
        ("Postfix: accept, queue, discard", None),
    ]
    assert all((row.messages, row.size) == (25, 3000) for row in rows)
    assert all(row.per_second > 0 and row.cpu_ms >= 0 for row in rows)
