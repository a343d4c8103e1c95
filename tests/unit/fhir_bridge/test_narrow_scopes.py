"""A scope opens what it names, and nothing beside it; a mailbox's is nobody else's, at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from fhir_bridge.ports import Submission
from fhir_bridge.terms import mailto_identifier
from tests.unit.fhir_bridge.conftest import ANNA, BASE, BEN, NOW, World, communication
from tests.unit.fhir_bridge.test_requests import AT_TWO, request, scheduled

ZOE = "zoe@direct.hillside.example"
SECRET = "Helberg-secret"
HISTORY = "/_history"


def sender(address: str) -> dict[str, Any]:
    return {"identifier": mailto_identifier(address)}


async def made(
    world: World, resource: dict[str, Any], headers: dict[str, str] | None = None
) -> str:
    answer = await world.http.post(f"/{resource['resourceType']}", json=resource, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"].partition("/_history")[0].removeprefix(BASE)


@pytest.fixture
async def both(world: World) -> dict[str, str]:
    """A client of Anna's mailbox and of Zoe's."""
    return await world.add_client("both", ANNA, ZOE)


@pytest.fixture
async def zoe(world: World) -> dict[str, str]:
    return await world.add_client("zoe", ZOE)


# The history of everything


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("_type=Patient", 200),
        ("_type=Patient&_type=", 400),
        ("_type=&_type=Patient", 400),
        ("_type=Patient&_type=Communication", 403),
        ("_type=Patient,Communication", 403),
        ("_type=", 403),
        ("", 403),
    ],
)
async def test_a_history_shows_the_types_that_its_scopes_open(
    world: World, query: str, status: int
) -> None:
    await made(world, communication(topic={"text": SECRET}))
    narrow = await world.add_client("narrow", ANNA, scopes="system/Patient.s")
    answer = await world.http.get(f"{HISTORY}?{query}", headers=narrow)
    assert (answer.status_code, SECRET in answer.text) == (status, False)
    entry = {"request": {"method": "GET", "url": f"_history?{query}"}}
    batch = {"resourceType": "Bundle", "type": "batch", "entry": [entry]}
    answer = await world.http.post("", json=batch, headers=narrow)
    assert SECRET not in answer.text


HOOK = {
    "resourceType": "Subscription",
    "status": "requested",
    "reason": "x",
    "criteria": "Communication?",
    "channel": {"type": "websocket", "header": [f"Authorization: {SECRET}"]},
}


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/?_count=1000", False),
        (HISTORY, False),
        ("/?_type=Subscription", True),
        (f"{HISTORY}?_type=Subscription", True),
    ],
)
async def test_the_secrets_of_a_subscription_are_shown_to_who_names_it(
    world: World, path: str, shown: bool
) -> None:
    await made(world, HOOK)
    answer = await world.http.get(path)
    assert (answer.status_code, SECRET in answer.text) == (200, shown)


# Sending as another


async def test_a_request_that_waits_is_changed_by_who_may_send_it(
    world: World, both: dict[str, str], zoe: dict[str, str]
) -> None:
    url = await made(world, request(**AT_TWO, sender=sender(ZOE)), both)
    forged = request(**AT_TWO, sender=sender(ANNA), payload=[{"contentString": "forged"}])
    answer = await world.http.put(url, json=forged, headers=zoe)
    assert answer.status_code == 403
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [{"resource": forged, "request": {"method": "PUT", "url": url.lstrip("/")}}],
    }
    assert (await world.http.post("", json=bundle, headers=zoe)).status_code == 403
    patch = {"sender": sender(ANNA)}
    media = {"content-type": "application/merge-patch+json"}
    answer = await world.http.patch(url, json=patch, headers={**zoe, **media})
    assert answer.status_code == 403
    world.now = NOW + timedelta(days=1)
    assert await scheduled(world).run_once() == 1
    [sent] = world.outbox.submissions
    assert str(sent.sender) == ZOE


@dataclass
class Interrupted:
    """The outbox, of whose submissions the first is overtaken by each of `changes`."""

    world: World
    url: str
    changes: list[dict[str, Any]]

    async def submit(
        self, submission: Submission, record: Callable[[sa.Connection, UUID], None]
    ) -> UUID:
        while self.changes:
            answer = await self.world.http.put(self.url, json=self.changes.pop())
            assert answer.status_code == 200
        return await self.world.outbox.submit(submission, record)

    async def settled(self, message: UUID, wait_s: float) -> None:
        await self.world.outbox.settled(message, wait_s)


async def test_a_request_that_changes_as_it_is_sent_is_looked_at_again(world: World) -> None:
    url = await made(world, request(**AT_TWO))
    changed = request(**AT_TWO, payload=[{"contentString": "changed"}])
    schedule = scheduled(world, Interrupted(world, url, [changed]))
    world.now = NOW + timedelta(days=1)
    await schedule.run_once()
    assert world.outbox.submissions == []
    await schedule.run_once()
    assert b"changed" in world.outbox.message()
    assert (await world.http.get(url)).json()["status"] == "active"


@pytest.mark.parametrize("elements", [{}, AT_TWO], ids=["now", "later"])
async def test_a_request_sends_for_who_may_create_messages(
    world: World, elements: dict[str, Any]
) -> None:
    narrow = await world.add_client("narrow", ANNA, scopes="system/CommunicationRequest.cru")
    answer = await world.http.post(
        "/CommunicationRequest", json=request(**elements), headers=narrow
    )
    assert (answer.status_code, world.outbox.submissions) == (403, [])


# What is sent along is read


async def test_what_may_not_be_read_is_not_sent_along(world: World) -> None:
    patient = await made(world, {"resourceType": "Patient", "name": [{"family": SECRET}]})
    message = await made(world, communication(topic={"text": SECRET}))
    attachment = {"contentType": "text/plain", "data": "SGVsYmVyZw=="}
    holder = await made(world, communication(payload=[{"contentAttachment": attachment}]))
    [held] = (await world.http.get(holder)).json()["payload"]
    narrow = await world.add_client("narrow", ANNA, scopes="system/Communication.c")
    before = len(world.outbox.submissions)
    for payload in (
        {"contentReference": {"reference": patient.lstrip("/")}},
        {"contentReference": {"reference": message.lstrip("/")}},
        {"contentReference": {"reference": held["contentAttachment"]["url"]}},
        {"contentAttachment": {"url": held["contentAttachment"]["url"]}},
        {"contentAttachment": {"url": f"DocumentReference/{UUID(int=7)}"}},
    ):
        body = communication(payload=[payload])
        answer = await world.http.post("/Communication", json=body, headers=narrow)
        assert answer.status_code in (403, 422), payload
    assert len(world.outbox.submissions) == before


async def test_what_a_client_has_uploaded_it_may_send(world: World) -> None:
    scopes = "system/Communication.c system/Binary.c"
    narrow = await world.add_client("narrow", ANNA, scopes=scopes)
    given = {**narrow, "content-type": "text/plain"}
    answer = await world.http.post("/Binary", content=b"mine", headers=given)
    url = answer.headers["location"].removeprefix(f"{BASE}/").partition("/_history")[0]
    body = communication(payload=[{"contentAttachment": {"url": url}}])
    answer = await world.http.post("/Communication", json=body, headers=narrow)
    assert answer.status_code == 201, answer.text


# Writing without reading


@pytest.mark.parametrize(
    ("scopes", "media", "patch", "status"),
    [
        ("u", "application/merge-patch+json", {}, 200),
        ("u", "application/json-patch+json", [], 403),
        ("ru", "application/json-patch+json", [], 200),
    ],
)
async def test_who_may_not_read_learns_nothing_by_writing(
    world: World, scopes: str, media: str, patch: Any, status: int
) -> None:
    url = await made(world, communication(status="preparation", topic={"text": SECRET}))
    narrow = await world.add_client("narrow", ANNA, scopes=f"system/Communication.{scopes}")
    given = {**narrow, "content-type": media}
    answer = await world.http.patch(url, json=patch, headers=given)
    assert answer.status_code == status
    assert (SECRET in answer.text) == ("r" in scopes)
    draft = {**communication(status="preparation"), "id": url.rpartition("/")[2]}
    entry = {"resource": draft, "request": {"method": "PUT", "url": url.lstrip("/")}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    answer = await world.http.post("", json=bundle, headers=narrow)
    [written] = answer.json()["entry"]
    assert ("resource" in written) == ("r" in scopes)


@pytest.mark.parametrize("scopes", ["c", "cr"])
async def test_a_draft_is_sent_by_who_may_change_it(world: World, scopes: str) -> None:
    url = await made(world, communication(status="preparation"))
    narrow = await world.add_client("narrow", ANNA, scopes=f"system/Communication.{scopes}")
    answer = await world.http.post(f"{url}/$send-direct", headers=narrow)
    assert (answer.status_code, world.outbox.submissions) == (403, [])


# What was another mailbox's


async def test_a_version_is_of_the_mailbox_that_had_it(
    world: World, both: dict[str, str], zoe: dict[str, str]
) -> None:
    draft = communication(status="preparation", sender=sender(ANNA), topic={"text": SECRET})
    url = await made(world, draft, both)
    begun = await world.http.get("/$export", headers={**zoe, "prefer": "respond-async"})
    world.now = NOW + timedelta(minutes=1)
    sent = {**communication(sender=sender(ZOE)), "id": url.rpartition("/")[2]}
    assert (await world.http.put(url, json=sent, headers=both)).status_code == 200
    assert (await world.http.get(f"{url}/_history/2", headers=zoe)).status_code == 200
    old = await world.http.get(f"{url}/_history/1", headers=zoe)
    assert old.status_code == 404
    manifest = await world.http.get(begun.headers["content-location"], headers=zoe)
    for output in manifest.json()["output"]:
        assert SECRET not in (await world.http.get(output["url"], headers=zoe)).text


@pytest.mark.parametrize("kind", ["Communication", "CommunicationRequest"])
async def test_a_draft_is_not_its_recipients(
    world: World, both: dict[str, str], zoe: dict[str, str], kind: str
) -> None:
    telecom = {"system": "email", "value": ANNA}
    contained = {"resourceType": "Practitioner", "id": "s", "telecom": [telecom]}
    body = {
        "resourceType": kind,
        "status": "preparation" if kind == "Communication" else "draft",
        "contained": [contained],
        "sender": {"reference": "#s"},
        "recipient": [sender(ZOE)],
        "payload": [{"contentString": SECRET}],
    }
    answer = await world.http.post(f"/{kind}", json=body, headers=both)
    assert answer.status_code == 422
    body["sender"] = {**sender(ANNA), "reference": "#s"}
    url = await made(world, body, both)
    assert (await world.http.get(url, headers=zoe)).status_code == 404


async def test_an_upload_that_two_messages_name_at_once_is_in_both(
    world: World, both: dict[str, str]
) -> None:
    given = {**both, "content-type": "text/plain"}
    answer = await world.http.post("/Binary", content=b"shared", headers=given)
    url = answer.headers["location"].removeprefix(f"{BASE}/").partition("/_history")[0]
    payload = [{"contentAttachment": {"url": url}}]
    bodies = [communication(sender=sender(each), payload=payload) for each in (ANNA, ZOE)]
    answers = await asyncio.gather(
        *(world.http.post("/Communication", json=body, headers=both) for body in bodies)
    )
    for answer, address in zip(answers, (ANNA, ZOE), strict=True):
        theirs = await world.add_client(f"only {address}", address)
        [sent] = answer.json()["payload"]
        found = await world.http.get(f"/{sent['contentAttachment']['url']}", headers=theirs)
        assert (found.status_code, found.content) == (200, b"shared")


async def test_types_are_not_searched_within_a_patient(world: World) -> None:
    patient = await made(world, {"resourceType": "Patient"})
    answer = await world.http.get(f"{patient}/Communication?_type=Communication")
    assert answer.status_code == 400


@pytest.mark.parametrize(("scopes", "status"), [("rs", 403), ("crs", 201)])
async def test_a_subscription_that_sends_mail_is_of_who_may_send(
    world: World, scopes: str, status: int
) -> None:
    granted = f"system/Subscription.c system/Communication.{scopes}"
    narrow = await world.add_client("narrow", ANNA, scopes=granted)
    mail = {**HOOK, "channel": {"type": "email", "endpoint": f"mailto:{BEN}"}}
    answer = await world.http.post("/Subscription", json=mail, headers=narrow)
    assert answer.status_code == status
