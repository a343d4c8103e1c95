"""Break a served gateway while it accepts, processes, delivers and notifies, and look what is left.

`python -m tests.helpers.gateway_sweep [FAULTS]` (`make crash`) breaks it at FAULTS places, default
240, and prints the table. Messages share commits, so that the last syncs counted beforehand do not
come in every round: a fifth of those faults finds nothing to strike. strace attaches to the real
`direct-gateway serve` and kills it, or lets a call fail, at the Nth call of a thread, while its
neighbours send mail. Then it is started again: every message that it acknowledged must come to one
end, be told once, and lie in the inbox once.

What this cannot show is a power failure: the page cache outlives a killed process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.helpers.crash_sweep import Fault
from tests.helpers.neighbours import NOBODY, PEER, Neighbours, neighbours
from tests.helpers.round_check import SETTLED_S, Round, settled, told_once

__all__ = ["FAULTS", "Broken", "calls_of_a_thread", "render", "spread", "sweep", "traced"]

SYNCS: Final = "fsync,fdatasync"
WRITES: Final = "pwrite64"  # to files: sockets and pipes are written to by other calls
FAULTS: Final = (
    Fault("killed at a sync", SYNCS, "signal=KILL"),
    Fault("killed at a write", WRITES, "signal=KILL"),
    Fault("I/O error at a sync", SYNCS, "error=EIO"),
    Fault("I/O error at a write", WRITES, "error=EIO"),
    Fault("disk full at a write", WRITES, "error=ENOSPC"),
)
# How long a round may last until the fault strikes, how long the gateway is left alone with it
# after all was acknowledged, and how long it may take to work all off.
ROUND_S: Final = 15.0
ERROR_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Broken:
    """What one fault led to. `problem` says what is lost, told twice or unsound; None: nothing."""

    fault: Fault
    place: int
    fired: bool
    acknowledged: int
    repeated: int  # messages that reached the other HISP more than once, which shows them once
    problem: str | None


async def sweep(
    folder: Path,
    places: Sequence[tuple[Fault, int]],
    tell: Callable[[Broken], object] = lambda outcome: None,
) -> list[Broken]:
    """Break one gateway, installed in `folder`, at each of these places in turn."""
    outcomes = []
    async with neighbours(folder) as around:
        gateway = _Gateway(around)
        try:
            for number, (fault, place) in enumerate(places):
                outcomes.append(await _break(gateway, number, fault, place))
                tell(outcomes[-1])
        finally:
            gateway.kill()
    return outcomes


async def calls_of_a_thread(folder: Path) -> dict[str, int]:
    """Return how many syncs and writes the busiest thread makes in a round without a fault."""
    async with neighbours(folder) as around:
        gateway = _Gateway(around)
        await gateway.start()
        trace, this = folder / "trace", Round.of(900)
        async with traced(gateway.pid, trace, "-e", f"trace={SYNCS},{WRITES}"):
            await _load(around, this)
            await settled(around, this)
        gateway.kill()
        lines = trace.read_text(errors="replace").splitlines()
    # A line is "1234 write(...": the thread and its call, or the end of one that was interrupted.
    calls = [(line.split()[0], line.split()[1].partition("(")[0]) for line in lines]
    return {
        some: max(Counter(thread for thread, call in calls if call in some.split(",")).values())
        for some in (SYNCS, WRITES)
    }


def spread(count: int, totals: dict[str, int]) -> list[tuple[Fault, int]]:
    """Return `count` places, the same number of each fault, spread over a whole round."""
    each = -(-count // len(FAULTS))
    return [(fault, 1 + n * totals[fault.calls] // each) for n in range(each) for fault in FAULTS][
        :count
    ]


def render(outcomes: Sequence[Broken]) -> str:
    """Return the table of all faults, for people."""
    lines = [
        f"{'fault':24}{'struck':>7}{'fired':>7}{'acknowledged':>14}{'sent twice':>12}{'wrong':>7}"
    ]
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        lines.append(_line(fault.name, [o for o in outcomes if o.fault == fault]))
    lines.append(_line("together", outcomes))
    lines += [f"  {o.fault.name}, call {o.place}: {o.problem}" for o in outcomes if o.problem]
    return "\n".join(lines)


def _line(name: str, some: Sequence[Broken]) -> str:
    fired = sum(o.fired for o in some)
    acknowledged = sum(o.acknowledged for o in some)
    repeated = sum(o.repeated for o in some)
    wrong = sum(o.problem is not None for o in some)
    return f"{name:24}{len(some):7}{fired:7}{acknowledged:14}{repeated:12}{wrong:7}"


class _Gateway:
    """The served process, which comes and goes."""

    def __init__(self, around: Neighbours) -> None:
        self.around = around
        self._process: subprocess.Popen[bytes] | None = None
        self._log = around.here.folder / "log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Have it served; one that is alive is killed first."""
        self.kill()
        with self._log.open("ab") as log:
            command = self.around.here.command
            self._process = await asyncio.to_thread(subprocess.Popen, command, stderr=log)
        await asyncio.to_thread(self.around.here.wait_until_ready, self._process)

    async def stop(self) -> None:
        """Stop it as an administrator does, where it is alive."""
        if self._process is not None and self.alive:
            self._process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(self._process.wait, 30) == 0, "the stop is not clean"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def _break(gateway: _Gateway, number: int, fault: Fault, place: int) -> Broken:
    around, this = gateway.around, Round.of(number)
    if not gateway.alive:
        await gateway.start()
    trace = around.here.folder / "trace"
    inject = f"inject={fault.calls}:{fault.inject}:when={place}"
    async with traced(gateway.pid, trace, "-e", f"trace={fault.calls}", "-e", inject):
        load = asyncio.create_task(_load(around, this))
        await _struck(gateway, this, load, trace)
    fired = not gateway.alive or "(INJECTED)" in trace.read_text(errors="replace")
    problem = None
    try:
        if gateway.alive:
            # The fault is over: it must accept again without a restart.
            await asyncio.wait_for(asyncio.shield(load), SETTLED_S)
        await gateway.stop()
        await gateway.start()
        await asyncio.wait_for(load, SETTLED_S)
        problem = await settled(around, this)
    except (AssertionError, TimeoutError) as error:
        problem = f"{type(error).__name__} {error}"
    load.cancel()
    return Broken(fault, place, fired, len(this.all), around.hisp.repeated(this.outgoing), problem)


