from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from certs.errors import Reason
from fhir_bridge.clients import disable_client
from fhir_bridge.ports import Outbox
from fhir_bridge.schedule import Schedule
from fhir_bridge.sending import Dispatcher
from fhir_bridge.terms import mailto_identifier
from tests.unit.fhir_bridge.conftest import ANNA, BASE, BEN, NOW, TERMS, World, communication


def request(**elements: Any) -> dict[str, Any]:
    resource = communication(**{"resourceType": "CommunicationRequest", "status": "active"})
    del resource["topic"]
    topic = {"url": TERMS.extension("topic"), "valueString": "Referral"}
    return {**resource, "extension": [topic], **elements}


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        ("relayed", None, "active"),
        ("processed", None, "completed"),
        ("refused", Reason.NOT_TRUSTED, "on-hold"),
        ("failed", Reason.BACKBONE_REFUSED, "on-hold"),
    ],
)
async def test_an_active_request_is_sent_and_ends_with_its_message(
    world: World, code: str, reason: Reason | None, status: str
) -> None:
    world.outbox.codes[BEN] = (code, reason)
    answer = await world.http.post("/CommunicationRequest", json=request())
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == status
    assert ("statusReason" in answer.json()) == (reason is not None)
    url = f"/Communication?based-on=CommunicationRequest/{answer.json()['id']}"
    [entry] = (await world.http.get(url)).json()["entry"]
    assert entry["resource"]["topic"] == {"text": "Referral"}


@pytest.mark.parametrize(
    "elements",
    [
        {"status": "draft"},
        {"doNotPerform": True},
        {"medium": [{"text": "telephone"}]},
    ],
)
async def test_no_other_request_is_sent(world: World, elements: dict[str, Any]) -> None:
    answer = await world.http.post("/CommunicationRequest", json=request(**elements))
    assert answer.status_code == 201, answer.text
    assert not world.outbox.submissions


async def test_a_draft_is_sent_once_when_it_goes_active(world: World) -> None:
    draft = (await world.http.post("/CommunicationRequest", json=request(status="draft"))).json()
    url = f"/CommunicationRequest/{draft['id']}"
    active = await world.http.put(url, json={**draft, "status": "active"})
    assert (active.status_code, len(world.outbox.submissions)) == (200, 1)
    await world.http.put(url, json=active.json())
    assert len(world.outbox.submissions) == 1


async def test_a_request_that_cannot_be_sent_is_not_stored(world: World) -> None:
    later = {"occurrenceDateTime": "2030-01-01", "recipient": [{"display": "?"}]}
    for bad in ({"recipient": [{"display": "?"}]}, later):
        answer = await world.http.post("/CommunicationRequest", json=request(**bad))
        assert answer.status_code == 422
    assert (await world.http.get("/CommunicationRequest")).json()["total"] == 0


def scheduled(world: World, outbox: Outbox | None = None) -> Schedule:
    dispatcher = Dispatcher(
        database=world.database,
        bodies=world.bodies,
        outbox=outbox or world.outbox,
        clock=lambda: world.now,
        base_url=BASE,
        terms=TERMS,
    )
    return Schedule(
        database=world.database, dispatcher=dispatcher, clock=lambda: world.now, terms=TERMS
    )


AT_TWO = {"occurrenceDateTime": "2026-01-02T14:00:00Z"}
IN_THE_AFTERNOON = {"occurrencePeriod": {"start": "2026-01-02T14:00:00Z"}}


@pytest.mark.parametrize("when", [AT_TWO, IN_THE_AFTERNOON], ids=["time", "period"])
async def test_a_request_for_later_is_sent_once_when_it_is_time(
    world: World, when: dict[str, Any]
) -> None:
    attachment = {"contentType": "text/plain", "data": "aGVsbG8=", "title": "a.txt"}
    later = request(**when, payload=[{"contentAttachment": attachment}])
    answer = await world.http.post("/CommunicationRequest", json=later)
    assert (answer.status_code, answer.json()["status"]) == (201, "active")
    schedule = scheduled(world)
    world.now = NOW + timedelta(minutes=119)
    assert (await schedule.run_once(), world.outbox.submissions) == (0, [])
    world.now = NOW + timedelta(minutes=120)
    assert (await schedule.run_once(), len(world.outbox.submissions)) == (1, 1)
    assert b"aGVsbG8=" in world.outbox.message()
    assert (await schedule.run_once(), len(world.outbox.submissions)) == (0, 1)
    url = f"/Communication?based-on=CommunicationRequest/{answer.json()['id']}"
    assert (await world.http.get(url)).json()["total"] == 1
    # It was sent: another time for it sends it no second time.
    put = {**answer.json(), "occurrenceDateTime": "2026-02-01"}
    await world.http.put(f"/CommunicationRequest/{put['id']}", json=put)
    world.now = NOW + timedelta(days=60)
    assert await schedule.run_once() == 0


