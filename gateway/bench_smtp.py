"""How fast is mail durably accepted through real sockets, and in how much memory?

Talks to loopback: to a receiving process of its own (`gateway.bench_receiver`).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from time import perf_counter
from typing import Final

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway import domains
from gateway.clock import utc_now
from gateway.config import Config, Gateway
from gateway.database import SqlDatabase
from gateway.initialise import initialise

__all__ = ["SmtpRow", "measure_smtp"]

DOMAIN: Final = "bench.example"
LINE: Final = b"X" * 78 + b"\r\n"
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SmtpRow:
    """What one run came to. Sizes are in octets, memory in MiB, CPU in ms a message."""

    size: int
    connections: int
    messages: int
    per_second: float
    cpu_ms: float
    start_mib: float
    peak_mib: float


def measure_smtp(runs: Sequence[tuple[int, int, int]]) -> list[SmtpRow]:
    """Return a row for each (size in octets, connections, messages)."""
    return [_run(size, connections, messages) for size, connections, messages in runs]


def _run(size: int, connections: int, messages: int) -> SmtpRow:
    with tempfile.TemporaryDirectory(prefix="direct-bench-") as folder:
        asyncio.run(_set_up(Path(folder)))
        command = [sys.executable, "-m", "gateway.bench_receiver", folder]
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as receiver:
            port, start_mib = _told(receiver)
            begun = perf_counter()
            asyncio.run(_send_all(int(port), size, connections, messages))
            elapsed = perf_counter() - begun
            if receiver.stdin is not None:
                receiver.stdin.close()
            cpu_s, peak_mib = _told(receiver)
    return SmtpRow(
        size=size,
        connections=connections,
        messages=messages,
        per_second=round(messages / elapsed, 1),
        cpu_ms=round(cpu_s / messages * 1000, 3),
        start_mib=round(start_mib, 1),
        peak_mib=round(peak_mib, 1),
    )


def _told(receiver: subprocess.Popen[str]) -> tuple[float, float]:
    """Return the two numbers of the next line that the receiver prints."""
    line = receiver.stdout.readline() if receiver.stdout is not None else ""
    try:
        first, second = map(float, line.split())
    except ValueError:
        raise DirectError(Reason.INTERNAL, "the receiving process failed") from None
    return first, second


async def _set_up(folder: Path) -> None:
    config = Config(gateway=Gateway(hostname=DOMAIN, data=folder))
    now = utc_now()
    await initialise(config, now)
    async with SqlDatabase.open(config.database_url) as database:
        await database.write(lambda c: domains.add_domain(c, DOMAIN, now))
        await database.write(lambda c: domains.add_address(c, DirectAddress("user", DOMAIN), now))


async def _send_all(port: int, size: int, connections: int, messages: int) -> None:
    numbers = iter(range(messages))
    await asyncio.gather(*(_send(port, size, numbers) for _ in range(connections)))


async def _send(port: int, size: int, numbers: Iterator[int]) -> None:
    """Send messages over one connection, as a peer with PIPELINING does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b"EHLO bench.example\r\n")
    while (await reader.readline())[3:4] == b"-":
        pass
    chunk = LINE * (MIB // len(LINE))
    for number in numbers:
        writer.write(b"MAIL FROM:<peer@peer.example>\r\nRCPT TO:<user@bench.example>\r\nDATA\r\n")
        for _ in range(3):
            await _expect(reader, b"2", b"3")
        writer.write(b"Message-ID: <%d@peer.example>\r\n\r\n" % number)
        for start in range(0, size, len(chunk)):
            writer.write(chunk[: (size - start) // len(LINE) * len(LINE)])
            await writer.drain()
        writer.write(b".\r\n")
        await _expect(reader, b"2")
    writer.close()


async def _expect(reader: asyncio.StreamReader, *classes: bytes) -> None:
    reply = await reader.readline()
    if reply[:1] not in classes:
        raise DirectError(Reason.INTERNAL, f"the listener said {reply.decode('ascii', 'replace')}")
