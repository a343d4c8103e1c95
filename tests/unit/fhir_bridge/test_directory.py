"""Resources that messages refer to: stored as written, searched, resolved to addresses."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from fhir.resources.R4B import get_fhir_model_class

from fhir_bridge.definitions import TYPES
from fhir_bridge.terms import US_CORE_DIRECT, mailto_identifier
from tests.unit.fhir_bridge.conftest import BASE, BEN, World, communication


async def stored(world: World, kind: str, **elements: Any) -> dict[str, Any]:
    answer = await world.http.post(f"/{kind}", json={"resourceType": kind, **elements})
    assert answer.status_code == 201, answer.text
    resource: dict[str, Any] = answer.json()
    return resource


async def found(world: World, query: str) -> list[Any]:
    answer = await world.http.get(f"/{query}")
    assert answer.status_code == 200, answer.text
    get_fhir_model_class("Bundle").model_validate(answer.json())
    shown = [
        f"{e['search']['mode']} {e['resource']['resourceType']}"
        for e in answer.json().get("entry", [])
    ]
    return sorted(shown, key=lambda one: (not one.startswith("match"), one))


def direct(address: str, **more: Any) -> dict[str, Any]:
    mark = {"url": US_CORE_DIRECT, "valueBoolean": True}
    return {"system": "email", "value": address, "extension": [mark], **more}


MINIMAL: dict[str, dict[str, Any]] = {
    "Communication": {"status": "preparation"},
    "CommunicationRequest": {"status": "draft"},
    "Task": {"status": "draft", "intent": "order"},
    "DocumentReference": {
        "status": "current",
        "content": [{"attachment": {"contentType": "text/plain", "data": "YQ=="}}],
    },
    "Media": {"status": "completed", "content": {"contentType": "image/png", "data": "YQ=="}},
    "Patient": {"name": [{"family": "Helberg"}], "photo": [{"contentType": "a/b", "data": "YQ=="}]},
    "Endpoint": {
        "status": "active",
        "connectionType": {"code": "direct-project"},
        "payloadType": [{"text": "any"}],
        "address": f"mailto:{BEN}",
    },
    "Group": {"type": "person", "actual": True},
    "Appointment": {
        "status": "booked",
        "participant": [{"status": "accepted", "required": "required"}],
    },
    "CarePlan": {"status": "active", "intent": "plan", "subject": {"display": "x"}},
    "Encounter": {"status": "planned", "class": {"code": "AMB"}},
    "Subscription": {
        "status": "requested",
        "reason": "test",
        "criteria": "Communication",
        "channel": {"type": "rest-hook", "endpoint": "https://bot.example/hook"},
    },
    "RelatedPerson": {"patient": {"display": "x"}},
    "HealthcareService": {"active": True},
}


@pytest.mark.parametrize(
    "kind", [k for k, t in TYPES.items() if "create" in t.interactions and k != "Binary"]
)
async def test_every_type_is_stored_and_found(world: World, kind: str) -> None:
    resource = await stored(world, kind, **MINIMAL.get(kind, {}))
    get_fhir_model_class(kind).model_validate(resource)
    assert await found(world, f"{kind}?_id={resource['id']}") == [f"match {kind}"]
    read = await world.http.get(f"/{kind}/{resource['id']}")
    assert read.json() == resource
    for parameter in TYPES[kind].parameters:
        value = "2026" if parameter.kind.value == "date" else "x"
        await found(world, f"{kind}?{parameter.name}={value}&_sort={parameter.name}")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("DocumentReference", ["content", 0, "attachment"]),
        ("Media", ["content"]),
        ("Patient", ["photo", 0]),
    ],
)
async def test_attachments_of_any_type_are_lifted_out(
    world: World, kind: str, path: list[Any]
) -> None:
    resource = await stored(world, kind, **MINIMAL[kind])
    attachment = resource
    for step in path:
        attachment = attachment[step]
    assert "data" not in attachment
    colleague = await world.add_client("colleague", "anna@direct.hillside.example")
    answer = await world.http.get(attachment["url"], headers=colleague)
    assert answer.content == b"a"


async def test_what_only_the_gateway_makes_is_not_taken(world: World) -> None:
    assert (await world.http.post("/Provenance", json={})).status_code == 405


async def test_the_directory_is_shared_within_a_domain_only(world: World) -> None:
    resource = await stored(world, "Practitioner", telecom=[direct(BEN)])
    url = f"/Practitioner/{resource['id']}"
    colleague = await world.add_client("colleague", "zoe@direct.hillside.example")
    stranger = await world.add_client("stranger", "eve@direct.elsewhere.example")
    assert (await world.http.get(url, headers=colleague)).status_code == 200
    assert (await world.http.get(url, headers=stranger)).status_code == 404


async def test_people_are_found_by_name_and_address(world: World) -> None:
    await stored(
        world,
        "Practitioner",
        name=[{"family": "Müller", "given": ["Änne"]}],
        telecom=[direct("Ben@Direct.lakeview.example")],
    )
    for query in (
        "family=muller",
        "family:exact=Müller",
        "name=änne",
        "name:contains=ULL",
        "email=ben@direct.lakeview.example",
        "telecom=email|BEN@direct.lakeview.example",
    ):
        assert await found(world, f"Practitioner?{query}") == ["match Practitioner"], query
    for query in ("family=uller", "family:exact=muller"):
        assert await found(world, f"Practitioner?{query}") == [], query


async def test_a_recipient_is_resolved_through_the_directory(world: World) -> None:
    person = await stored(world, "Practitioner", telecom=[direct(BEN)])
    endpoint = await stored(world, "Endpoint", **MINIMAL["Endpoint"])
    link = {"reference": f"Endpoint/{endpoint['id']}"}
    clinic = await stored(world, "Organization", name="Lakeview", endpoint=[link])
    role = await stored(
        world, "PractitionerRole", practitioner={"reference": f"Practitioner/{person['id']}"}
    )
    for target in (person, clinic, role):
        reference = {"reference": f"{target['resourceType']}/{target['id']}"}
        answer = await world.http.post("/Communication", json=communication(recipient=[reference]))
        assert answer.status_code == 201, answer.text
        [recipient] = answer.json()["recipient"]
        assert recipient["identifier"]["value"] == f"mailto:{BEN}"
        assert recipient["reference"] == reference["reference"]
        assert str(world.outbox.submissions[-1].recipients[0]) == BEN


@pytest.mark.parametrize(
    ("telecom", "code"),
    [
        ([], "not-found"),
        ([{"system": "phone", "value": "1"}], "not-found"),
        ([direct("a@x.org"), direct("b@x.org")], "multiple-matches"),
        ([direct("a@x.org", use="old")], "not-found"),
        ([direct("a@x.org", rank=2), direct("b@x.org", rank=1)], None),
    ],
)
async def test_exactly_one_address_is_needed(
    world: World, telecom: list[Any], code: str | None
) -> None:
    elements = {"telecom": telecom} if telecom else {}
    person = await stored(world, "Practitioner", active=True, **elements)
    reference = {"reference": f"Practitioner/{person['id']}"}
    answer = await world.http.post("/Communication", json=communication(recipient=[reference]))
    if code is None:
        assert str(world.outbox.submissions[0].recipients[0]) == "b@x.org"
    else:
        assert answer.json()["issue"][0]["code"] == code


async def test_a_document_is_sent_by_reference(world: World) -> None:
    document = await stored(world, "DocumentReference", **MINIMAL["DocumentReference"])
    patient = await stored(world, "Patient", name=[{"family": "Helberg"}])
    payload = [
        {"contentReference": {"reference": f"DocumentReference/{document['id']}"}},
        {"contentReference": {"reference": f"Patient/{patient['id']}"}},
    ]
    answer = await world.http.post("/Communication", json=communication(payload=payload))
    assert answer.status_code == 201, answer.text
    message = world.outbox.message()
    assert b"YQ==" in message
    assert b"application/fhir+json" in message


def attached(url: str, **said: Any) -> list[Any]:
    return [{"contentAttachment": {"url": url, **said}}]


@pytest.mark.parametrize("base", ["", f"{BASE}/"], ids=["relative", "absolute"])
async def test_the_file_of_a_document_is_attached(world: World, base: str) -> None:
    document = await stored(world, "DocumentReference", **MINIMAL["DocumentReference"])
    [content] = document["content"]
    payload = attached(f"{base}DocumentReference/{document['id']}", title="report.txt")
    answer = await world.http.post("/Communication", json=communication(payload=payload))
    assert answer.status_code == 201, answer.text
    assert b"YQ==" in world.outbox.message()
    assert b"report.txt" in world.outbox.message()
    # What was sent stays what it was, whatever becomes of the document.
    [sent] = answer.json()["payload"]
    assert sent["contentAttachment"]["url"].startswith("Binary/")
    octets = (await world.http.get(f"/{sent['contentAttachment']['url']}")).content
    assert octets == (await world.http.get(f"/{content['attachment']['url']}")).content


@pytest.mark.parametrize(
    ("count", "said", "at"),
    [
        pytest.param(2, {}, "url", id="two-files"),
        pytest.param(1, {"size": 99}, "size", id="another-size"),
        pytest.param(0, {}, "url", id="not-there"),
    ],
)
async def test_a_document_that_is_not_one_file_is_not_attached(
    world: World, count: int, said: dict[str, Any], at: str
) -> None:
    identity = str(UUID(int=7))
    if count:
        minimal = MINIMAL["DocumentReference"]
        several = {**minimal, "content": minimal["content"] * count}
        identity = (await stored(world, "DocumentReference", **several))["id"]
    payload = attached(f"DocumentReference/{identity}", **said)
    answer = await world.http.post("/Communication", json=communication(payload=payload))
    assert answer.status_code == 422
    [issue] = answer.json()["issue"]
    assert issue["expression"] == [f"Communication.payload[0].contentAttachment.{at}"]
    assert world.outbox.submissions == []


async def test_a_document_of_somebody_else_is_not_attached(world: World) -> None:
    theirs = await world.add_client("zoe", "zoe@direct.hillside.example")
    document = await stored(world, "DocumentReference", **MINIMAL["DocumentReference"])
    payload = attached(f"DocumentReference/{document['id']}")
    sender = {"identifier": mailto_identifier("zoe@direct.hillside.example")}
    body = communication(payload=payload, sender=sender)
    answer = await world.http.post("/Communication", json=body, headers=theirs)
    assert answer.status_code == 422


async def test_searches_follow_references(world: World) -> None:
    patient = await stored(world, "Patient", name=[{"family": "Helberg"}])
    subject = {"reference": f"Patient/{patient['id']}"}
    person = await stored(world, "Practitioner", telecom=[direct(BEN)], name=[{"family": "Ray"}])
    about_patient = await stored(
        world,
        "Communication",
        status="preparation",
        subject=subject,
        recipient=[{"reference": f"Practitioner/{person['id']}"}],
    )
    await stored(world, "Communication", status="preparation", topic={"text": "other"})
    await stored(
        world,
        "Task",
        status="requested",
        intent="order",
        focus={"reference": f"Communication/{about_patient['id']}"},
    )
    one = ["match Communication"]
    assert await found(world, f"Communication?subject=Patient/{patient['id']}") == one
    assert await found(world, f"Communication?patient={patient['id']}") == one
    assert await found(world, "Communication?patient.family=helberg") == one
    assert await found(world, "Communication?subject:Patient.name=helb") == one
    assert await found(world, "Communication?patient.name=nobody") == []
    assert await found(world, "Communication?recipient:Practitioner.family=ray") == one
    assert await found(world, "Communication?_has:Task:focus:status=requested") == one
    assert await found(world, "Communication?_has:Task:focus:status=completed") == []
    assert await found(world, "Communication?_has:Task:focus:_id:not=null") == one
    assert await found(world, "Task?focus:Communication.patient.family=helberg") == ["match Task"]
    assert await found(
        world, "Patient?_has:Communication:subject:_has:Task:focus:status=requested"
    ) == ["match Patient"]
    assert await found(
        world, "Communication?patient.family=helberg&_include=Communication:recipient"
    ) == ["match Communication", "include Practitioner"]
    assert await found(
        world,
        "Communication?patient.family=helberg&_include=Communication:*&_revinclude=Task:focus",
    ) == ["match Communication", "include Patient", "include Practitioner", "include Task"]
    assert await found(
        world, "Communication?patient.family=helberg&_include=Communication:recipient:Patient"
    ) == ["match Communication"]
    assert await found(
        world,
        "Task?status=requested&_include=Task:focus&_include:iterate=Communication:subject",
    ) == ["match Task", "include Communication", "include Patient"]


@pytest.mark.parametrize(
    "query",
    [
        "recipient.name=x",
        "recipient:Nothing.name=x",
        "status.name=x",
        "patient.nothing=x",
        "_has:Task:focus=x",
        "_has:Task:status:_id=x",
        "_has:Task:focus:nothing=x",
        ".".join(["part-of:Communication"] * 4) + "._id=x",
        "_include=Nothing:x",
        "_include=Communication:status",
        "_include:sideways=Communication:sender",
        "&".join(["_include=Communication:sender"] * 21),
    ],
)
async def test_what_cannot_be_followed_is_refused(world: World, query: str) -> None:
    assert (await world.http.get(f"/Communication?{query}")).status_code == 400


async def test_tags_and_profiles_are_found(world: World) -> None:
    await stored(
        world,
        "Patient",
        meta={"tag": [{"system": "urn:t", "code": "x"}], "profile": ["http://p.example/P"]},
    )
    assert await found(world, "Patient?_tag=urn:t|x") == ["match Patient"]
    assert await found(world, "Patient?_profile=http://p.example/P") == ["match Patient"]
