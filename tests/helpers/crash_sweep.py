"""Break the store at every kind of system call that makes things durable, and look what is left.

`python -m tests.helpers.crash_sweep [POINTS]` breaks a fresh store at POINTS places (default 40)
of each kind and prints a table. strace kills the process, or lets the one call fail, at the Nth
call; then the store is opened again, worked off and checked.

What this cannot show is a power failure: the page cache outlives a killed process.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.helpers.accepting import open_store
from tests.helpers.store_check import accepted_in, check

__all__ = ["FAULTS", "Fault", "Outcome", "render", "sweep"]

MESSAGES: Final = 24


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the Nth of `calls`, in strace's words."""

    name: str
    calls: str
    inject: str


FAULTS: Final = (
    Fault("killed at a sync", "fsync,fdatasync", "signal=KILL"),
    Fault("killed at a write", "pwrite64,write", "signal=KILL"),
    Fault("killed at a rename or truncate", "rename,ftruncate,unlink", "signal=KILL"),
    Fault("I/O error at a sync", "fsync,fdatasync", "error=EIO"),
    Fault("I/O error at a write", "pwrite64,write", "error=EIO"),
    Fault("disk full at a write", "pwrite64,write", "error=ENOSPC"),
    Fault("read-only at a write", "pwrite64,write", "error=EROFS"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one fault led to. `problem` says what is lost or unsound; None: nothing is."""

    fault: Fault
    fired: bool
    ended: int
    accepted: int
    refused: int
    problem: str | None


def sweep(fault: Fault, points: int) -> Sequence[Outcome]:
    """Break a store by `fault` at `points` places, spread over all that a run has."""
    total = _calls_of_a_thread(fault)
    places = sorted({1 + n * total // points for n in range(points)})
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(lambda place: _break(fault, place), places))


def render(outcomes: Sequence[Outcome]) -> str:
    """Return the table of all faults, for people."""
    lines = [f"{'fault':32}{'fired':>6}{'accepted':>10}{'refused':>9}{'lost or unsound':>17}"]
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        lines.append(_line(fault.name, [o for o in outcomes if o.fault == fault]))
    lines.append(_line("together", outcomes))
    return "\n".join(lines)


def _line(name: str, outcomes: Sequence[Outcome]) -> str:
    fired = sum(o.fired for o in outcomes)
    accepted = sum(o.accepted for o in outcomes)
    refused = sum(o.refused for o in outcomes)
    problems = sum(o.problem is not None for o in outcomes)
    return f"{name:32}{fired:6}{accepted:10}{refused:9}{problems:17}"


def _calls_of_a_thread(fault: Fault) -> int:
    """Return how many of these calls the busiest thread makes: strace counts in each by itself."""
    with tempfile.TemporaryDirectory() as folder:
        _, _, trace = _run(Path(folder), ["--seccomp-bpf", "-e", f"trace={fault.calls}"])
        return max(Counter(line.split()[0] for line in trace).values())


def _break(fault: Fault, place: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        inject = f"inject={fault.calls}:{fault.inject}:when={place}"
        # With --seccomp-bpf strace 6.1 counts no further than the first call that gets a signal.
        speed = [] if fault.inject.startswith("signal") else ["--seccomp-bpf"]
        options = [*speed, "-e", f"trace={fault.calls}", "-e", inject]
        ended, told, trace = _run(Path(folder), options)
        killed = ended not in (0, 1)
        return Outcome(
            fault=fault,
            fired=killed or any("(INJECTED)" in line for line in trace),
            ended=ended,
            accepted=len(accepted_in(told)),
            refused=sum(line.startswith("refused") for line in told),
            problem=_problem(Path(folder), told),
        )


def _run(folder: Path, options: Sequence[str]) -> tuple[int, list[str], list[str]]:
    """Run a store under strace; return its exit status, what it told, and the trace."""
    trace = folder / "trace"
    program = [sys.executable, "-m", "tests.helpers.accepting", str(folder / "store")]
    child = subprocess.run(
        ["strace", "-f", "-qq", "-o", trace, *options, *program, str(MESSAGES)],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return child.returncode, child.stdout.splitlines(keepends=True), list(_calls(trace))


def _calls(trace: Path) -> Iterator[str]:
    """Yield the system calls of a trace; a call that others interrupt has two lines."""
    for line in trace.read_text(errors="replace").splitlines():
        if "(" in line and "resumed>" not in line:
            yield line


def _problem(folder: Path, told: Sequence[str]) -> str | None:
    async def look() -> None:
        async with open_store(folder / "store", print) as store:
            await check(store, accepted_in(told))

    try:
        asyncio.run(look())
    except AssertionError as problem:
        return str(problem)
    return None


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if sys.argv[1:] else 40
    found = [outcome for fault in FAULTS for outcome in sweep(fault, wanted)]
    sys.stdout.write(render(found) + "\n")
    for outcome in found:
        if outcome.problem:
            sys.stdout.write(f"{outcome}\n")
