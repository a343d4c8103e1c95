"""Several processes that serve one gateway: nothing is lost or doubled, whichever of them ends."""

from __future__ import annotations

import asyncio
import email
import io
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import dns.name
import dns.zone
import httpx
import pytest

from certs.errors import DirectError
from fhir_bridge.clients import add_client
from fhir_bridge.terms import mailto_identifier
from gateway import queue, smime
from gateway.bench_load import Load, Sink, connect
from gateway.bench_site import PEER, USER, BenchSite, make_site, zones
from gateway.clock import utc_now
from gateway.database import SqlDatabase
from gateway.dns_responder import DnsResponder
from gateway.domain_control import change_address
from gateway.sandbox import free_port
from gateway.tls import server_context
from tests.integration.test_mt_cases import eventually
from tests.unit.fhir_bridge.test_process_message import about

MESSAGES: Final = 60
CONNECTIONS: Final = 6
PATIENCE_S: Final = 30.0  # what is taken over only as its lease runs out takes a minute
TEXT: Final = (
    "From: {sender}\r\nTo: {recipient}\r\nMessage-ID: <{number}@test.example>\r\n"
    "Date: Fri, 02 Jan 2026 12:00:00 +0000\r\nSubject: test\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nhello\r\n"
)


class Collector(Sink):
    """A peer's mail server that remembers what it took, and can be slow to say so."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[bytes] = []

    def _take(self, message: bytes) -> None:
        self.taken.append(message)
        super()._take(message)


class Served:
    """A gateway of two processes."""

    def __init__(self, site: BenchSite, fhir: int, sink: Collector) -> None:
        self.site = site
        self.fhir = fhir
        self.sink = sink
        self.parent: asyncio.subprocess.Process | None = None

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        """Start it; return when it listens, or has ended."""
        command = ["-m", "gateway.cli.__main__", "serve", "--config", str(self.site.config)]
        self.parent = await asyncio.create_subprocess_exec(
            sys.executable, *command, *(words or ("--processes", "2"))
        )
        await self.ready()
        return self.parent

    async def ready(self) -> None:
        """Return when two processes serve, or it has ended."""
        assert self.parent is not None
        while self.parent.returncode is None:
            if len(self.children) == 2 and len(await self._answering()) == 2:
                return
            await asyncio.sleep(0.1)

    @property
    def children(self) -> set[int]:
        """Their numbers."""
        assert self.parent is not None
        path = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children")
        return set(map(int, path.read_text().split()))

    async def _answering(self) -> set[int]:
        """Return which of them accept connections: they have their listening sockets in a poll."""
        return {n for n in self.children if _polls(n)}

    async def stop(self) -> int:
        """Stop it and return its exit status."""
        assert self.parent is not None
        if self.parent.returncode is None:
            self.parent.terminate()
        return await self.parent.wait()

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels, from whichever process answers."""
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{self.fhir}/metrics")
        found = re.findall(rf"^{name}{{[^}}]*}} (\S+)$", answer.text, re.MULTILINE)
        return sum(map(float, found))

    async def jobs(self) -> int:
        """Return how many jobs there are."""
        async with SqlDatabase.open(self.site.database_url) as database:
            return len(await database.read(lambda c: queue.list_jobs(c, limit=1000)))

    def arrived(self) -> Counter[str]:
        """Return the Message-IDs of what the peer could open, and how often each came."""
        return Counter(map(self._message_id, self.sink.taken))

    def _message_id(self, sealed: bytes) -> str:
        opened = io.BytesIO()
        smime.unseal(io.BytesIO(sealed), opened, identities=[self.site.peer])
        return str(email.message_from_bytes(opened.getvalue())["Message-ID"])


def _polls(process: int) -> bool:
    """Say whether a process waits for connections: its three listeners are in its epoll."""
    waited: set[str] = set()
    try:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            if os.readlink(entry) == "anon_inode:[eventpoll]":
                text = Path(f"/proc/{process}/fdinfo/{entry.name}").read_text()
                waited |= set(re.findall(r"^tfd:\s+(\d+)", text, re.MULTILINE))
        sockets = {
            os.readlink(f"/proc/{process}/fd/{number}").removeprefix("socket:[").rstrip("]")
            for number in waited
        }
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return False
    listening = {fields[9] for fields in map(str.split, lines) if fields[3] == "0A"}
    return len(sockets & listening) == 3


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[Served]:
    """Make an installation that is not served yet; stop what serves it at the end."""
    known: dict[dns.name.Name, dns.zone.Zone] = {}
    responder = DnsResponder(known)
    _, resolver = await responder.start()
    sink = Collector()
    port = await sink.start()
    site = await make_site(folder, resolver=resolver, sink=port, now=utc_now())
    sink.tls = server_context(site.data / "tls.crt", site.data / "tls.key")
    known.update(zones(site.peer.certificate))
    fhir = free_port()
    with site.config.open("a", encoding="utf-8") as file:
        file.write(f'[fhir]\nlisten = "127.0.0.1:{fhir}"\n')
    served = Served(site, fhir, sink)
    try:
        yield served
    finally:
        await served.stop()
        await sink.stop()
        await responder.stop()


async def submit(served: Served, numbers: Sequence[int]) -> None:
    """Submit patiently: what is not acknowledged is sent again, over a new connection."""
    load: Load | None = None
    for number in numbers:
        text = TEXT.format(sender=USER, recipient=PEER, number=number).encode()
        while True:
            try:
                if load is None:
                    [load] = await connect(served.site.edge, 1, served.site.login)
                await load.submit((str(USER), str(PEER)), text)
                break
            except (OSError, DirectError):
                load = None
                await asyncio.sleep(0.1)
    if load is not None:
        load.close()


