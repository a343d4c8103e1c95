"""kill -9 of a served gateway loses nothing that it acknowledged, and delivers it once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs import keys
from certs.issue import Locations
from gateway.clock import utc_now
from gateway.database import SqlDatabase
from tests.helpers.console import Installation
from tests.helpers.stranger import Stranger, deliver, mail

DOMAIN = "direct.lakeview.example"
USER = f"dr.chen@{DOMAIN}"
STRANGER = "dr.lee@direct.stranger.example"


class Revocation:
    """A real HTTP server for CRLs that keeps who asks waiting, until it is told not to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.stalls = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.set()
        try:
            if self.stalls:
                await reader.read()
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def revocation() -> AsyncIterator[tuple[Revocation, str]]:
    state = Revocation()
    server = await asyncio.start_server(state.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield state, f"http://127.0.0.1:{port}/ca.crl"
    finally:
        server.close()


def install(folder: Path, stranger: Stranger) -> tuple[Installation, str]:
    here = Installation.create(
        folder / "lakeview",
        f"gw.{DOMAIN}",
        '[discovery]\nresolver = "127.0.0.1:9"\nprivate_addresses = true\ntimeout_s = 1.0\n',
    )
    anchor = folder / "anchor.pem"
    anchor.write_bytes(stranger.ca.certificate.public_bytes(Encoding.PEM))
    made = here.batch(
        ("domain", "add", DOMAIN),
        ("address", "add", USER),
        ("cert", "new", "--for", USER),
        ("anchor", "add", anchor, "--for", DOMAIN),
        ("client", "add", "app", "--mailbox", USER),
    )
    assert {said.status for said in made} == {0}, made
    return here, made[-1].output["token"]


async def certificate_of(here: Installation) -> x509.Certificate:
    url = f"sqlite:///{here.folder / 'data' / 'gateway.sqlite3'}"
    async with SqlDatabase.open(url) as database:
        [own] = await database.read(keys.list_identities)
    return own.certificate


async def inbox(here: Installation, token: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(verify=False) as http:
        response = await http.get(
            f"http://127.0.0.1:{here.fhir}/fhir/R4/Communication",
            params={"part-of:missing": "false"},
            headers={"Authorization": f"Bearer {token}"},
        )
    assert response.status_code == 200
    return [entry["resource"] for entry in response.json().get("entry", [])]


async def arrived(here: Installation, token: str, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(30):
        while True:
            found = await inbox(here, token)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


@pytest.fixture
def now() -> datetime:
    return utc_now()


async def test_killed_between_accept_and_processing_delivers_once(
    tmp_path: Path, now: datetime
) -> None:
    stranger = Stranger.create("Stranger Root", now)
    here, token = await asyncio.to_thread(install, tmp_path, stranger)
    async with revocation() as (server, url):
        signer = stranger.identity(STRANGER, locations=Locations(crls=(url,)))
        sealed = stranger.seal(mail(STRANGER, USER, now), signer, await certificate_of(here))
        with here.served() as process:
            reply = await deliver(("127.0.0.1", here.backbone), STRANGER, USER, sealed)
            assert "Accepted" in reply
            async with asyncio.timeout(20):
                await server.asked.wait()
            # It said 250, it has begun, it has not finished.
            assert await inbox(here, token) == []
            process.send_signal(signal.SIGKILL)
            process.wait()
        server.stalls = False
        with here.served():
            await arrived(here, token, 1)
            # The sender heard 250, but a sender may have been killed too: it sends again.
            await deliver(("127.0.0.1", here.backbone), STRANGER, USER, sealed)
            [received] = await inbox(here, token)
    assert received["sender"]["identifier"]["value"] == f"mailto:{STRANGER}"
    listed = await asyncio.to_thread(here.json, "message", "list")
    assert [(m["direction"], m["kind"], m["state"]) for m in listed[1:]] == [
        ("incoming", "message", "finished")
    ]
    assert (listed[0]["direction"], listed[0]["kind"]) == ("outgoing", "mdn")


async def test_killed_at_any_time_shows_every_acknowledged_message_once(
    tmp_path: Path, now: datetime
) -> None:
    stranger = Stranger.create("Stranger Root", now)
    here, token = await asyncio.to_thread(install, tmp_path, stranger)
    signer = stranger.identity(STRANGER)
    certificate = await certificate_of(here)
    acknowledged = 0
    for round_ in range(3):
        with here.served() as process:
            for number in range(round_ + 2):
                content = mail(STRANGER, USER, now, number=10 * round_ + number)
                sealed = stranger.seal(content, signer, certificate)
                await deliver(("127.0.0.1", here.backbone), STRANGER, USER, sealed)
                acknowledged += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
    with here.served():
        found = await arrived(here, token, acknowledged)
    identifiers = [resource["identifier"][0]["value"] for resource in found]
    assert len(identifiers) == len(set(identifiers)) == acknowledged
