"""Whom a message is about, where an envelope and documents both say so (fhir.md 3.3)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.unit.fhir_bridge.conftest import TERMS, World, communication
from tests.unit.fhir_bridge.test_directory import stored
from tests.unit.fhir_bridge.test_envelope import READING, received, sent, world
from tests.unit.fhir_bridge.test_hl7v2 import ADT, MRN

__all__ = ["world"]  # the fixture: its gateway has the setting on

HELBERG: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [{"system": MRN, "value": "6578946"}],
    "name": [{"family": "Helberg"}],
}
OTHER = {**HELBERG, "identifier": [{"system": MRN, "value": "1"}]}
PAYLOAD = [
    {"contentString": "x"},
    {
        "contentAttachment": {
            "contentType": "application/octet-stream",
            "title": "adt.hl7",
            "data": base64.b64encode(ADT).decode(),
        }
    },
]
VISIT = {
    "resourceType": "Encounter",
    "id": "visit",
    "status": "planned",
    "class": {"code": "AMB"},
    "subject": {"reference": "#p1"},
}


def about(patient: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"contained": [patient], "subject": {"reference": "#p1", "display": "C. H."}, **more}


def conflict(found: dict[str, Any]) -> list[str]:
    url = TERMS.extension("patient-conflict")
    return [e["valueReference"]["reference"] for e in found["extension"] if e["url"] == url]


async def test_an_envelope_and_a_document_may_agree(world: World) -> None:
    found = received(await sent(world, **about(HELBERG, payload=PAYLOAD)))
    assert found["subject"] == {"reference": "#patient", "display": "C. H."}
    assert [item["id"] for item in found["contained"]] == ["patient"]
    assert conflict(found) == []


async def test_an_envelope_and_a_document_that_disagree_leave_no_subject(world: World) -> None:
    found = received(await sent(world, **about(OTHER, payload=PAYLOAD)))
    assert "subject" not in found
    assert conflict(found) == ["#patient", "#patient-2"]


async def test_a_patient_that_is_named_by_a_number_is_compared(world: World) -> None:
    subject = {"identifier": {"system": MRN, "value": "6578946"}}
    found = received(await sent(world, subject=subject, payload=PAYLOAD))
    assert found["subject"] == {"reference": "#patient"}
    subject = {"identifier": {"system": MRN, "value": "1"}}
    found = received(await sent(world, subject=subject, payload=PAYLOAD))
    assert "subject" not in found
    assert len(conflict(found)) == 2


@pytest.mark.parametrize(
    "subject",
    [
        {"reference": "https://ehr.example/fhir/Patient/1"},
        {"display": "Somebody"},
        {"identifier": {"system": MRN, "value": "1"}},
    ],
    ids=["url", "display", "number"],
)
async def test_a_subject_without_a_patient_stands_where_no_document_names_one(
    world: World, subject: dict[str, Any]
) -> None:
    found = received(await sent(world, subject=subject))
    assert found["subject"] == subject


async def test_a_document_names_the_patient_where_the_envelope_has_a_url(world: World) -> None:
    subject = {"reference": "https://ehr.example/fhir/Patient/1"}
    found = received(await sent(world, subject=subject, payload=PAYLOAD))
    assert found["subject"] == {"reference": "#patient"}


async def test_a_local_patient_is_found_by_what_the_envelope_states(world: World) -> None:
    local = await stored(world, "Patient", identifier=HELBERG["identifier"])
    elements = about(HELBERG, encounter={"reference": "#visit"})
    elements["contained"] = [HELBERG, VISIT]
    sender = communication()["sender"]
    # Anna writes to herself: her gateway is both.
    message = await sent(world, sender=sender, recipient=[sender], **elements)
    identity = await world.receive(message, reading=READING)
    found = (await world.http.get(f"/Communication/{identity}")).json()
    literal = f"Patient/{local['id']}"
    assert found["subject"] == {"reference": literal}
    [visit] = [item for item in found["contained"] if item["id"] == "visit"]
    assert visit["subject"] == {"reference": literal}
    assert "patient" not in [item["id"] for item in found["contained"]]
    within = await world.http.get(f"/{literal}/Communication")
    assert found["id"] in within.text


@pytest.mark.parametrize(("before", "is_found"), [(49, True), (50, False)])
async def test_no_more_than_fifty_numbers_are_looked_up(
    world: World, before: int, is_found: bool
) -> None:
    local = await stored(world, "Patient", identifier=HELBERG["identifier"])
    others = [{"system": "urn:oid:9.9", "value": str(number)} for number in range(before)]
    patient = {**HELBERG, "identifier": [*others, *HELBERG["identifier"]]}
    sender = communication()["sender"]
    message = await sent(world, sender=sender, recipient=[sender], **about(patient))
    identity = await world.receive(message, reading=READING)
    found = (await world.http.get(f"/Communication/{identity}")).json()
    assert (found["subject"] == {"reference": f"Patient/{local['id']}"}) is is_found
