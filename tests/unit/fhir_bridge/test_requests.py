from __future__ import annotations

from typing import Any

import pytest

from certs.errors import Reason
from tests.unit.fhir_bridge.conftest import BEN, TERMS, World, communication


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
    for bad in ({"recipient": [{"display": "?"}]}, {"occurrenceDateTime": "2030-01-01"}):
        answer = await world.http.post("/CommunicationRequest", json=request(**bad))
        assert answer.status_code == 422
    assert (await world.http.get("/CommunicationRequest")).json()["total"] == 0
