"""The served gateway is killed, and its disk fails, in the midst of everything: nothing is lost.

`make crash` breaks it at 200 places.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.helpers.gateway_sweep import FAULTS, calls_of_a_thread, render, spread, sweep


async def test_every_message_acknowledged_has_one_end_told_once_and_is_in_the_inbox_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = spread(10, await calls_of_a_thread(tmp_path / "count"))
    outcomes = await sweep(tmp_path / "broken", places)
    with capsys.disabled():
        sys.stdout.write(f"\n{render(outcomes)}\n")
    assert [outcome.problem for outcome in outcomes] == [None] * len(outcomes)
    assert sum(outcome.fired for outcome in outcomes) >= 9
    assert {outcome.fault for outcome in outcomes if outcome.fired} == {*FAULTS}
