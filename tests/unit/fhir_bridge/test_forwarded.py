"""Messages that are attached to a message, shown on request (fhir.md 3.3, message/rfc822)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from fhir_bridge.forwarded import DATA_OCTETS_MAX, ENCLOSED_MAX
from fhir_bridge.resources import check
from fhir_bridge.terms import extension_value
from tests.unit.fhir_bridge.conftest import ANNA, TERMS, World

INNER = (
    b"From: Chief <chief@direct.elsewhere.example>\r\nTo: Ben Ray <ben@direct.lakeview.example>\r\n"
    b"Cc: zoe@direct.elsewhere.example\r\nBcc: hidden@direct.elsewhere.example\r\n"
    b"Subject: Original\r\nDate: Thu, 01 Jan 2026 08:00:00 +0100\r\n"
    b"Message-ID: <inner@direct.elsewhere.example>\r\nIn-Reply-To: <before@x.example>\r\n"
    b"Importance: high\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=i\r\n\r\n"
    b"--i\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
    b"--i\r\nContent-Type: application/pdf; name=a.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n--i--\r\n"
)
HEADER = (
    b"From: Ben Ray <ben@direct.lakeview.example>\r\nTo: anna@direct.hillside.example\r\n"
    b"Subject: Fwd\r\nMessage-ID: <outer@direct.lakeview.example>\r\n"
)


def outer(*messages: bytes, encoded: bool = False) -> bytes:
    """Return a message with others attached."""
    parts = b"".join(
        b"--o\r\nContent-Type: message/rfc822\r\n"
        + (
            b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(message)
            if encoded
            else b"\r\n" + message
        )
        + b"\r\n"
        for message in messages
    )
    body = b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\r\nSee below\r\n"
    return HEADER + body + parts + b"--o--\r\n"


async def shown(world: World, identity: Any) -> list[dict[str, Any]]:
    answer = await world.http.get(f"/Communication/{identity}/$forwarded")
    assert answer.status_code == 200, answer.text
    bundle = answer.json()
    get_fhir_model_class("Bundle").model_validate(bundle)
    found = [entry["resource"] for entry in bundle.get("entry", [])]
    for resource in found:
        check(resource)
    return found


@pytest.mark.parametrize("encoded", [False, True], ids=["as-it-is", "base64"])
async def test_an_attached_message_is_shown_as_it_states_itself(
    world: World, encoded: bool
) -> None:
    identity = await world.receive(outer(INNER, encoded=encoded))
    [found] = await shown(world, identity)
    assert found["sender"] == {
        "identifier": {
            "system": "urn:ietf:rfc:3986", "value": "mailto:chief@direct.elsewhere.example"
        },
        "display": "Chief",
    }  # fmt: skip
    assert [r["identifier"]["value"] for r in found["recipient"]] == [
        "mailto:ben@direct.lakeview.example",
        "mailto:zoe@direct.elsewhere.example",
    ]
    assert found["topic"] == {"text": "Original"}
    assert (found["sent"], found["priority"]) == ("2026-01-01T08:00:00+01:00", "urgent")
    assert found["identifier"][0]["value"] == "mid:inner@direct.elsewhere.example"
    assert found["inResponseTo"][0]["identifier"]["value"] == "mid:before@x.example"
    text, pdf = found["payload"]
    assert text["contentString"].strip() == "Grüße"
    attachment = pdf["contentAttachment"]
    assert (attachment["title"], attachment["data"]) == ("a.pdf", "JVBERg==")
    assert attachment["size"] == 4


async def test_it_is_marked_as_judged_by_nobody(world: World) -> None:
    identity = await world.receive(outer(INNER))
    [found] = await shown(world, identity)
    assert extension_value(found, TERMS.extension("not-judged")) is True
    assert found["status"] == "unknown"
    assert found["partOf"] == [{"reference": f"Communication/{identity}"}]
    urls = {e["url"] for e in found["extension"]}
    assert urls == {TERMS.extension("not-judged"), TERMS.extension("raw-message")}
    assert not {"received", "medium", "contained", "meta"} & found.keys()
    reference: Any = extension_value(found, TERMS.extension("raw-message"))
    raw = await world.http.get(f"/{reference['reference']}", headers={"accept": "*/*"})
    assert raw.content.strip() == INNER.strip()


async def test_nothing_else_knows_of_it(world: World) -> None:
    identity = await world.receive(outer(INNER))
    before = (await world.http.get("/Communication?_summary=count")).json()["total"]
    [found] = await shown(world, identity)
    for query in (
        "sender=mailto:chief@direct.elsewhere.example",
        "identifier=mid:inner@direct.elsewhere.example",
        f"_id={found['id']}",
    ):
        assert (await world.http.get(f"/Communication?{query}")).json()["total"] == 0
    assert (await world.http.get(f"/Communication/{found['id']}")).status_code == 404
    after = (await world.http.get("/Communication?_summary=count")).json()["total"]
    assert after == before
    # The real message, when it comes, is no duplicate of the attached one.
    real = await world.receive(INNER.replace(b"ben@direct.lakeview.example", ANNA.encode()))
    stored = (await world.http.get(f"/Communication/{real}")).json()
    assert "duplicate-message-id" not in json.dumps(stored)


async def test_it_is_the_same_each_time(world: World) -> None:
    identity = await world.receive(outer(INNER, INNER))
    one = await shown(world, identity)
    assert one == await shown(world, identity)
    assert one[0]["id"] != one[1]["id"]


async def test_what_is_attached_to_it_stays_an_attachment(world: World) -> None:
    identity = await world.receive(outer(outer(INNER, encoded=True), encoded=True))
    [found] = await shown(world, identity)
    assert found["topic"] == {"text": "Fwd"}
    [attached] = [p for p in found["payload"] if "contentAttachment" in p]
    assert attached["contentAttachment"]["contentType"] == "message/rfc822"


async def test_a_message_without_another_shows_none(world: World) -> None:
    identity = await world.receive(HEADER + b"\r\nHello\r\n")
    assert await shown(world, identity) == []


async def test_at_most_twenty_are_shown(world: World) -> None:
    identity = await world.receive(outer(*[INNER] * (ENCLOSED_MAX + 5)))
    assert len(await shown(world, identity)) == ENCLOSED_MAX


async def test_large_attachments_are_named_without_their_data(world: World) -> None:
    large = base64.encodebytes(b"x" * (DATA_OCTETS_MAX + 1))
    identity = await world.receive(outer(INNER.replace(b"JVBERg==\r\n", large)))
    [found] = await shown(world, identity)
    attachment = found["payload"][1]["contentAttachment"]
    assert "data" not in attachment
    assert attachment["size"] == DATA_OCTETS_MAX + 1


@pytest.mark.parametrize(
    "inner",
    [
        b"",
        b"no header at all",
        b"\xff\xfe\x00\r\n\r\n\x00",
        b"From: @\r\nTo: ,,\r\nMessage-ID: <>\r\n\r\n",
        b"Content-Type: multipart/mixed; boundary=z\r\n\r\n" + b"--z\r\n\r\n" * 2000,
        b"Content-Type: application/fhir+json; envelope=direct-message\r\n"
        b"Content-Disposition: attachment\r\n\r\n{}",
    ],
    ids=["empty", "no-header", "octets", "empty-fields", "parts", "envelope"],
)
async def test_whatever_is_attached_is_shown(world: World, inner: bytes) -> None:
    identity = await world.receive(outer(inner, encoded=True))
    [found] = await shown(world, identity)
    assert extension_value(found, TERMS.extension("not-judged")) is True


async def test_another_mailbox_and_a_narrow_scope_see_nothing(world: World) -> None:
    identity = await world.receive(outer(INNER))
    url = f"/Communication/{identity}/$forwarded"
    zoe = await world.add_client("zoe", "zoe@direct.hillside.example")
    assert (await world.http.get(url, headers=zoe)).status_code == 404
    for scope in ("system/Communication.rs", "system/Binary.rs"):
        narrow = await world.add_client(f"n{scope[7]}", ANNA, scopes=scope)
        assert (await world.http.get(url, headers=narrow)).status_code == 403


async def test_a_client_cannot_say_that_a_message_is_judged_by_nobody(world: World) -> None:
    posted = {
        "resourceType": "Communication",
        "status": "preparation",
        "extension": [{"url": TERMS.extension("not-judged"), "valueBoolean": True}],
    }
    assert (await world.http.post("/Communication", json=posted)).status_code == 409
