"""How dear is a request of the FHIR API, and a large attachment? Rows for `direct-gateway bench`.

Talks to a sandbox on loopback. The client is another process, so that the CPU time and the memory
measured are the server's: HTTP, routing, authentication, access log, SQL and JSON.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Connection

from certs.ids import new_id
from fhir_bridge import store
from fhir_bridge.terms import Terms, mailto_identifier, mid_identifier
from gateway.clock import utc_now
from gateway.sandbox import Hisp, open_sandbox

__all__ = ["FhirMemoryRow", "FhirRow", "measure_fhir"]

BATCH: Final = 1000
PAGE: Final = 50
THREADS: Final = 200  # threads that the stored messages belong to
ATTACHMENT_OCTETS: Final = 24 * 1024 * 1024
_BLOCK: Final = bytes(range(256)) * 256
_FHIR_JSON: Final = {"Content-Type": "application/fhir+json"}


@dataclass(frozen=True, slots=True)
class FhirRow:
    """What one kind of request came to, over `requests` of them, one after the other."""

    request: str
    stored: int
    requests: int
    cpu_ms: float  # of the server's process, for one
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class FhirMemoryRow:
    """What a large attachment came to. `extra_mb`: peak of resident memory over that before."""

    request: str
    size_mb: float
    extra_mb: float
    cpu_ms: float
    took_ms: float


@dataclass(frozen=True, slots=True)
class _Run:
    """What the client's process is to do. `{}` in `path` becomes the next of `fill`."""

    url: str
    token: str
    method: str
    path: str
    count: int
    body: str = ""
    fill: tuple[str, ...] = ("",)


