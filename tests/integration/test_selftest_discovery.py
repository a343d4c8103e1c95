from __future__ import annotations

from gateway.selftest_discovery import discovery_selftest
from tests.helpers.pki import NOW


async def test_every_case_passes_on_our_own_servers() -> None:
    rows = await discovery_selftest(NOW)
    assert [row for row in rows if not row.passed] == []
    assert [row.id for row in rows if row.id.startswith("D")] == [f"D{n}" for n in range(1, 19)]
    assert [row.id for row in rows if row.id.startswith("H")] == ["H1", "H2", "H3", "H4"]
