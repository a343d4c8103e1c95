"""Ten minutes of mixed mail through a served gateway: is all of it delivered, in constant memory?

`python -m tests.helpers.soak [SECONDS]` (`make soak`). Messages of 2 KB to 10 MB go both ways, a
tenth of them is refused, and the HISP that receives stops and comes back twice.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiosmtplib

from gateway.clock import utc_now
from tests.helpers.neighbours import DOMAIN, NOBODY, PEER, Neighbours, neighbours
from tests.helpers.round_check import Round, settled

EACH_S: Final = 0.25  # between two messages
AWAY_S: Final = 20.0  # how long the HISP stays away
DRAIN_S: Final = 300.0
KIB: Final = 1024
# Flat: the last third of the run needs no more than the second third, and this much.
SLACK: Final = 1.1
# Of 100 messages: so many of a size between these, in octets.
SIZES: Final = ((80, 2_000, 20_000), (15, 100_000, 500_000), (5, 1_000_000, 10_000_000))


class Soak:
    """One run."""

    def __init__(self, around: Neighbours, seconds: float) -> None:
        self._around = around
        self._seconds = seconds
        self._dice = random.Random(6)
        self.sent = Round([], [])
        self.refused = 0
        self.octets = 0
        self.memory_kib: list[int] = []

    async def run(self, pid: int) -> None:
        """Send for so many seconds, then wait until everything is acknowledged."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(pid))
            away = group.create_task(self._go_away())
            for number in itertools.count():
                if time.monotonic() - begun > self._seconds:
                    break
                group.create_task(self._one(number))
                await asyncio.sleep(EACH_S)
            await away
            watch.cancel()

    async def _one(self, number: int) -> None:
        message_id, octets = f"<{number}.soak@test.example>", self._size()
        self.octets += octets
        if number % 20 == 0:
            await self._unknown(message_id)
        elif number % 20 == 10:
            self.refused += 1
            self.sent.submitted.append(message_id)
            await self._around.submit(message_id, [PEER, NOBODY], octets)
        elif number % 2:
            self.sent.submitted.append(message_id)
            await self._around.submit(message_id, [PEER], octets)
        else:
            self.sent.received.append(message_id)
            await self._around.receive(message_id, octets)

    async def _unknown(self, message_id: str) -> None:
        """Send to an address that is not there; 550 is the answer."""
        try:
            await self._around.hisp.deliver_to(f"unknown@{DOMAIN}", message_id)
        except aiosmtplib.SMTPRecipientsRefused:
            self.refused += 1
        else:
            raise AssertionError("a message for nobody was taken")

    def _size(self) -> int:
        weights = [weight for weight, _, _ in SIZES]
        [(_, least, most)] = self._dice.choices(SIZES, weights)
        return self._dice.randint(least, most)

    async def _go_away(self) -> None:
        for _ in range(2):
            await asyncio.sleep(self._seconds / 3)
            await self._around.hisp.stop()
            await asyncio.sleep(min(AWAY_S, self._seconds / 10))
            await self._around.hisp.start()

    async def _watch(self, pid: int) -> None:
        while True:
            self.memory_kib.append(_resident_kib(pid))
            await asyncio.sleep(1)


def _resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def main(seconds: float) -> int:
    """Run, check, and print what it came to."""
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/var/tmp") as name:
        async with neighbours(Path(name)) as around:
            with (Path(name) / "log").open("wb") as log:
                process = await asyncio.to_thread(subprocess.Popen, around.here.command, stderr=log)
            try:
                await asyncio.to_thread(around.here.wait_until_ready, process)
                soak = Soak(around, seconds)
                await soak.run(process.pid)
                problem = await settled(around, soak.sent, DRAIN_S)
                process.send_signal(signal.SIGTERM)
                ended = await asyncio.to_thread(process.wait, 30)
            finally:
                process.kill()
                process.wait()
    sys.stdout.write("\n".join(_report(soak, around, ended, problem)) + "\n")
    flat = _peak(soak, 2) <= _peak(soak, 1) * SLACK
    return 0 if problem is None and ended == 0 and flat else 1


def _peak(soak: Soak, third: int) -> int:
    size = len(soak.memory_kib) // 3
    return max(soak.memory_kib[third * size : (third + 1) * size or None])


def _report(soak: Soak, around: Neighbours, ended: int, problem: str | None) -> Iterator[str]:
    copies = around.hisp.copies
    yield f"{utc_now():%Y-%m-%d %H:%M} UTC, {soak.octets / 1e6:.0f} MB"
    yield f"submitted at the edge {len(soak.sent.submitted)}"
    yield f"received from the backbone {len(soak.sent.received)}"
    yield f"refused {soak.refused}"
    yield f"sent twice to the HISP {around.hisp.repeated(list(copies))}"
    peaks = ", ".join(f"{_peak(soak, third) / KIB:.0f}" for third in range(3))
    yield f"peak memory in MiB, by thirds: {peaks}; at the end {soak.memory_kib[-1] / KIB:.0f}"
    yield f"lost, told twice or unsound: {problem or 'nothing'}; exit status of the stop: {ended}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]) if sys.argv[1:] else 600.0)))
