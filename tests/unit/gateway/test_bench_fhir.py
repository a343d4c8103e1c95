from __future__ import annotations

from gateway.bench_fhir import measure_fhir


async def test_the_rows_are_of_a_served_gateway_and_an_attachment_takes_little_memory() -> None:
    rows, attachments = await measure_fhir(120, 5)
    assert [row.request for row in rows] == [
        "read",
        "search, newest 50",
        "search, 50 of a sender, by sent",
        "search, 50 of a thread, by sent",
        "create a draft",
    ]
    assert all(row.cpu_ms > 0 and row.p50_ms > 0 for row in rows)
    assert [row.request for row in attachments] == [
        "upload an attachment",
        "download an attachment",
    ]
    # Issue 7: a 24 MB attachment with at most 16 MB extra memory.
    assert all(row.size_mb > 25 and row.extra_mb < 16 for row in attachments)
