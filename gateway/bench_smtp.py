"""How fast is mail durably accepted through real sockets, and in how much memory?

Talks to loopback: a receiving process of its own, with listener, spool and SQLite database as the
gateway has them, and no worker; and to /proc for that process's memory.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway import domains
from gateway.acceptance import SmtpReception
from gateway.clock import utc_now
from gateway.config import Config, Gateway
from gateway.database import SqlDatabase
from gateway.initialise import initialise
from gateway.ports import Role
from gateway.smtp_in import Limits, Listener
from gateway.spool import SpoolBodies
from gateway.tls import server_context

__all__ = ["SmtpRow", "measure_smtp"]

DOMAIN: Final = "bench.example"
LINE: Final = b"X" * 78 + b"\r\n"
MIB: Final = 1024 * 1024
# On loopback one peer makes all the connections of the run.
LIMITS: Final = Limits(messages=1_000_000, connections_per_ip=1000, connections_per_minute=100_000)


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
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="direct-bench-") as folder:
        asyncio.run(_set_up(Path(folder)))
        process = context.Process(target=_receive, args=(theirs, folder))
        process.start()
        port, start_mib = ours.recv()
        begun = perf_counter()
        asyncio.run(_send_all(port, size, connections, messages))
        elapsed = perf_counter() - begun
        ours.send("stop")
        cpu_s, peak_mib = ours.recv()
        process.join()
    return SmtpRow(
        size=size,
        connections=connections,
        messages=messages,
        per_second=round(messages / elapsed, 1),
        cpu_ms=round(cpu_s / messages * 1000, 3),
        start_mib=round(start_mib, 1),
        peak_mib=round(peak_mib, 1),
    )


def _config(folder: Path) -> Config:
    return Config(gateway=Gateway(hostname=DOMAIN, data=folder))


async def _set_up(folder: Path) -> None:
    config = _config(folder)
    now = utc_now()
    await initialise(config, now)
    async with SqlDatabase.open(config.database_url) as database:
        await database.write(lambda c: domains.add_domain(c, DOMAIN, now))
        await database.write(lambda c: domains.add_address(c, DirectAddress("user", DOMAIN), now))


def _receive(pipe: Connection, folder: str) -> None:
    """Be the receiving process."""
    asyncio.run(_serve(pipe, Path(folder)))


async def _serve(pipe: Connection, folder: Path) -> None:
    async with SqlDatabase.open(_config(folder).database_url) as database:
        bodies = SpoolBodies(database=database, folder=folder / "spool", clock=utc_now)
        listener = Listener(
            role=Role.BACKBONE,
            reception=SmtpReception(
                database=database, bodies=bodies, clock=utc_now, wake=lambda: None
            ),
            hostname=DOMAIN,
            tls=server_context(folder / "tls.crt", folder / "tls.key"),
            limits=LIMITS,
        )
        _, port = await listener.start("127.0.0.1", 0)
        begun_s = process_time()
        pipe.send((port, _peak_mib()))
        await asyncio.to_thread(pipe.recv)
        pipe.send((process_time() - begun_s, _peak_mib()))
        await listener.stop(1.0)


def _peak_mib() -> float:
    """Return the most memory this process ever had; unlike getrusage's, of this program alone."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


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
