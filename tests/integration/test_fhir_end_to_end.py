"""Messages of every shape go from one gateway's FHIR API to another's, and come out octet by octet.

fhir.md 3.6: what an application POSTs at one HISP is wrapped, signed, encrypted and relayed, and
another application reads it at the other HISP; every attachment's digest is compared.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import dns.name
import dns.zone
import httpx
import pytest
import pytest_asyncio

from certs.address import DirectAddress
from tests.helpers.fhir_site import App, FhirSite, eventually, fhir_site

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("fhir-end-to-end")]

GOOD = [f"ward{number}" for number in range(10)]
NOWHERE = "direct.nowhere.example"


@dataclass(frozen=True)
class Pair:
    """An application at each HISP; the second has many mailboxes."""

    sender: App
    receiver: App
    out: httpx.AsyncClient
    into: httpx.AsyncClient


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with fhir_site(tmp_path_factory.mktemp("end-to-end"), envelopes=True) as site:
        sender, receiver = await site.app("anna"), await receiving(site)
        add_empty_zone(site, NOWHERE)
        async with sender.http() as out, receiver.http() as into:
            yield Pair(sender, receiver, out, into)


async def receiving(site: FhirSite) -> App:
    hisp = site.sandbox.lakeview
    mailboxes = [DirectAddress(name, hisp.domain) for name in GOOD]
    token = await site.client(hisp, "wards", mailboxes)
    return App(hisp.base_url, token, str(mailboxes[0]), str(site.sandbox.hillside.desk))


def add_empty_zone(site: FhirSite, domain: str) -> None:
    """Let `domain` exist without a certificate anywhere."""
    lines = "@ 300 IN SOA ns host 1 3600 600 86400 60\n@ 300 IN NS ns\nns 300 IN A 127.0.0.1\n"
    zone = dns.zone.from_text(
        f"{lines}_ldap._tcp 300 IN SRV 0 0 0 .\n", origin=domain, relativize=False
    )
    site.sandbox.zones[dns.name.from_text(domain)] = zone


def mailto(address: str) -> dict[str, Any]:
    return {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}}


async def sent(pair: Pair, recipients: list[str], **elements: Any) -> dict[str, Any]:
    """Send a Communication and return it as the sender's gateway has it."""
    body = {
        "resourceType": "Communication",
        "status": "in-progress",
        "sender": mailto(pair.sender.mailbox),
        "recipient": [mailto(address) for address in recipients],
        **elements,
    }
    answer = await pair.out.post("/Communication", json=body)
    assert answer.status_code == 201, answer.text
    resource: dict[str, Any] = answer.json()
    return resource


async def ended(pair: Pair, identity: str) -> dict[str, Any]:
    """The sent Communication once every recipient has ended."""

    async def look() -> dict[str, Any] | None:
        resource: dict[str, Any] = (await pair.out.get(f"/Communication/{identity}")).json()
        return resource if resource["status"] in ("completed", "stopped", "not-done") else None

    return await eventually(look)


async def received(pair: Pair, message: dict[str, Any], mailbox: str) -> dict[str, Any]:
    """The Communication that `message` became in a mailbox of the receiver."""
    [mid] = [i["value"] for i in message["identifier"] if i["value"].startswith("mid:")]
    query = {
        "identifier": f"urn:ietf:rfc:3986|{mid}",
        "recipient": f"mailto:{mailbox}",
        "direction": "inbound",
    }

    async def look() -> dict[str, Any] | None:
        bundle = (await pair.into.get("/Communication", params=query)).json()
        found = [e["resource"] for e in bundle.get("entry", [])]
        return found[0] if found else None

    return await eventually(look)


async def octets(http: httpx.AsyncClient, attachment: dict[str, Any]) -> bytes:
    """What an attachment's Binary holds; its size and hash must say the same."""
    answer = await http.get(f"/{attachment['url']}", headers={"accept": "*/*"})
    assert answer.status_code == 200
    assert attachment["size"] == len(answer.content)
    sha1 = base64.b64encode(hashlib.sha1(answer.content).digest()).decode()
    assert attachment["hash"] == sha1
    assert answer.headers["etag"].strip('"') == hashlib.sha256(answer.content).hexdigest()
    return answer.content


def attachments(resource: dict[str, Any]) -> list[dict[str, Any]]:
    return [p["contentAttachment"] for p in resource["payload"] if "contentAttachment" in p]


def texts(resource: dict[str, Any]) -> list[str]:
    return [p["contentString"] for p in resource["payload"] if "contentString" in p]


