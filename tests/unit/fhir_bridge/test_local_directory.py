"""Whom a received message means: the local directory first (fhir.md 3.2 and 3.3)."""

from __future__ import annotations

from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from fhir_bridge.terms import US_CORE_DIRECT
from tests.helpers.xdm import package
from tests.unit.fhir_bridge.conftest import ANNA, BEN, World
from tests.unit.fhir_bridge.test_derived import ccda, found, mail
from tests.unit.fhir_bridge.test_directory import direct, stored
from tests.unit.fhir_bridge.test_inbound import HEADER
from tests.unit.fhir_bridge.test_xdm import mail as mail_of_package

PEER = BEN.partition("@")[2]
SSN = {"system": "urn:oid:2.16.840.1.113883.4.1", "value": "444222222"}


async def received(world: World, message: bytes = HEADER + b"\r\nx") -> dict[str, Any]:
    identity = await world.receive(message)
    resource: dict[str, Any] = (await world.http.get(f"/Communication/{identity}")).json()
    get_fhir_model_class("Communication").model_validate(resource)
    return resource


async def test_known_people_are_referred_to_and_found(world: World) -> None:
    ben = await stored(world, "Practitioner", telecom=[direct(BEN.upper())])
    anna = await stored(world, "PractitionerRole", telecom=[direct(ANNA)])
    message = await received(world)
    assert message["sender"]["reference"] == f"Practitioner/{ben['id']}"
    assert message["sender"]["identifier"]["value"] == f"mailto:{BEN}"  # always there too
    assert message["recipient"][0]["reference"] == f"PractitionerRole/{anna['id']}"
    assert "contained" not in message
    for query in (f"sender=Practitioner/{ben['id']}", f"recipient:PractitionerRole={anna['id']}"):
        entries = (await world.http.get(f"/Communication?{query}")).json()["entry"]
        assert message["id"] in [entry["resource"]["id"] for entry in entries]
    chained = await world.http.get(f"/Communication?sender:Practitioner.email={BEN}")
    assert message["id"] in chained.text


async def test_an_address_is_known_by_an_endpoint_too(world: World) -> None:
    endpoint = await stored(
        world,
        "Endpoint",
        status="active",
        connectionType={"code": "direct-project"},
        payloadType=[{"text": "any"}],
        address=f"mailto:{BEN}",
    )
    place = await stored(
        world, "Organization", endpoint=[{"reference": f"Endpoint/{endpoint['id']}"}]
    )
    message = await received(world)
    assert message["sender"]["reference"] == f"Organization/{place['id']}"


@pytest.mark.parametrize(
    "telecom",
    [
        pytest.param([direct("other@direct.lakeview.example")], id="another-address"),
        pytest.param([direct(BEN, use="old")], id="an-old-address"),
        pytest.param([{"system": "phone", "value": BEN}], id="no-address"),
    ],
)
async def test_who_is_not_in_the_directory_is_not_put_there(
    world: World, telecom: list[dict[str, Any]]
) -> None:
    await stored(world, "Practitioner", telecom=telecom)
    message = await received(world)
    assert not message["sender"].get("reference", "#").startswith("Practitioner")
    assert (await world.http.get("/Practitioner")).json()["total"] == 1


async def test_message_to_thousands_is_received(world: World) -> None:
    fields = [
        b"Cc: " + ",\r\n ".join(f"{name}{n}@{PEER}" for n in range(1000)).encode("ascii") + b"\r\n"
        for name in "ab"
    ]
    known = await stored(world, "Practitioner", telecom=[direct(f"b999@{PEER}")])
    message = await received(world, b"".join(fields) + HEADER + b"\r\nx")
    assert len(message["recipient"]) == 2001
    named = {actor.get("reference") for actor in message["recipient"]}
    assert named == {None, f"Practitioner/{known['id']}"}


async def test_two_of_one_address_mean_neither(world: World) -> None:
    for _ in range(2):
        await stored(world, "Practitioner", telecom=[direct(BEN)])
    assert "Practitioner/" not in (await received(world))["sender"].get("reference", "")


async def test_another_domains_directory_says_nothing(world: World) -> None:
    theirs = await world.add_client("eve", "eve@direct.elsewhere.example")
    person = {
        "resourceType": "Practitioner",
        "telecom": [
            {
                "system": "email",
                "value": BEN,
                "extension": [{"url": US_CORE_DIRECT, "valueBoolean": True}],
            }
        ],
    }
    assert (await world.http.post("/Practitioner", json=person, headers=theirs)).is_success
    assert "Practitioner/" not in (await received(world))["sender"].get("reference", "")


@pytest.mark.parametrize("how", ["c-cda", "xdm"])
async def test_the_patient_of_a_document_is_the_local_one(world: World, how: str) -> None:
    patient = await stored(world, "Patient", identifier=[SSN], name=[{"family": "Helberg"}])
    carried = mail(ccda()) if how == "c-cda" else mail_of_package(package(ccda()))
    message = await received(world, carried)
    assert message["subject"] == {"reference": f"Patient/{patient['id']}"}
    assert "patient" not in [r["id"] for r in message.get("contained", [])]
    [document] = await found(world, f"DocumentReference?patient={patient['id']}")
    assert document["subject"] == {"reference": f"Patient/{patient['id']}"}
    within = await world.http.get(f"/Patient/{patient['id']}/Communication")
    assert message["id"] in within.text


@pytest.mark.parametrize(
    "patients",
    [
        pytest.param([{"identifier": [{**SSN, "value": "1"}]}], id="another-number"),
        pytest.param([{"identifier": [{**SSN, "system": "urn:oid:1.2.3"}]}], id="another-system"),
        pytest.param([{"identifier": [SSN], "birthDate": "1999-01-01"}], id="another-birth"),
        pytest.param([{"identifier": [SSN], "name": [{"family": "Other"}]}], id="another-name"),
        pytest.param([{"name": [{"family": "Helberg"}]}], id="the-name-alone"),
        pytest.param([{"identifier": [SSN]}, {"identifier": [SSN]}], id="two-of-them"),
    ],
)
async def test_a_patient_is_never_guessed(world: World, patients: list[dict[str, Any]]) -> None:
    for patient in patients:
        await stored(world, "Patient", **patient)
    message = await received(world, mail(ccda()))
    assert message["subject"] == {"reference": "#patient"}