async def submit_all(served: Served) -> None:
    shares = [range(n, MESSAGES, CONNECTIONS) for n in range(CONNECTIONS)]
    await asyncio.gather(*(submit(served, share) for share in shares))


async def until_done(served: Served) -> None:
    """Return when nothing is left to do; sooner than a lease runs out."""

    async def idle() -> bool:
        return await served.jobs() == 0

    await eventually(idle)


async def test_two_processes_send_each_message_once_and_count_together(tmp_path: Path) -> None:
    async with gateway(tmp_path) as served:
        await served.start()
        await submit_all(served)
        await until_done(served)
        assert served.arrived() == {f"<{n}@test.example>": 1 for n in range(MESSAGES)}
        for _ in range(4):  # whichever of the two answers
            assert await served.metric("direct_gateway_smtp_messages_total") == MESSAGES
            assert await served.metric("direct_gateway_jobs_total") == 2 * MESSAGES
        begun_s = time.monotonic()
        assert await served.stop() == 0
        assert time.monotonic() - begun_s < 10


async def test_each_process_keeps_to_one_processor_and_shares_it_with_no_other(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path) as served:
        await served.start()
        theirs = [frozenset(os.sched_getaffinity(child)) for child in served.children]
    assert all(len(processors) == 1 for processors in theirs)
    assert len(set(theirs)) == min(2, len(os.sched_getaffinity(0)))


async def test_a_killed_process_is_replaced_and_what_it_had_begun_is_done(tmp_path: Path) -> None:
    async with gateway(tmp_path) as served:
        await served.start()
        before = served.children
        load = asyncio.create_task(submit_all(served))
        await served.sink.until(MESSAGES // 4, PATIENCE_S)
        os.kill(min(before), signal.SIGKILL)
        await load
        await until_done(served)
        arrived = served.arrived()
        assert set(arrived) == {f"<{n}@test.example>" for n in range(MESSAGES)}
        # What it had sent and not recorded is sent again: one for each of its workers at most.
        assert arrived.total() - MESSAGES <= 16
        await served.ready()
        after = served.children
        assert len(after) == 2
        assert len(before & after) == 1
        assert await served.stop() == 0


async def test_a_message_goes_once_and_an_export_is_had_from_either_process(
    tmp_path: Path,
) -> None:
    bundle = about(
        sender={"identifier": mailto_identifier(str(USER))},
        recipient=[{"identifier": mailto_identifier(str(PEER))}],
    )
    async with gateway(tmp_path) as served:
        await served.start()
        async with SqlDatabase.open(served.site.database_url) as database:
            token = await database.write(lambda c: add_client(c, "app", [USER], utc_now()))
        headers = {"authorization": f"Bearer {token}", "prefer": "respond-async"}

        async def ask(method: str, path: str, **given: Any) -> httpx.Response:
            """Ask whichever takes a new connection."""
            url = f"http://127.0.0.1:{served.fhir}/fhir/R4/{path}"
            async with httpx.AsyncClient(timeout=30) as client:
                return await client.request(method, url, headers=headers, **given)

        posts = (ask("POST", "$process-message", json=bundle) for _ in range(8))
        answers = await asyncio.gather(*posts)
        heads = {json.dumps(answer.json()["entry"][0]["resource"]) for answer in answers}
        assert len(heads) == 1
        await until_done(served)
        assert len(served.sink.taken) == 1

        begun = await ask("GET", "$export?_type=Communication")
        path = f"$export/{begun.headers['content-location'].rpartition('/')[2]}"

        async def done() -> bool:
            return (await ask("GET", path)).status_code == 200

        await eventually(done)
        files = [await ask("GET", f"{path}/Communication.ndjson") for _ in range(6)]
        assert {file.status_code for file in files} == {200}
        assert len({file.content for file in files}) == 1
        assert len(files[0].text.splitlines()) == 2  # the message, and the header of its thread
        assert {(await ask("DELETE", path)).status_code for _ in range(4)} == {202, 404}


async def test_a_change_is_in_force_in_every_process(tmp_path: Path) -> None:
    async with gateway(tmp_path) as served:
        await served.start()
        await submit(served, [0])
        async with SqlDatabase.open(served.site.database_url) as database:
            await database.write(lambda c: change_address(c, USER, enabled=False))
        for _ in range(8):  # whichever takes the connection
            [load] = await connect(served.site.backbone, 1)
            with pytest.raises(DirectError, match="the server said 550"):
                await load.submit((str(PEER), str(USER)), b"Subject: x\r\n\r\n")


async def test_when_the_parent_is_killed_all_end_and_another_may_begin(tmp_path: Path) -> None:
    async with gateway(tmp_path) as served:
        parent = await served.start()
        children = served.children
        parent.kill()
        await parent.wait()

        async def gone() -> bool:
            return not any(Path(f"/proc/{child}").exists() for child in children)

        await eventually(gone)
        await served.start()
        await submit(served, [0])
        await until_done(served)
        assert served.arrived() == {"<0@test.example>": 1}


async def test_processes_that_cannot_serve_end_it_all(tmp_path: Path) -> None:
    async with gateway(tmp_path) as served:
        (served.site.data / "tls.key").write_text("no key")
        parent = await served.start()
        assert await parent.wait() == 2