async def uploaded(pair: Pair, content: bytes, kind: str, name: str) -> dict[str, Any]:
    answer = await pair.out.post(
        "/Binary", params={"_filename": name}, content=content, headers={"content-type": kind}
    )
    assert answer.status_code == 201, answer.text
    return {"contentType": kind, "url": f"Binary/{answer.json()['id']}", "title": name}


def deliveries(resource: dict[str, Any]) -> dict[str, str]:
    """How far each recipient is, by address."""
    return {
        recipient["identifier"]["value"].removeprefix("mailto:"): part["valueCode"]
        for recipient in resource["recipient"]
        for extension in recipient.get("extension", [])
        if extension["url"].endswith("/delivery")
        for part in extension["extension"]
        if part["url"] == "code"
    }


async def test_one_recipient(pair: Pair) -> None:
    text = "Zweite Meinung zu Frau Müller § bitte heute. 100 % ✓\n\n.\n-- \nAnna\n"
    message = await sent(
        pair, [pair.receiver.mailbox], topic={"text": "Café ✓"}, payload=[{"contentString": text}]
    )
    assert (await ended(pair, message["id"]))["status"] == "completed"
    found = await received(pair, message, pair.receiver.mailbox)
    assert (found["topic"]["text"], texts(found)) == ("Café ✓", [text])
    assert found["sender"]["identifier"] == message["sender"]["identifier"]
    raw = await pair.into.get(f"/Communication/{found['id']}/$raw")
    assert raw.headers["content-type"] == "message/rfc822"


async def test_twenty_recipients_with_mixed_outcomes(pair: Pair) -> None:
    domain = pair.receiver.mailbox.partition("@")[2]
    good = [f"{name}@{domain}" for name in GOOD]
    unknown = [f"nobody{number}@{domain}" for number in range(5)]
    without = [f"dr{number}@{NOWHERE}" for number in range(5)]
    message = await sent(
        pair, [*good, *unknown, *without], payload=[{"contentString": "To whom it may concern"}]
    )
    final = await ended(pair, message["id"])
    assert deliveries(final) == {
        **dict.fromkeys(good, "processed"),
        **dict.fromkeys(unknown, "failed"),
        **dict.fromkeys(without, "refused"),
    }
    assert (final["status"], "statusReason" in final) == ("stopped", True)
    for address in good:
        found = await received(pair, message, address)
        assert texts(found) == ["To whom it may concern"]
        assert len(found["recipient"]) == 20
    tasks = (
        await pair.out.get(
            "/Task", params={"focus": f"Communication/{message['id']}", "_count": "50"}
        )
    ).json()
    states = sorted(entry["resource"]["status"] for entry in tasks["entry"])
    assert states == ["completed"] * 10 + ["failed"] * 10


async def test_blind_copies(pair: Pair) -> None:
    domain = pair.receiver.mailbox.partition("@")[2]
    openly, *blindly = [f"{name}@{domain}" for name in GOOD[:3]]
    nowhere = f"nobody@{NOWHERE}"
    url = "https://direct-gateway.dev/fhir/StructureDefinition/recipient-role"
    recipients = [
        {
            "extension": [{"url": url, "valueCode": "to" if address == openly else "bcc"}],
            "identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"},
        }
        for address in (openly, *blindly, nowhere)
    ]
    payload = [{"contentString": "In confidence"}]
    topic = {"text": "For your eyes"}
    message = await sent(pair, [openly], recipient=recipients, payload=payload, topic=topic)
    final = await ended(pair, message["id"])
    assert deliveries(final) == {
        **dict.fromkeys((openly, *blindly), "processed"),
        nowhere: "refused",
    }
    for address in (openly, *blindly):
        found = await eventually(lambda a=address: of_subject(pair, a, topic["text"]))
        assert texts(found) == ["In confidence"]
        raw = (await pair.into.get(f"/Communication/{found['id']}/$raw")).content
        hidden = {*blindly, nowhere} - {address}
        assert not [other for other in hidden if other.encode() in raw]
        assert b"bcc" not in raw.lower()


async def of_subject(pair: Pair, mailbox: str, subject: str) -> dict[str, Any] | None:
    """The message with this subject in `mailbox`, which is found by the raw message's To."""
    answer = await pair.into.get(
        "/Communication",
        params={"recipient": f"mailto:{mailbox}", "direction": "inbound", "_count": "200"},
    )
    entries = [entry["resource"] for entry in answer.json().get("entry", [])]
    named = [r for r in entries if r.get("topic") == {"text": subject}]
    # Who was copied blindly stands last in To; what all see has one recipient.
    mine = [r for r in named if r["recipient"][-1]["identifier"]["value"].endswith(mailbox)]
    return mine[0] if mine else None


