from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from certs.errors import Reason
from fhir_bridge.delivery import delivery_of
from fhir_bridge.operation_definitions import OPERATIONS
from fhir_bridge.terms import extension_value
from tests.unit.fhir_bridge.conftest import ANNA, BEN, NOW, TERMS, World, communication
from tests.unit.fhir_bridge.test_communication_api import CARA, to


def mail(number: int, root: int | None = None) -> bytes:
    thread = f"References: <{root}@x.example>\r\n" if root else ""
    return (
        f"From: {BEN}\r\nTo: {ANNA}\r\nSubject: s{number}\r\n"
        f"Message-ID: <{number}@x.example>\r\n{thread}\r\nx\r\n"
    ).encode()


@pytest.mark.parametrize("wrapped", [False, True], ids=["resource", "parameters"])
async def test_a_posted_resource_is_sent(world: World, wrapped: bool) -> None:
    posted: dict[str, Any] = communication(status="preparation")
    if wrapped:
        parameter = {"name": "resource", "resource": posted}
        posted = {"resourceType": "Parameters", "parameter": [parameter]}
    answer = await world.http.post("/Communication/$send-direct", json=posted)
    assert answer.status_code == 201, answer.text
    assert len(world.outbox.submissions) == 1


async def test_a_stored_draft_is_sent_once(world: World) -> None:
    draft = await world.http.post("/Communication", json=communication(status="preparation"))
    url = f"/Communication/{draft.json()['id']}/$send-direct"
    assert (await world.http.post(url)).status_code == 200
    assert (await world.http.post(url)).status_code == 409
    assert len(world.outbox.submissions) == 1


async def test_a_preflight_tells_of_each_recipient_and_sends_nothing(world: World) -> None:
    world.preflight.reasons[CARA] = Reason.CERTIFICATE_NOT_FOUND
    posted = communication(recipient=[to(BEN), to(CARA)])
    del posted["payload"]
    answer = await world.http.post("/Communication/$preflight", json=posted)
    assert answer.status_code == 200, answer.text
    get_fhir_model_class("Parameters").model_validate(answer.json())
    ready, reason = answer.json()["parameter"]
    assert {"name": "ready", "valueBoolean": True} in ready["part"]
    assert {"name": "reason", "valueCode": "certificate-not-found"} in reason["part"]
    assert not world.outbox.submissions


async def test_a_preflight_as_somebody_else_is_forbidden(world: World) -> None:
    answer = await world.http.post("/Communication/$preflight", json=communication(sender=to(BEN)))
    assert answer.status_code == 403


