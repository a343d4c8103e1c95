"""A whole gateway, served, with mailboxes and clients made as a test needs them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from certs.address import DirectAddress
from fhir_bridge.clients import add_client
from fhir_bridge.scopes import ALL
from gateway import domains
from gateway.clock import utc_now
from gateway.sandbox import Hisp, Sandbox, open_sandbox

__all__ = ["CLIENTS", "App", "FhirSite", "eventually", "fhir_site", "node_steps"]

T = TypeVar("T")

CLIENTS: Final = Path(__file__).parent.parent / "clients"
WAIT_S: Final = 30.0


@dataclass(frozen=True)
class App:
    """An application with one mailbox at the first HISP, and somebody at the other to write to."""

    url: str
    token: str
    mailbox: str
    peer: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def http(self) -> httpx.AsyncClient:
        """A plain HTTP client for it."""
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=WAIT_S)


@dataclass(frozen=True)
class FhirSite:
    """Two HISPs; applications are made at the first."""

    sandbox: Sandbox

    async def app(self, name: str) -> App:
        """Make a mailbox and a client for it."""
        hisp = self.sandbox.hillside
        mailbox = DirectAddress(name, hisp.domain)
        token = await self.client(hisp, name, [mailbox])
        return App(hisp.base_url, token, str(mailbox), str(self.sandbox.lakeview.desk))

    async def peer(self, name: str) -> App:
        """Make a mailbox and a client for it at the other HISP; it writes to the first one's."""
        hisp = self.sandbox.lakeview
        mailbox = DirectAddress(name, hisp.domain)
        token = await self.client(hisp, name, [mailbox])
        return App(hisp.base_url, token, str(mailbox), str(self.sandbox.hillside.desk))

    async def client(self, hisp: Hisp, name: str, mailboxes: Sequence[DirectAddress]) -> str:
        """Make the mailboxes and a client of theirs, and return its token."""
        now = utc_now()

        def work(connection: Any) -> str:
            for mailbox in mailboxes:
                domains.add_address(connection, mailbox, now)
            return add_client(connection, name, mailboxes, now, scopes=ALL)

        return await hisp.listening.database.write(work)


@asynccontextmanager
async def fhir_site(
    folder: Path, hook_hosts: Sequence[str] = (), envelopes: bool = False
) -> AsyncIterator[FhirSite]:
    """Run the two HISPs."""
    async with open_sandbox(folder, hook_hosts=hook_hosts, envelopes=envelopes) as sandbox:
        yield FhirSite(sandbox)


async def node_steps(script: str, app: App) -> list[str]:
    """Run a script of tests/clients; return the names of its steps, all of which were OK."""
    node = shutil.which("node")
    assert node, "this test needs Node 20 (apt install nodejs npm)"
    process = await asyncio.create_subprocess_exec(
        node,
        script,
        app.url,
        app.token,
        app.mailbox,
        app.peer,
        cwd=CLIENTS,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return [line[3:] for line in output.decode().splitlines() if line.startswith("OK ")]


async def eventually(ask: Callable[[], Awaitable[T | None]]) -> T:
    """Return the first answer that is something."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if found := await ask():
                return found
            await asyncio.sleep(0.05)