async def test_thirty_attachments(pair: Pair) -> None:
    contents = [os.urandom(number * 97) for number in range(30)]
    payload: list[dict[str, Any]] = [{"contentString": "Thirty files"}]
    for number, content in enumerate(contents):
        name = f"Befund {number} § Größe.bin"
        kind = "application/octet-stream"
        if number % 2:
            attachment = await uploaded(pair, content, kind, name)
        else:
            data = base64.b64encode(content).decode()
            attachment = {"contentType": kind, "title": name, "data": data}
            if not content:
                del attachment["data"]
                attachment = await uploaded(pair, content, kind, name)
        payload.append({"contentAttachment": attachment})
    message = await sent(pair, [pair.receiver.mailbox], payload=payload)
    found = await received(pair, message, pair.receiver.mailbox)
    got = attachments(found)
    assert [a["title"] for a in got] == [f"Befund {n} § Größe.bin" for n in range(30)]
    assert [await octets(pair.into, a) for a in got] == contents
    assert [await octets(pair.out, a) for a in attachments(message)] == contents


async def test_a_large_attachment(pair: Pair) -> None:
    content = os.urandom(24 * 1024 * 1024)
    attachment = await uploaded(pair, content, "application/dicom", "scan.dcm")
    message = await sent(pair, [pair.receiver.mailbox], payload=[{"contentAttachment": attachment}])
    found = await received(pair, message, pair.receiver.mailbox)
    [got] = attachments(found)
    assert got["contentType"].startswith("application/dicom")
    assert await octets(pair.into, got) == content
    part = await pair.into.get(
        f"/{got['url']}", headers={"range": "bytes=1000000-1000099", "accept": "*/*"}
    )
    assert (part.status_code, part.content) == (206, content[1_000_000:1_000_100])