async def inbox(world: World, query: str = "") -> list[tuple[str, int]]:
    answer = await world.http.get(f"/Communication/$inbox{query}")
    assert answer.status_code == 200, answer.text
    get_fhir_model_class("Bundle").model_validate(answer.json())
    entries = answer.json().get("entry", [])
    assert [e["search"]["mode"] for e in entries] == ["match", "include"] * (len(entries) // 2)
    unread = TERMS.extension("unread")
    return [
        (last["resource"]["topic"]["text"], extension_value(header["resource"], unread))
        for header, last in zip(entries[::2], entries[1::2], strict=True)
    ]


async def test_the_inbox_shows_threads_by_their_last_message(world: World) -> None:
    assert await inbox(world) == []
    for number, root in ((1, None), (2, None), (3, 1)):
        await world.receive(mail(number, root), at=NOW + timedelta(minutes=number))
    assert await inbox(world) == [("s3", 2), ("s2", 1)]
    assert await inbox(world, "?_count=1") == [("s3", 2)]
    assert await inbox(world, "?before=2026-01-02T12:03:00Z") == [("s2", 1)]
    assert await inbox(world, f"?mailbox={ANNA}") == [("s3", 2), ("s2", 1)]
    assert await inbox(world, f"?mailbox=mailto:{BEN}") == []


async def test_messages_and_threads_are_marked_read(world: World) -> None:
    one = await world.receive(mail(1))
    await world.receive(mail(2, 1), at=NOW + timedelta(minutes=1))
    await world.http.post(f"/Communication/{one}/$mark-read")
    assert await inbox(world) == [("s2", 1)]
    header = (await world.http.get("/Communication?part-of:missing=true")).json()["entry"][0]
    url = f"/Communication/{header['resource']['id']}/$mark-read"
    for path, changed, unread in ((url, 1, 0), (url, 0, 0), (f"{url}?read=false", 2, 2)):
        answer = await world.http.post(path)
        assert answer.json()["parameter"][0]["valueInteger"] == changed
        assert await inbox(world) == [("s2", unread)]


async def test_a_message_is_sent_anew_to_those_it_did_not_reach(world: World) -> None:
    world.outbox.codes = {BEN: ("processed", None), CARA: ("failed", Reason.BACKBONE_REFUSED)}
    posted = communication(recipient=[to(BEN), to(CARA, "cc")])
    sent = (await world.http.post("/Communication", json=posted)).json()
    world.outbox.codes = {}
    again = await world.http.post(f"/Communication/{sent['id']}/$resend")
    assert again.status_code == 201, again.text
    [recipient] = again.json()["recipient"]
    assert delivery_of(recipient, TERMS)["code"] == "queued"
    assert [str(a) for a in world.outbox.submissions[1].recipients] == [CARA]
    assert again.json()["partOf"] == sent["partOf"]
    refused = await world.http.post(f"/Communication/{again.json()['id']}/$resend")
    assert refused.status_code == 409


async def test_the_raw_message_is_served(world: World) -> None:
    received = await world.receive(mail(1))
    answer = await world.http.get(f"/Communication/{received}/$raw")
    assert answer.content == mail(1)
    assert answer.headers["content-type"] == "message/rfc822"
    draft = await world.http.post("/Communication", json=communication(status="preparation"))
    assert (await world.http.get(f"/Communication/{draft.json()['id']}/$raw")).status_code == 404


@pytest.mark.parametrize(
    ("resource", "severity"),
    [
        ({"resourceType": "Patient", "active": True}, "information"),
        ({"resourceType": "Patient", "active": "perhaps"}, "error"),
        ({"resourceType": "Group"}, "error"),
    ],
)
async def test_a_resource_is_validated_and_not_stored(
    world: World, resource: dict[str, Any], severity: str
) -> None:
    answer = await world.http.post("/Patient/$validate", json=resource)
    assert (answer.status_code, answer.json()["issue"][0]["severity"]) == (200, severity)
    assert (await world.http.get("/Patient")).json()["total"] == 0


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_every_operation_is_published(world: World, operation: Any) -> None:
    answer = await world.http.get(
        f"/OperationDefinition/{operation.name}", headers={"authorization": ""}
    )
    get_fhir_model_class("OperationDefinition").model_validate(answer.json())


async def test_what_is_not_published_is_not_found(world: World) -> None:
    assert (await world.http.get("/OperationDefinition/nothing")).status_code == 404
    assert (await world.http.get("/Communication/$nothing")).status_code == 404
    url = "/Communication/019b7e94-3200-7f59-8821-036711df07e0/$resend"
    assert (await world.http.post(url)).status_code == 404


async def test_a_stored_resource_is_validated(world: World) -> None:
    made = await world.http.post("/Patient", json={"resourceType": "Patient", "active": True})
    url = f"/Patient/{made.json()['id']}/$validate"
    answer = await world.http.post(url)
    assert answer.json()["issue"][0]["severity"] == "information"
    broken = await world.http.post(url, json={"resourceType": "Patient", "active": "banana"})
    assert broken.json()["issue"][0]["expression"] == ["Patient.active"]
    zoe = await world.add_client("zoe", "zoe@other.example")
    assert (await world.http.post(url, headers=zoe)).status_code == 404