async def _struck(gateway: _Gateway, this: Round, load: asyncio.Task[None], trace: Path) -> None:
    """Return when the process is dead, or has had its error for a while, or it will have none."""
    end = time.monotonic() + ROUND_S
    while gateway.alive and time.monotonic() < end:
        if load.done():
            if "(INJECTED)" in trace.read_text(errors="replace"):
                await asyncio.sleep(ERROR_S)
                return
            if await told_once(gateway.around, this) is None:
                return
        await asyncio.sleep(0.1)


async def _load(around: Neighbours, this: Round) -> None:
    """Send all of one round at once, each until it is acknowledged."""
    plain, large, refused = this.submitted
    async with asyncio.TaskGroup() as group:
        group.create_task(around.submit(plain, [PEER], 1000))
        group.create_task(around.submit(large, [PEER], 300_000))
        group.create_task(around.submit(refused, [PEER, NOBODY], 3000))
        for message_id, octets in zip(this.received, (1000, 5000, 300_000), strict=True):
            group.create_task(around.receive(message_id, octets))
        group.create_task(this.note_created(around))


@asynccontextmanager
async def traced(pid: int, trace: Path, *options: str) -> AsyncIterator[None]:
    """Have strace at all threads of a process until the block ends."""
    trace.write_text("")
    command = ["strace", "-f", "-qq", "-o", str(trace), *options, "-p", str(pid)]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    tasks = Path(f"/proc/{pid}/task")
    try:
        await asyncio.to_thread(_wait_until_traced, tasks)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


def _wait_until_traced(tasks: Path) -> None:
    end = time.monotonic() + 20
    while not all(map(_is_traced, tasks.iterdir())):
        assert time.monotonic() < end, "strace does not come"
        time.sleep(0.02)


def _is_traced(task: Path) -> bool:
    return "TracerPid:\t0\n" not in (task / "status").read_text()


async def main(count: int) -> int:
    """Break a gateway for each core at once, and print the table."""
    with tempfile.TemporaryDirectory(prefix="crash-") as name:
        folder = Path(name)
        lanes = os.cpu_count() or 1
        totals = await calls_of_a_thread(folder / "count")
        places = spread(count, totals)
        found = await asyncio.gather(
            *(sweep(folder / f"{n}", places[n::lanes], _tell) for n in range(lanes))
        )
    outcomes = [outcome for one in found for outcome in one]
    sys.stdout.write(render(outcomes) + "\n")
    return 1 if any(outcome.problem for outcome in outcomes) else 0


def _tell(outcome: Broken) -> None:
    sys.stderr.write(f"{outcome}\n")


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 240)))