async def measure_fhir(
    stored: int, requests: int
) -> tuple[Sequence[FhirRow], Sequence[FhirMemoryRow]]:
    """Return the rows of requests with `stored` Communications, and those of an attachment."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_sandbox(Path(folder)) as sandbox:
            hisp = sandbox.hillside
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as client:
                memory = await _attachment(client, hisp)
                ids = await _filled(hisp, stored)
                rows = [
                    await _row(client, name, stored, run)
                    for name, run in _runs(hisp, requests, ids)
                ]
    return rows, memory


def _runs(hisp: Hisp, requests: int, ids: Sequence[str]) -> Iterator[tuple[str, _Run]]:
    draft = json.dumps(_message(hisp, 0, utc_now()) | {"status": "preparation"})
    read = tuple(ids[:: max(1, len(ids) // 1000)])

    def run(method: str, path: str, body: str = "", fill: tuple[str, ...] = ("",)) -> _Run:
        return _Run(hisp.base_url, hisp.token, method, path, requests, body, fill)

    yield "read", run("GET", "/Communication/{}", fill=read)
    yield f"search, newest {PAGE}", run("GET", f"/Communication?_count={PAGE}")
    yield (
        f"search, {PAGE} of a sender, by sent",
        run("GET", f"/Communication?sender=mailto:{hisp.user}&_sort=-sent&_count={PAGE}"),
    )
    yield (
        f"search, {PAGE} of a thread, by sent",
        run("GET", f"/Communication?thread={_thread(1)}&_sort=sent&_count={PAGE}"),
    )
    yield "create a draft", run("POST", "/Communication", draft)


async def _row(client: ProcessPoolExecutor, name: str, stored: int, run: _Run) -> FhirRow:
    loop = asyncio.get_running_loop()
    warm = _Run(run.url, run.token, run.method, run.path, 20, run.body, run.fill)
    await loop.run_in_executor(client, _drive, warm)
    cpu = time.process_time()
    took = await loop.run_in_executor(client, _drive, run)
    cpu = time.process_time() - cpu
    took.sort()
    return FhirRow(
        request=name,
        stored=stored,
        requests=run.count,
        cpu_ms=round(cpu / run.count * 1000, 2),
        p50_ms=round(took[len(took) // 2] * 1000, 2),
        p99_ms=round(took[len(took) * 99 // 100] * 1000, 2),
    )


def _drive(run: _Run) -> list[float]:
    """Make the requests over one connection; return how many seconds each took."""
    connection = _connected(run.url)
    prefix = urlsplit(run.url).path
    headers = {"Authorization": f"Bearer {run.token}", **(_FHIR_JSON if run.body else {})}
    took = []
    for number in range(run.count):
        path = prefix + run.path.format(run.fill[number % len(run.fill)])
        begun = time.perf_counter()
        connection.request(run.method, path, run.body or None, headers)
        answer = connection.getresponse()
        answer.read()
        took.append(time.perf_counter() - begun)
        if answer.status not in (200, 201):
            raise RuntimeError(f"{run.method} {run.path}: {answer.status}")
    connection.close()
    return took


async def _attachment(client: ProcessPoolExecutor, hisp: Hisp) -> Sequence[FhirMemoryRow]:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(client, _upload, hisp.base_url, hisp.token, len(_BLOCK))
    rows = []
    identity = ""
    for name in ("upload", "download"):
        with _Watched() as watched:
            if name == "upload":
                identity = await loop.run_in_executor(
                    client, _upload, hisp.base_url, hisp.token, ATTACHMENT_OCTETS
                )
            else:
                await loop.run_in_executor(client, _download, hisp.base_url, hisp.token, identity)
        rows.append(
            FhirMemoryRow(
                request=f"{name} an attachment",
                size_mb=round(ATTACHMENT_OCTETS / 1e6, 1),
                extra_mb=round(watched.extra / 1e6, 2),
                cpu_ms=round(watched.cpu_s * 1000, 1),
                took_ms=round(watched.took_s * 1000, 1),
            )
        )
    return rows


class _Watched:
    """Watches this process's resident memory, CPU time and the clock."""

    extra = 0
    cpu_s = 0.0
    took_s = 0.0

    def __enter__(self) -> _Watched:
        self._before = self._peak = _resident()
        self._cpu, self._begun = time.process_time(), time.perf_counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.cpu_s = time.process_time() - self._cpu
        self.took_s = time.perf_counter() - self._begun
        self._ended.set()
        self._thread.join()
        self.extra = self._peak - self._before

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self._peak = max(self._peak, _resident())


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _upload(url: str, token: str, size: int) -> str:
    """Upload a Binary of `size` octets in blocks; return its id."""
    connection = _connected(url)
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/dicom",
        "Content-Length": str(size),
    }
    blocks = (_BLOCK for _ in range(size // len(_BLOCK)))
    connection.request("POST", f"{urlsplit(url).path}/Binary", blocks, headers)
    answer = connection.getresponse()
    return str(json.loads(answer.read())["id"])


def _download(url: str, token: str, identity: str) -> None:
    connection = _connected(url)
    headers = {"Authorization": f"Bearer {token}", "Accept": "*/*"}
    connection.request("GET", f"{urlsplit(url).path}/Binary/{identity}", None, headers)
    answer = connection.getresponse()
    size = 0
    while block := answer.read(1 << 20):
        size += len(block)
    if size != ATTACHMENT_OCTETS:
        raise RuntimeError(f"{size} octets came")


def _connected(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)


async def _filled(hisp: Hisp, stored: int) -> Sequence[str]:
    """Store Communications, as if they had been received and sent; return their ids."""
    now, terms = utc_now(), Terms()
    ids = [new_id(now - timedelta(seconds=stored - n)) for n in range(stored)]

    def fill(first: int) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            for number in range(first, min(first + BATCH, stored)):
                at = now - timedelta(seconds=stored - number)
                store.insert(
                    connection,
                    _message(hisp, number, at),
                    identity=ids[number],
                    owner=hisp.user.key,
                    now=at,
                    terms=terms,
                )

        return work

    for first in range(0, stored, BATCH):
        await hisp.listening.database.write(fill(first))
    return [str(identity) for identity in ids]


def _message(hisp: Hisp, number: int, at: datetime) -> dict[str, Any]:
    terms, peer = Terms(), f"dr{number % 97}@direct.lakeview.example"
    here, there = (
        {"identifier": mailto_identifier(str(hisp.user)), "display": "Anna Rivera"},
        {"identifier": mailto_identifier(peer), "display": f"Doctor {number % 97}"},
    )
    outbound = number % 10 == 0
    return {
        "resourceType": "Communication",
        "status": "completed",
        "extension": [
            {"url": terms.extension("thread-id"), "valueString": _thread(number)},
            {
                "url": terms.extension("direction"),
                "valueCode": "outbound" if outbound else "inbound",
            },
        ],
        "identifier": [mid_identifier(f"<{number}@direct.lakeview.example>")],
        "sender": here if outbound else there,
        "recipient": [there if outbound else here],
        "topic": {"text": f"Referral {number}"},
        "sent": at.isoformat(timespec="seconds"),
        "received": at.isoformat(timespec="seconds"),
        "payload": [{"contentString": f"Message {number}. Please see the patient.\n" * 5}],
    }


def _thread(number: int) -> str:
    return f"<thread-{number % THREADS}@direct.lakeview.example>"
