"""What the administrator changes is in force in the running gateway within a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiosmtplib
import httpx
import pytest

from certs.issuers import sha256_of
from tests.helpers.console import Installation, Said
from tests.helpers.neighbours import DOMAIN, PEER, USER, Neighbours, neighbours

pytestmark = pytest.mark.xdist_group("cli")

LATER = f"later@{DOMAIN}"
WITHIN_S = 1.0


async def soon(condition: Callable[[], Awaitable[bool]], *, within_s: float = WITHIN_S) -> None:
    """Return once the condition holds; a second after the command it must."""
    end = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < end, f"not within {within_s} seconds"
        await asyncio.sleep(0.02)


class Outside:
    """What others see of a gateway: whom it serves, who may come in."""

    def __init__(self, here: Installation, password: str, token: str) -> None:
        self._here = here
        self._password = password
        self._token = token

    async def refuses(self, address: str) -> bool:
        return not await self.serves(address)

    async def serves(self, address: str) -> bool:
        async with self._smtp(self._here.backbone) as smtp:
            await smtp.mail(PEER)
            try:
                await smtp.rcpt(address)
            except aiosmtplib.SMTPRecipientRefused:
                return False
        return True

    async def lets_in(self) -> bool:
        async with self._smtp(self._here.edge) as smtp:
            try:
                await smtp.login("clinic", self._password)
            except aiosmtplib.SMTPAuthenticationError:
                return False
        return True

    async def answers(self, status: int) -> bool:
        async with httpx.AsyncClient(verify=False) as http:
            url = f"http://127.0.0.1:{self._here.fhir}/fhir/R4/Communication"
            headers = {"Authorization": f"Bearer {self._token}"}
            return (await http.get(url, headers=headers)).status_code == status

    def _smtp(self, port: int) -> aiosmtplib.SMTP:
        return aiosmtplib.SMTP(
            hostname="127.0.0.1", port=port, start_tls=True, validate_certs=False
        )


async def commands(here: Installation, *calls: tuple[object, ...]) -> list[Said]:
    said = await asyncio.to_thread(here.batch, *calls)
    assert [one.status for one in said] == [0] * len(calls), said
    return said


async def signer_of(peers: Neighbours, number: int) -> list[str]:
    """Send a message and return the fingerprints of the certificates that signed it."""
    message_id = f"<{number}@{DOMAIN}>"
    await peers.submit(message_id, [PEER], 1000)

    async def arrived() -> bool:
        return message_id in peers.hisp.signed_by

    await soon(arrived, within_s=30)
    return [sha256_of(certificate).hex() for certificate in peers.hisp.signed_by[message_id]]


async def test_changes_by_the_command_line_count_at_once(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as peers:
        here = peers.here
        user, client, listed = await commands(
            here,
            ("user", "add", "clinic", "--address", USER),
            ("client", "add", "clinic", "--mailbox", USER),
            ("cert", "list"),
        )
        outside = Outside(here, user.output["password"], client.output["token"])
        with here.served():
            assert not await outside.serves(LATER)
            await commands(here, ("address", "add", LATER))
            await soon(lambda: outside.serves(LATER))
            await commands(here, ("address", "disable", LATER))
            await soon(lambda: outside.refuses(LATER))
            await commands(here, ("domain", "disable", DOMAIN))
            await soon(lambda: outside.refuses(USER))
            await commands(here, ("domain", "enable", DOMAIN))
            await soon(lambda: outside.serves(USER))

            assert await outside.lets_in()
            await commands(here, ("user", "disable", "clinic"))
            assert not await outside.lets_in()

            assert await outside.answers(200)
            await commands(here, ("client", "remove", "clinic", "--yes"))
            assert await outside.answers(401)

            [old] = [row["sha256"] for row in listed.output]
            assert await signer_of(peers, 1) == [old]
            [new] = await commands(here, ("cert", "new", "--for", USER, "--kind", "p256"))
            # The key-encryption key is rotated meanwhile: the new key is opened all the same.
            await commands(
                here,
                ("cert", "rewrap", "--rotate"),
                ("cert", "rollover", new.output["sha256"], "--switch", "now"),
            )
            assert await signer_of(peers, 2) == [new.output["sha256"]]
            # What is encrypted to the old one is opened as before, and answered.
            await peers.receive(f"<late@{PEER}>", 1000)

            async def opened() -> bool:
                return bool(await peers.inbox(f"<late@{PEER}>"))

            await soon(opened, within_s=30)
