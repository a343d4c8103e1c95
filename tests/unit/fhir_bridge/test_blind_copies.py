"""Blind copies: everybody gets the message, and nobody learns of who is copied blindly."""

from __future__ import annotations

import email
from email.message import Message
from typing import Any

import pytest

from certs.address import parse_address
from certs.errors import Reason
from fhir_bridge.delivery import RecipientState, delivery_of
from fhir_bridge.records import delivery_changed
from fhir_bridge.terms import extension_value, message_id_of
from tests.unit.fhir_bridge.conftest import ANNA, BEN, NOW, TERMS, World, communication

CARA = "cara@direct.lakeview.example"
DORA = "dora@direct.lakeview.example"


def named(address: str, role: str) -> dict[str, Any]:
    url = TERMS.extension("recipient-role")
    identifier = {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}
    return {"extension": [{"url": url, "valueCode": role}], "identifier": identifier}


TO, BLIND = named(BEN, "to"), [named(CARA, "bcc"), named(DORA, "bcc")]


async def sent(world: World, *recipients: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = communication(recipient=list(recipients), **more)
    answer = await world.http.post("/Communication", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def written(world: World) -> list[Message]:
    octets = [world.outbox.message(number) for number in range(len(world.outbox.submissions))]
    return [email.message_from_bytes(one) for one in octets]


async def test_each_gets_a_message_of_its_own_in_which_it_stands_in_to(world: World) -> None:
    await sent(world, TO, *BLIND)
    envelopes = [[str(a) for a in s.recipients] for s in world.outbox.submissions]
    assert envelopes == [[BEN], [CARA], [DORA]]
    shown = [message["to"].replace(",\r\n ", ", ") for message in written(world)]
    assert shown == [BEN, f"{BEN}, {CARA}", f"{BEN}, {DORA}"]
    assert all(message["bcc"] is None for message in written(world))
    texts = {message.get_payload() for message in written(world)}
    assert len(texts) == 1


async def test_nobody_learns_of_another_blind_recipient(world: World) -> None:
    await sent(world, TO, *BLIND, inResponseTo=[{
        "type": "Communication",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": "mid:0@x.example"},
    }])  # fmt: skip
    for number, hidden in ((0, (CARA, DORA)), (1, (DORA,)), (2, (CARA,))):
        octets = world.outbox.message(number)
        assert all(address.encode() not in octets for address in hidden)
        assert b"bcc" not in octets.lower()


async def test_only_the_senders_own_record_shows_who_was_copied_blindly(world: World) -> None:
    stored = await sent(world, TO, *BLIND)
    url = TERMS.extension("recipient-role")
    assert [extension_value(r, url) for r in stored["recipient"]] == ["to", "bcc", "bcc"]
    found = await world.http.get(f"/Communication?recipient=mailto:{CARA}&status=in-progress")
    assert stored["id"] in found.text


async def test_an_answer_to_a_blind_copy_finds_the_thread(world: World) -> None:
    stored = await sent(world, TO, *BLIND)
    first, *copies = written(world)
    assert first["message-id"] == message_id_of(stored["identifier"])
    assert len({message["message-id"] for message in (first, *copies)}) == 3
    own, before = copies[0]["message-id"], copies[0]["references"]
    assert before.split() == [first["message-id"]]
    answer = (
        f"From: {CARA}\r\nTo: {ANNA}\r\nMessage-ID: <9@x.example>\r\nIn-Reply-To: {own}\r\n"
        f"References: {before} {own}\r\n\r\nthank you\r\n"
    )
    identity = await world.receive(answer.encode())
    read = (await world.http.get(f"/Communication/{identity}")).json()
    assert read["partOf"] == stored["partOf"]


async def test_a_message_may_have_blind_recipients_only(world: World) -> None:
    stored = await sent(world, *BLIND)
    assert [message["to"] for message in written(world)] == [CARA, DORA]
    assert written(world)[0]["message-id"] == message_id_of(stored["identifier"])


async def test_who_is_named_openly_too_gets_one_message(world: World) -> None:
    await sent(world, named(BEN, "bcc"), TO, named(CARA, "cc"), named(CARA, "bcc"))
    assert [[str(a) for a in s.recipients] for s in world.outbox.submissions] == [[BEN, CARA]]


async def test_how_far_each_copy_is_shows_on_its_recipient_and_its_task(world: World) -> None:
    stored = await sent(world, TO, *BLIND)
    codes = {BEN: ("dispatched", None), CARA: ("refused", Reason.NOT_TRUSTED)}
    for message, (address, (code, reason)) in zip(world.outbox.ids, codes.items(), strict=False):
        state = RecipientState(parse_address(address), code, NOW, reason)
        told = await world.database.write(
            lambda c, m=message, s=state: delivery_changed(
                c, message=m, states=lambda: [s], now=NOW
            )
        )
        assert told
    read = (await world.http.get(f"/Communication/{stored['id']}")).json()
    found = [delivery_of(recipient, TERMS)["code"] for recipient in read["recipient"]]
    assert found == ["dispatched", "refused", "queued"]
    assert read["status"] == "in-progress"
    tasks = (await world.http.get(f"/Task?focus=Communication/{stored['id']}")).json()
    shown = {
        e["resource"]["restriction"]["recipient"][0]["identifier"]["value"]: e["resource"]["status"]
        for e in tasks["entry"]
    }
    assert shown == {
        f"mailto:{BEN}": "completed",
        f"mailto:{CARA}": "failed",
        f"mailto:{DORA}": "requested",
    }


async def test_a_failed_blind_copy_is_sent_again_as_one(world: World) -> None:
    world.outbox.codes = {CARA: ("refused", Reason.NOT_TRUSTED), BEN: ("dispatched", None)}
    stored = await sent(world, TO, BLIND[0])
    answer = await world.http.post(f"/Communication/{stored['id']}/$resend")
    assert answer.status_code == 201, answer.text
    assert [str(a) for a in world.outbox.submissions[-1].recipients] == [CARA]
    assert written(world)[-1]["to"] == CARA


async def test_a_preflight_asks_for_blind_recipients_too(world: World) -> None:
    body = communication(recipient=[TO, *BLIND])
    answer = (await world.http.post("/Communication/$preflight", json=body)).json()
    asked = [p["part"][0]["valueUri"] for p in answer["parameter"]]
    assert asked == [f"mailto:{a}" for a in (BEN, CARA, DORA)]


@pytest.mark.parametrize("kind", ["CommunicationRequest", "Communication"])
async def test_a_request_and_a_record_keep_their_blind_recipients(world: World, kind: str) -> None:
    body = {**communication(recipient=[TO, BLIND[0]]), "resourceType": kind, "status": "draft"}
    if kind == "Communication":
        body["status"] = "completed"
    else:
        del body["topic"]
    answer = await world.http.post(f"/{kind}", json=body)
    assert answer.status_code == 201, answer.text
    assert world.outbox.submissions == []
    if kind == "CommunicationRequest":
        active = {**answer.json(), "status": "active"}
        assert (await world.http.put(f"/{kind}/{active['id']}", json=active)).status_code == 200
        assert len(world.outbox.submissions) == 2
