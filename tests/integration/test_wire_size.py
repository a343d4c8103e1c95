"""A message that is too large once it is sealed is refused before 250 and before 201."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import aiosmtplib
import httpx
import pytest
import pytest_asyncio

from gateway import messages
from gateway.sandbox import Hisp, open_sandbox

CHEN = "dr.chen@direct.lakeview.example"
FITS, TOO_LARGE = 5_000, 60_000  # in octets; what may leave is 64 KiB


@pytest_asyncio.fixture
async def hillside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hisp]:
    """A HISP whose peers take little."""
    monkeypatch.setenv("DIRECT_GATEWAY_PEERS", '{"*": {"size_octets": 65536}}')
    async with open_sandbox(tmp_path) as sandbox:
        yield sandbox.hillside


async def by_mail(hisp: Hisp, size: int, *, announced: bool = True) -> tuple[int, str]:
    """Submit a message of about `size` octets; return the server's reply."""
    assert hisp.listening.edge is not None
    host, port = hisp.listening.edge
    text = f"From: {hisp.desk}\r\nTo: {CHEN}\r\nMessage-ID: <{size}@h.example>\r\n\r\n"
    text += ("x" * 70 + "\r\n") * (size // 72)
    async with aiosmtplib.SMTP(
        hostname=host,
        port=port,
        start_tls=True,
        validate_certs=False,
        username="ehr",
        password=hisp.password,
    ) as client:
        try:
            options = [f"SIZE={len(text)}"] if announced else []
            await client.mail(str(hisp.desk), options=options)
            await client.rcpt(CHEN)
            reply = await client.data(text)
            return reply.code, reply.message
        except aiosmtplib.SMTPResponseException as error:
            return error.code, error.message


async def announced_size(hisp: Hisp) -> int:
    """Return the SIZE that the edge offers to an EHR."""
    host, port = hisp.listening.edge or ("", 0)
    async with aiosmtplib.SMTP(
        hostname=host, port=port, start_tls=True, validate_certs=False
    ) as client:
        await client.ehlo()
        return int(client.esmtp_extensions["size"])


async def by_fhir(hisp: Hisp, size: int) -> httpx.Response:
    """POST a Communication with a document of about `size` octets, in base64."""
    data = base64.b64encode(b"x" * (size * 3 // 4)).decode()
    attachment = {"contentType": "text/plain", "data": data, "title": "note.txt"}
    resource = {
        "resourceType": "Communication",
        "status": "in-progress",
        "contained": [_practitioner("from", str(hisp.user)), _practitioner("to", CHEN)],
        "sender": {"reference": "#from"},
        "recipient": [{"reference": "#to"}],
        "payload": [{"contentAttachment": attachment}],
    }
    async with httpx.AsyncClient(timeout=30, verify=False) as http:
        return await http.post(
            f"{hisp.base_url}/Communication",
            json=resource,
            headers={
                "Authorization": f"Bearer {hisp.token}",
                "Content-Type": "application/fhir+json",
            },
        )


def _practitioner(identifier: str, address: str) -> dict[str, object]:
    telecom = [{"system": "email", "value": address}]
    return {"resourceType": "Practitioner", "id": identifier, "telecom": telecom}


async def test_the_edge_announces_what_fits_once_sealed(hillside: Hisp) -> None:
    size = await announced_size(hillside)
    # what is announced, is taken.
    assert FITS < size < 65536 * 3 // 4
    assert (await by_mail(hillside, size - 1000))[0] == 250
    # Refused at MAIL, before an octet of it is sent.
    assert await by_mail(hillside, size + 1000) == (552, "5.3.4 Message is too big")


async def test_too_large_once_sealed_is_refused_at_both_edges(hillside: Hisp) -> None:
    for announced in (True, False):
        refused_by_mail = await by_mail(hillside, TOO_LARGE, announced=announced)
        assert refused_by_mail == (552, "5.3.4 Message is too big")
    refused = await by_fhir(hillside, TOO_LARGE)
    assert refused.status_code == 413
    assert refused.json()["issue"][0]["code"] == "too-long"
    database = hillside.listening.database
    assert await database.read(lambda c: messages.list_messages(c, limit=10)) == []
    # Far from what the edges take in clear text, and what fits is taken.
    assert hillside.config.edge.size_octets > 10 * TOO_LARGE
    assert (await by_mail(hillside, FITS))[0] == 250
    assert (await by_fhir(hillside, FITS)).status_code == 201
