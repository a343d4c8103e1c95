"""What was acknowledged is there after a crash, whole, and is worked off once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from tests.helpers.accepting import open_store
from tests.helpers.crash_sweep import FAULTS, Fault, render, sweep
from tests.helpers.store_check import accepted_in, check


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


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_nothing_acknowledged_is_lost_wherever_a_fault_strikes(
    fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few places of each kind; `python -m tests.helpers.crash_sweep` breaks many more."""
    outcomes = sweep(fault, points=3)
    with capsys.disabled():
        sys.stdout.write(f"\n{render(outcomes)}\n")
    assert [outcome.problem for outcome in outcomes] == [None] * len(outcomes)
    assert any(outcome.fired for outcome in outcomes)