@pytest.mark.parametrize("status", ["on-hold", "revoked", "entered-in-error", "deleted"])
async def test_a_request_for_later_can_be_taken_back(world: World, status: str) -> None:
    made = (await world.http.post("/CommunicationRequest", json=request(**AT_TWO))).json()
    url = f"/CommunicationRequest/{made['id']}"
    if status == "deleted":
        assert (await world.http.delete(url)).status_code == 204
    else:
        assert (await world.http.put(url, json={**made, "status": status})).status_code == 200
    world.now = NOW + timedelta(days=1)
    await scheduled(world).run_once()
    assert world.outbox.submissions == []
    assert await scheduled(world).run_once() == 0


async def test_a_request_for_later_can_be_put_off_and_brought_forward(world: World) -> None:
    made = (await world.http.post("/CommunicationRequest", json=request(**AT_TWO))).json()
    url = f"/CommunicationRequest/{made['id']}"
    await world.http.put(url, json={**made, "occurrenceDateTime": "2026-01-05"})
    world.now = NOW + timedelta(days=1)
    assert await scheduled(world).run_once() == 0
    del made["occurrenceDateTime"]
    await world.http.put(url, json=made)
    assert (await scheduled(world).run_once(), len(world.outbox.submissions)) == (1, 1)


async def test_a_request_that_cannot_be_sent_in_time_waits_for_a_person(world: World) -> None:
    actor = {"resourceType": "Practitioner", "telecom": [{"system": "email", "value": BEN}]}
    who = (await world.http.post("/Practitioner", json=actor)).json()
    later = request(**AT_TWO, recipient=[{"reference": f"Practitioner/{who['id']}"}])
    made = (await world.http.post("/CommunicationRequest", json=later)).json()
    await world.http.delete(f"/Practitioner/{who['id']}")
    world.now = NOW + timedelta(days=1)
    assert await scheduled(world).run_once() == 1
    held = (await world.http.get(f"/CommunicationRequest/{made['id']}")).json()
    assert held["status"] == "on-hold"
    assert held["statusReason"]["coding"][0]["code"] == "resource-unsupported"
    assert await scheduled(world).run_once() == 0


async def test_a_client_that_lost_its_mailbox_sends_nothing_later(world: World) -> None:
    await world.http.post("/CommunicationRequest", json=request(**AT_TWO))
    await world.database.write(lambda c: disable_client(c, "ehr"))
    world.now = NOW + timedelta(days=1)
    await scheduled(world).run_once()
    assert world.outbox.submissions == []


async def made(world: World, **elements: Any) -> dict[str, Any]:
    answer = await world.http.post("/CommunicationRequest", json=request(**elements))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def status_of(world: World, one: dict[str, Any]) -> str:
    return str((await world.http.get(f"/CommunicationRequest/{one['id']}")).json()["status"])


TOMORROW = (NOW + timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    "elements",
    [
        pytest.param({}, id="by-one-for-now"),
        pytest.param({"occurrenceDateTime": TOMORROW}, id="by-one-for-later"),
    ],
)
async def test_a_request_that_waits_is_revoked_by_what_replaces_it(
    world: World, elements: dict[str, Any]
) -> None:
    first = await made(world, occurrenceDateTime=TOMORROW)
    replaces = [{"reference": f"CommunicationRequest/{first['id']}"}]
    draft = await made(world, status="draft", replaces=replaces, **elements)
    assert await status_of(world, first) == "active"  # a draft replaces nothing yet
    answer = await world.http.put(
        f"/CommunicationRequest/{draft['id']}", json={**draft, "status": "active"}
    )
    assert answer.status_code == 200, answer.text
    assert await status_of(world, first) == "revoked"
    sent = len(world.outbox.submissions)
    world.now += timedelta(days=2)
    await scheduled(world).run_once()
    assert len(world.outbox.submissions) - sent == len(elements)  # the first one never


async def test_what_was_sent_is_not_revoked_by_what_replaces_it(world: World) -> None:
    first = await made(world)
    assert await status_of(world, first) == "active"
    await made(world, replaces=[{"reference": f"CommunicationRequest/{first['id']}"}])
    assert await status_of(world, first) == "active"
    assert len(world.outbox.submissions) == 2


async def test_who_may_change_no_request_revokes_none(world: World) -> None:
    first = await made(world, occurrenceDateTime=TOMORROW)
    scopes = "system/CommunicationRequest.cr system/Communication.c"
    creating = await world.add_client("creating", ANNA, scopes=scopes)
    replaces = [{"reference": f"CommunicationRequest/{first['id']}"}]
    answer = await world.http.post(
        "/CommunicationRequest", json=request(replaces=replaces), headers=creating
    )
    assert answer.status_code == 403
    assert await status_of(world, first) == "active"
    assert not world.outbox.submissions


async def test_nobody_revokes_the_requests_of_another_mailbox(world: World) -> None:
    first = await made(world, occurrenceDateTime=TOMORROW)
    other = await world.add_client("other", "zoe@direct.hillside.example")
    sender = {"identifier": mailto_identifier("zoe@direct.hillside.example")}
    replaces = [{"reference": f"CommunicationRequest/{first['id']}"}]
    answer = await world.http.post(
        "/CommunicationRequest", json=request(sender=sender, replaces=replaces), headers=other
    )
    assert answer.status_code == 201, answer.text
    assert await status_of(world, first) == "active"
