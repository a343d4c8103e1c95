"""How fast is the whole gateway, and what does a message cost it? Rows for `direct-gateway bench`.

Talks to loopback: to `direct-gateway serve` in a process of its own, with durable storage, and to
a DNS server and a receiving mail server in this one. Where Postfix is installed, what it takes for
accepting the same messages stands beside it, measured in the same run.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import dns.name
import dns.zone

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway import messages, smime
from gateway.bench_load import Load, Sink, connect, submit_all
from gateway.bench_postfix import postfix
from gateway.bench_site import PEER, USER, BenchSite, make_site, zones
from gateway.clock import utc_now
from gateway.database import SqlDatabase
from gateway.dns_responder import DnsResponder
from gateway.messages import Direction, MessageState
from gateway.tls import server_context

__all__ = ["GatewayRow", "measure_gateway"]

SIZE: Final = 10_000
CONNECTIONS: Final = 20
PROCESSES: Final = (1, 2)
START_S: Final = 30.0
WAIT_S: Final = 300.0
_LINE: Final = b"X" * 78 + b"\r\n"


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """What one run came to. `cpu_ms` is of all the server's processes, for one message.

    `processes` is how many serve; None where that is not for us to say.
    """

    what: str
    processes: int | None
    size: int
    connections: int
    messages: int
    per_second: float
    cpu_ms: float


def measure_gateway(messages: int, size: int = SIZE) -> list[GatewayRow]:
    """Return a row for each way through the gateway, and one for Postfix where there is one.

    `size` is that of a message in octets, before it is secured.
    """
    rows = [row for count in PROCESSES for row in asyncio.run(_gateway(messages, size, count))]
    with (
        tempfile.TemporaryDirectory(prefix="direct-bench-", dir="/var/tmp") as folder,
        postfix(Path(folder)) as server,
    ):
        if server is not None:
            run = _Run("Postfix: accept, queue, discard", None, size, messages, server.master)
            rows.append(asyncio.run(_accepted(run, server.port)))
    return rows


async def _gateway(count: int, size: int, processes: int) -> list[GatewayRow]:
    with tempfile.TemporaryDirectory(prefix="direct-bench-") as folder:
        known: dict[dns.name.Name, dns.zone.Zone] = {}
        responder = DnsResponder(known)
        _, resolver = await responder.start()
        sink = Sink()
        port = await sink.start()
        site = await make_site(Path(folder), resolver=resolver, sink=port, now=utc_now())
        sink.tls = server_context(site.data / "tls.crt", site.data / "tls.key")
        known.update(zones(site.peer.certificate))
        async with _served(site, processes) as process:

            def run(what: str) -> _Run:
                return _Run(what, processes, size, count, process)

            rows = [
                await _out(run("mail edge to sealed SMTP"), site, sink),
                await _in(run("sealed SMTP to inbox and MDN"), site, sink),
            ]
        await sink.stop()
        await responder.stop()
    return rows


@dataclass(frozen=True, slots=True)
class _Run:
    """What is measured: so many messages through the processes under one."""

    what: str
    processes: int | None
    size: int
    messages: int
    process: int

    def row(self, elapsed_s: float, cpu_s: float) -> GatewayRow:
        return GatewayRow(
            self.what,
            self.processes,
            self.size,
            CONNECTIONS,
            self.messages,
            round(self.messages / elapsed_s, 1),
            round(cpu_s / self.messages * 1000, 3),
        )


class _Watch:
    """Counts elapsed time and the processes' CPU time from its making."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._cpu_s = _cpu_s(run.process)
        self._begun_s = time.perf_counter()

    def row(self) -> GatewayRow:
        """Return what it has come to."""
        elapsed_s = time.perf_counter() - self._begun_s
        return self._run.row(elapsed_s, _cpu_s(self._run.process) - self._cpu_s)