async def test_an_inline_image_and_its_html(pair: Pair) -> None:
    image = b"\x89PNG\r\n\x1a\n" + os.urandom(500)
    html = '<p>See <img src="cid:scan@here"> § Größe</p>\r\n'
    url = "https://direct-gateway.dev/fhir/StructureDefinition/mime-part"

    def part(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
        inner = [
            {"url": name, "valueCode" if name == "role" else "valueString": value}
            for name, value in pairs
        ]
        return [{"url": url, "extension": inner}]

    payload = [
        {"contentString": "See the image."},
        {
            "extension": part(("role", "body-html")),
            "contentAttachment": {
                "contentType": "text/html; charset=utf-8",
                "data": base64.b64encode(html.encode()).decode(),
            },
        },
        {
            "extension": part(("role", "inline"), ("content-id", "scan@here")),
            "contentAttachment": {
                "contentType": "image/png",
                "title": "scan.png",
                "data": base64.b64encode(image).decode(),
            },
        },
    ]
    message = await sent(pair, [pair.receiver.mailbox], payload=payload)
    found = await received(pair, message, pair.receiver.mailbox)
    assert texts(found) == ["See the image."]
    page, picture = attachments(found)
    assert (await octets(pair.into, page)).decode() == html
    assert await octets(pair.into, picture) == image
    [extension] = found["payload"][2]["extension"]
    parts = {e["url"]: next(v for k, v in e.items() if k != "url") for e in extension["extension"]}
    assert (parts["role"], parts["content-id"]) == ("inline", "scan@here")


async def test_an_html_only_body(pair: Pair) -> None:
    html = "<p>Only <b>HTML</b></p>\r\n"
    url = "https://direct-gateway.dev/fhir/StructureDefinition/mime-part"
    extension = [{"url": url, "extension": [{"url": "role", "valueCode": "body-html"}]}]
    attachment = {
        "contentType": "text/html; charset=utf-8",
        "data": base64.b64encode(html.encode()).decode(),
    }
    message = await sent(
        pair,
        [pair.receiver.mailbox],
        payload=[{"extension": extension, "contentAttachment": attachment}],
    )
    found = await received(pair, message, pair.receiver.mailbox)
    assert [text.strip() for text in texts(found)] == ["Only HTML"]
    [page] = attachments(found)
    assert (await octets(pair.into, page)).decode() == html


async def test_a_chain_of_ten_replies_is_one_thread_on_both_sides(pair: Pair) -> None:
    """They answer each other in turn; each answers what it has received."""
    here: dict[str, Any] = await sent(
        pair, [pair.receiver.mailbox], topic={"text": "Chain"}, payload=[{"contentString": "0"}]
    )
    there = await received(pair, here, pair.receiver.mailbox)
    back = Pair(pair.receiver, pair.sender, pair.into, pair.out)
    for number in range(1, 11):
        way = back if number % 2 else pair
        mine = there if number % 2 else here
        answer = await sent(
            way,
            [way.receiver.mailbox],
            topic={"text": "Re: Chain"},
            inResponseTo=[{"reference": f"Communication/{mine['id']}"}],
            payload=[{"contentString": str(number)}],
        )
        arrived = await received(way, answer, way.receiver.mailbox)
        assert arrived["inResponseTo"][0]["reference"].startswith("Communication/")
        here, there = (arrived, answer) if number % 2 else (answer, arrived)
    for http, last in ((pair.out, here), (pair.into, there)):
        [header] = [reference["reference"] for reference in last["partOf"]]
        query = {"part-of": header, "_sort": "sent,_lastUpdated"}
        thread = (await http.get("/Communication", params=query)).json()
        assert {texts(e["resource"])[0] for e in thread["entry"]} == set(map(str, range(11)))


async def test_what_mail_cannot_carry_arrives_in_the_envelope(pair: Pair) -> None:
    scan = os.urandom(3000)
    patient = {"resourceType": "Patient", "id": "patient", "name": [{"family": "Müller"}]}
    more: dict[str, Any] = {
        "language": "de",
        "contained": [patient],
        "subject": {"reference": "#patient"},
        "category": [{"text": "Befund"}],
        "reasonCode": [{"text": "Zweite Meinung"}],
        "encounter": {"reference": "https://ehr.example/fhir/Encounter/7"},
        "note": [{"text": "Ruft um 12 Uhr zurück ✓"}],
        "extension": [{"url": "https://ehr.example/ext", "valueString": "x"}],
    }
    payload = [
        {"contentString": "Erstens."},
        {"contentAttachment": await uploaded(pair, scan, "image/png", "scan.png")},
        {"contentString": "Zweitens."},
    ]
    message = await sent(pair, [pair.receiver.mailbox], payload=payload, **more)
    found = await received(pair, message, pair.receiver.mailbox)
    assert {n: found[n] for n in more if n not in ("contained", "extension")} == {
        n: more[n] for n in more if n not in ("contained", "extension")
    }
    assert more["extension"][0] in found["extension"]
    assert patient in found["contained"]
    assert [next(iter(p.keys() - {"extension"})) for p in found["payload"]] == [
        "contentString",
        "contentAttachment",
        "contentString",
    ]
    [picture] = attachments(found)
    assert await octets(pair.into, picture) == scan
    envelope = next(e for e in found["extension"] if e["url"].endswith("/envelope"))
    url = envelope["valueReference"]["reference"]
    bundle = (await pair.into.get(f"/{url}", headers={"accept": "*/*"})).json()
    assert bundle["entry"][0]["resource"]["resourceType"] == "MessageHeader"
    # Nothing of it was lost, or added, on the way through the signature.
    raw = (await pair.into.get(f"/Communication/{found['id']}/$raw")).content
    assert b"envelope=direct-message" in raw


async def test_a_subscriber_is_told_by_a_direct_message(pair: Pair) -> None:
    criteria = "Communication?status=preparation"
    channel = {"type": "email", "endpoint": f"mailto:{pair.receiver.mailbox}"}
    made = await pair.out.post(
        "/Subscription",
        json={
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "tell the ward of drafts",
            "criteria": criteria,
            "channel": channel,
        },
    )
    assert (made.status_code, made.json()["status"]) == (201, "active"), made.text
    draft = await pair.out.post(
        "/Communication",
        json={
            "resourceType": "Communication",
            "status": "preparation",
            "payload": [{"contentString": "not for everybody"}],
        },
    )
    where = f"{pair.sender.url}/Communication/{draft.json()['id']}/_history/1"

    async def look() -> str | None:
        query = {"sender": f"mailto:{pair.sender.mailbox}", "direction": "inbound"}
        bundle = (await pair.into.get("/Communication", params=query)).json()
        found = [texts(entry["resource"]) for entry in bundle.get("entry", [])]
        return next((text[0] for text in found if text and where in text[0]), None)

    assert "not for everybody" not in await eventually(look)
