"""The programs of docs/examples, run as they are against a whole served gateway."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fhir.resources.R4B import get_fhir_model_class

from tests.helpers.fhir_site import App, FhirSite, eventually, fhir_site
from tests.helpers.servers import free_port
from tests.helpers.web import Exchange, web

EXAMPLES: Final = Path(__file__).parent.parent.parent / "docs" / "examples"
pytestmark = pytest.mark.xdist_group("fhir-end-to-end")


@asynccontextmanager
async def program(name: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run one until the context ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / name), env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def message_to(site: FhirSite, app: App, text: str) -> None:
    """Somebody at the other HISP writes to the application's mailbox."""
    hisp = site.sandbox.lakeview

    def mailto(address: str) -> dict[str, Any]:
        return {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}}

    body = {
        "resourceType": "Communication",
        "status": "in-progress",
        "sender": mailto(str(hisp.desk)),
        "recipient": [mailto(app.mailbox)],
        "payload": [{"contentString": text}],
    }
    headers = {"Authorization": f"Bearer {hisp.token}"}
    async with httpx.AsyncClient(base_url=hisp.base_url, headers=headers) as http:
        assert (await http.post("/Communication", json=body)).status_code == 201


async def test_the_bot_sends_a_text_for_each_new_message(tmp_path: Path) -> None:
    port = free_port()
    texts: list[dict[str, str]] = []
    refused = 1

    async def provider(exchange: Exchange) -> None:
        nonlocal refused
        if refused:  # the first try fails: the gateway calls again
            refused -= 1
            await exchange.answer(b"", status="503 Service Unavailable")
            return
        texts.append(json.loads(exchange.body))
        await exchange.answer(b"{}")

    hosts = [f"http://127.0.0.1:{port}"]
    async with fhir_site(tmp_path, hook_hosts=hosts) as site, web() as sms:
        app = await site.app("frontoffice")
        sms.handlers["/send"] = provider
        bot = program(
            "sms_bot.py",
            GATEWAY=app.url,
            TOKEN=app.token,
            HOOK=f"http://127.0.0.1:{port}/hook",
            SECRET="a long secret of this test",
            LISTEN=f"127.0.0.1:{port}",
            SMS_URL=sms.url("/send"),
            SMS_TO="+15550100",
        )
        async with bot, app.http() as http:

            async def active() -> bool:
                found = (await http.get("/Subscription")).json().get("entry", [])
                return [e["resource"]["status"] for e in found] == ["active"]

            assert await eventually(active)
            forged = await httpx.AsyncClient().post(f"http://127.0.0.1:{port}/hook")
            assert forged.status_code == 401
            await message_to(site, app, "The result is normal.")

            async def told() -> list[dict[str, str]]:
                return texts

            [text] = await eventually(told)
    assert text["to"] == "+15550100"
    assert str(site.sandbox.lakeview.desk) in text["text"]
    assert "normal" not in text["text"]


@pytest.mark.parametrize(("mode", "code"), [("telephone", "PHONE"), ("video", "VIDEOCONF")])
async def test_a_call_is_recorded_in_its_thread(tmp_path: Path, mode: str, code: str) -> None:
    recording = tmp_path / "call.webm"
    recording.write_bytes(os.urandom(100_000))
    async with fhir_site(tmp_path / "site") as site:
        app = await site.app("nurse")
        async with app.http() as http:
            patient = await http.post(
                "/Patient", json={"resourceType": "Patient", "name": [{"family": "Helberg"}]}
            )
            header = await http.post(
                "/Communication",
                json={
                    "resourceType": "Communication",
                    "status": "in-progress",
                    "topic": {"text": "Referral"},
                },
            )
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(EXAMPLES / "call_recorder.py"),
                *("--mode", mode, "--patient", f"Patient/{patient.json()['id']}"),
                *("--thread", f"Communication/{header.json()['id']}"),
                *("--note", "Agreed to see her on Monday.", "--seconds", "300", str(recording)),
                env={**os.environ, "GATEWAY": app.url, "TOKEN": app.token},
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
            assert process.returncode == 0
            reference = output.decode().strip()
            thread = {"part-of": f"Communication/{header.json()['id']}"}
            [entry] = (await http.get("/Communication", params=thread)).json()["entry"]
            call = entry["resource"]
            assert f"Communication/{call['id']}" == reference
            assert (call["status"], call["medium"][0]["coding"][0]["code"]) == ("completed", code)
            assert call["payload"][0]["contentString"] == "Agreed to see her on Monday."
            media = (
                await http.get(f"/{call['payload'][1]['contentReference']['reference']}")
            ).json()
            get_fhir_model_class("Media").model_validate(media)
            assert media["duration"] == 300
            octets = await http.get(f"/{media['content']['url']}", headers={"accept": "*/*"})
            assert octets.content == recording.read_bytes()
            sent = await http.get("/Communication", params={"direction": "outbound"})
            assert sent.json()["total"] == 0