async def _out(run: _Run, site: BenchSite, sink: Sink) -> GatewayRow:
    """From the mail edge until the receiving mail server has everything."""
    loads = await connect(site.edge, CONNECTIONS, site.login)
    contents = [_mail(USER, PEER, number, run.size) for number in range(run.messages)]
    before = sink.received
    watch = _Watch(run)
    await submit_all(loads, (str(USER), str(PEER)), contents)
    await sink.until(before + run.messages, WAIT_S)
    row = watch.row()
    _hang_up(loads)
    opened = io.BytesIO()
    smime.unseal(io.BytesIO(sink.last), opened, identities=[site.peer])
    if not opened.getvalue().endswith(_LINE):
        raise DirectError(Reason.INTERNAL, "what came out is not what went in")
    return row


async def _in(run: _Run, site: BenchSite, sink: Sink) -> GatewayRow:
    """From the backbone until the recipient has everything and the sender each processed MDN."""
    loads = await connect(site.backbone, CONNECTIONS)
    sealed = [_sealed(site, number, run.size) for number in range(run.messages)]
    before = sink.received
    watch = _Watch(run)
    await submit_all(loads, (str(PEER), str(USER)), sealed)
    await sink.until(before + run.messages, WAIT_S)
    row = watch.row()
    _hang_up(loads)
    listed = partial(
        messages.list_messages,
        limit=2 * run.messages,
        direction=Direction.INCOMING,
        state=MessageState.FINISHED,
    )
    async with SqlDatabase.open(site.database_url) as database:
        if len(await database.read(listed)) != run.messages:
            raise DirectError(Reason.INTERNAL, "not every message was delivered")
    return row


async def _accepted(run: _Run, port: int) -> GatewayRow:
    """Until everything is accepted: in clear, and with nothing to be made of it."""
    loads = await connect(port, CONNECTIONS)
    contents = [_mail(USER, PEER, number, run.size) for number in range(run.messages)]
    watch = _Watch(run)
    await submit_all(loads, (str(USER), str(PEER)), contents)
    row = watch.row()
    _hang_up(loads)
    return row


def _hang_up(loads: Sequence[Load]) -> None:
    for load in loads:
        load.close()


@asynccontextmanager
async def _served(site: BenchSite, processes: int) -> AsyncIterator[int]:
    """Serve the installation by `processes` processes; yield the number of the first."""
    command = ["-m", "gateway.cli.__main__", "serve", "--config", str(site.config)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--processes", str(processes)
    )
    try:
        end = time.monotonic() + START_S
        for port in (site.backbone, site.edge):
            while not await _listens(port):
                if time.monotonic() > end or process.returncode is not None:
                    raise DirectError(Reason.INTERNAL, "the gateway does not start")
                await asyncio.sleep(0.05)
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _mail(sender: DirectAddress, recipient: DirectAddress, number: int, size: int) -> bytes:
    header = (
        f"From: {sender}\r\nTo: {recipient}\r\nMessage-ID: <{number}@{sender.domain}>\r\n"
        "Date: Fri, 02 Jan 2026 12:00:00 +0000\r\nSubject: bench\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
    ).encode("ascii")
    return header + _LINE * ((size - len(header)) // len(_LINE))


def _sealed(site: BenchSite, number: int, size: int) -> bytes:
    out = io.BytesIO()
    smime.seal(
        io.BytesIO(_mail(PEER, USER, number, size)),
        out,
        outer=f"MIME-Version: 1.0\r\nFrom: {PEER}\r\nTo: {USER}\r\n".encode("ascii"),
        signers=[site.peer],
        recipients=[site.certificate],
        boundary="bench-0b5c1d7e",
        now=utc_now(),
    )
    return out.getvalue()


def _cpu_s(process: int) -> float:
    """Return the CPU time of a process and all under it, those that ended included (proc(5))."""
    total, parents = 0.0, {process}
    stats = [_stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    # A process has a higher number than its parent, but where the numbers began anew.
    for number, parent, ticks in sorted(stat for stat in stats if stat is not None):
        if number == process or parent in parents:
            parents.add(number)
            total += ticks / os.sysconf("SC_CLK_TCK")
    return total


def _stat(process: int) -> tuple[int, int, int] | None:
    """Return number, parent and clock ticks of a process; None where it has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return process, int(fields[1]), sum(map(int, fields[11:15]))
