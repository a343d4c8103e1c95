"""One mailbox sees nothing of another, by whatever path it asks; and cannot reach into it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.fhir_bridge.conftest import ANNA, World, communication

ZOE = "zoe@direct.hillside.example"
SECRET = "Helberg-secret"
MESSAGE = (
    b"From: ben@direct.lakeview.example\r\nTo: anna@direct.hillside.example\r\n"
    b"Subject: Helberg-secret\r\nMessage-ID: <1@direct.lakeview.example>\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nHelberg-secret\r\n"
    b"--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\n"
    b"Helberg-secret\r\n--b--\r\n"
)


@dataclass
class Two:
    """Anna has a message; Zoe, of the same domain, is who asks."""

    world: World
    message: str
    thread: str
    binary: str
    raw: str
    zoe: dict[str, str]

    async def ask(self, method: str, path: str, **given: Any) -> tuple[int, str]:
        url = path
        for name in ("message", "thread", "binary", "raw"):
            url = url.replace(f"{{{name}}}", getattr(self, name))
        answer = await self.world.http.request(method, url, headers=self.zoe, **given)
        return answer.status_code, answer.text


@pytest.fixture
async def two(world: World) -> Two:
    message = await world.receive(MESSAGE)
    found = (await world.http.get(f"/Communication/{message}")).json()
    raw = next(e for e in found["extension"] if e["url"].endswith("raw-message"))
    return Two(
        world,
        str(message),
        found["partOf"][0]["reference"].split("/")[1],
        found["payload"][1]["contentAttachment"]["url"].split("/")[1],
        raw["valueReference"]["reference"].split("/")[1],
        await world.add_client("zoe", ZOE),
    )


READS = [
    "/Communication/{message}",
    "/Communication/{message}/_history",
    "/Communication/{message}/_history/1",
    "/Communication/{message}/$raw",
    "/Communication/{thread}",
    "/Binary/{binary}",
    "/Binary/{raw}",
]
SEARCHES = [
    "/Communication",
    "/Communication?_id={message}",
    "/Communication?_id={message}&_total=accurate",
    "/Communication?part-of=Communication/{thread}",
    "/Communication?part-of:Communication.topic:text=Helberg",
    "/Communication?part-of:Communication._id={thread}",
    "/Communication?_has:Communication:part-of:_id={message}",
    "/Communication?_has:Provenance:target:_id:not=x",
    "/Communication?sender=mailto:ben@direct.lakeview.example",
    "/Provenance?target=Communication/{message}",
    "/Provenance?_include=Provenance:target",
    "/Provenance?_include=Provenance:entity",
    "/Task?focus=Communication/{message}",
    "/Communication/$inbox",
    "/Communication/$inbox?mailbox=mailto:anna@direct.hillside.example",
    "/Communication/_history",
    "/_history",
    "/Patient?_revinclude=Communication:subject",
    "/Practitioner?_revinclude=Communication:recipient&_revinclude:iterate=Communication:part-of",
    "/Practitioner?_has:Communication:recipient:_id={message}",
]


@pytest.mark.parametrize("path", READS)
async def test_a_read_is_as_if_it_were_not_there(two: Two, path: str) -> None:
    status, text = await two.ask("GET", path)
    unknown = path
    for name in ("message", "thread", "binary", "raw"):
        unknown = unknown.replace(f"{{{name}}}", "00000000-0000-7000-8000-000000000000")
    assert (status, text) == await two.ask("GET", unknown)
    assert status == 404


@pytest.mark.parametrize("path", SEARCHES)
async def test_a_search_finds_nothing_of_another_mailbox(two: Two, path: str) -> None:
    status, text = await two.ask("GET", path)
    assert status == 200, text
    assert "entry" not in json.loads(text)
    assert json.loads(text).get("total", 0) == 0
    assert SECRET not in text


@pytest.mark.parametrize("path", READS[:1] + READS[5:] + SEARCHES)
async def test_a_batch_opens_no_other_way(two: Two, path: str) -> None:
    url = path.lstrip("/")
    for name in ("message", "thread", "binary", "raw"):
        url = url.replace(f"{{{name}}}", getattr(two, name))
    entry = {"request": {"method": "GET", "url": url}}
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": [entry]}
    _, text = await two.ask("POST", "", json=bundle)
    assert SECRET not in text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/Communication/{message}", communication(status="preparation")),
        ("DELETE", "/Communication/{message}", None),
        ("DELETE", "/Binary/{binary}", None),
        ("POST", "/Communication/{message}/$mark-read", {}),
        ("POST", "/Communication/{thread}/$mark-read", {}),
        ("POST", "/Communication/{message}/$resend", {}),
        ("POST", "/Communication/{message}/$send-direct", {}),
    ],
)
async def test_a_write_is_as_if_it_were_not_there(
    two: Two, method: str, path: str, body: Any
) -> None:
    given = {} if body is None else {"json": body}
    assert (await two.ask(method, path, **given))[0] == 404
    assert len((await two.world.http.get("/Communication/$inbox")).json()["entry"]) == 2


async def test_another_mailboxs_attachment_cannot_be_sent(two: Two) -> None:
    zoe = {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{ZOE}"}}
    for payload in (
        {"contentAttachment": {"url": f"Binary/{two.binary}"}},
        {"contentReference": {"reference": f"Binary/{two.raw}"}},
        {"contentReference": {"reference": f"Communication/{two.message}"}},
    ):
        letter = communication(sender=zoe, payload=[payload])
        status, text = await two.ask("POST", "/Communication", json=letter)
        assert status == 422, text
    assert two.world.outbox.submissions == []


async def test_a_stranger_cannot_write_into_a_thread(two: Two) -> None:
    """A reference to another mailbox's thread does not put a message into it."""
    zoe = {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{ZOE}"}}
    planted = {
        "resourceType": "Communication",
        "status": "completed",
        "sender": zoe,
        "received": "2026-01-03T00:00:00Z",
        "partOf": [{"reference": f"Communication/{two.thread}"}],
        "extension": [
            {"url": "https://direct-gateway.dev/fhir/StructureDefinition/direction",
             "valueCode": "inbound"},
        ],
        "payload": [{"contentString": "planted"}],
    }  # fmt: skip
    status, text = await two.ask("POST", "/Communication", json=planted)
    assert status == 201, text
    inbox = await two.world.http.get("/Communication/$inbox")
    assert "planted" not in inbox.text
    unread = [e for e in inbox.json()["entry"][0]["resource"]["extension"] if "unread" in e["url"]]
    assert unread[0]["valueUnsignedInt"] == 1
    marked = await two.world.http.post(f"/Communication/{two.thread}/$mark-read", json={})
    assert marked.json()["parameter"][0]["valueInteger"] == 1


@pytest.mark.parametrize("claim", ["direct-trust", "raw-message"])
async def test_nobody_can_state_what_only_the_gateway_knows(world: World, claim: str) -> None:
    url = f"https://direct-gateway.dev/fhir/StructureDefinition/{claim}"
    forged = communication(status="completed", extension=[{"url": url, "valueString": "trusted"}])
    answer = await world.http.post("/Communication", json=forged)
    assert answer.status_code == 409
    assert answer.json()["issue"][0]["code"] == "business-rule"
    made = await world.http.post("/Communication", json=communication(status="preparation"))
    draft = made.json()
    changed = {**draft, "extension": [{"url": url, "valueString": "trusted"}]}
    assert (await world.http.put(f"/Communication/{draft['id']}", json=changed)).status_code == 409


async def test_nobody_sends_as_another(two: Two) -> None:
    assert (await two.ask("POST", "/Communication", json=communication()))[0] == 403
    anna = {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{ANNA}"}}
    request = {
        "resourceType": "CommunicationRequest",
        "status": "active",
        "sender": anna,
        "recipient": communication()["recipient"],
        "payload": [{"contentString": "x"}],
    }
    assert (await two.ask("POST", "/CommunicationRequest", json=request))[0] == 403
    assert two.world.outbox.submissions == []
