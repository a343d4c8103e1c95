"""`$process-message`: what a message is about is sent, once, and answered by a message."""

from __future__ import annotations

import asyncio
import base64
import copy
import email
import email.policy
from email.message import EmailMessage
from typing import Any

import pytest
import sqlalchemy as sa
from fhir.resources.R4B import get_fhir_model_class

from certs.errors import DirectError, Reason
from fhir_bridge.client_control import remove_client
from fhir_bridge.tables import fhir_processed
from gateway import audit
from tests.unit.fhir_bridge.conftest import ANNA, BASE, BEN, World, communication
from tests.unit.fhir_bridge.test_directory import direct
from tests.unit.fhir_bridge.test_smart import logged

EVENT = {
    "system": "https://direct-gateway.dev/fhir/CodeSystem/message-event",
    "code": "send-direct",
}
EHR = "https://ehr.example/fhir"
PDF = b"%PDF-1.4 not really"


def message(*entries: tuple[str, dict[str, Any]], **header: Any) -> dict[str, Any]:
    """A message about the first of `entries`, each with its fullUrl."""
    head = {
        "resourceType": "MessageHeader",
        "id": "m-1",
        "eventCoding": EVENT,
        "source": {"endpoint": "https://ehr.example/messages"},
        "focus": [{"reference": entries[0][0]}] if entries else [],
        **header,
    }
    if not head["focus"]:
        del head["focus"]
    listed = (("urn:uuid:8b1a3f3e-5f6b-4b0a-9d4e-1d2a3c4b5e6f", head), *entries)
    return {
        "resourceType": "Bundle",
        "type": "message",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": "urn:uuid:1"},
        "timestamp": "2026-01-02T12:00:00Z",
        "entry": [{"fullUrl": url, "resource": resource} for url, resource in listed],
    }


def about(**elements: Any) -> dict[str, Any]:
    return message(("urn:uuid:c", communication(**elements)))


async def processed(world: World, bundle: dict[str, Any], status: int = 200) -> Any:
    answer = await world.http.post("/$process-message", json=bundle)
    assert answer.status_code == status, answer.text
    return answer.json()


def response_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what the answer says of the message; that it is a valid message is checked here."""
    get_fhir_model_class("Bundle").model_validate(answer)
    assert answer["type"] == "message"
    header = answer["entry"][0]["resource"]
    assert header["resourceType"] == "MessageHeader"
    assert header["source"]["endpoint"] == f"{BASE}/$process-message"
    assert header["destination"] == [{"endpoint": "https://ehr.example/messages"}]
    found: dict[str, Any] = header["response"]
    return found


def texts_of(answer: dict[str, Any]) -> list[str]:
    url = response_of(answer)["details"]["reference"]
    [outcome] = [e["resource"] for e in answer["entry"] if e["fullUrl"] == url]
    return [issue["details"]["text"] for issue in outcome["issue"]]


def sent(world: World, number: int = -1) -> EmailMessage:
    found = email.message_from_bytes(world.outbox.message(number), policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


async def test_a_message_is_sent_and_answered(world: World) -> None:
    answer = await processed(world, about())
    assert response_of(answer) == {"identifier": "m-1", "code": "ok"}
    header = answer["entry"][0]["resource"]
    assert header["eventCoding"] == EVENT
    [submission] = world.outbox.submissions
    assert [r.key for r in submission.recipients] == [BEN]
    [reference] = header["focus"]
    stored = (await world.http.get(reference["reference"])).json()
    assert stored == answer["entry"][1]["resource"]
    assert (stored["status"], stored["topic"]) == ("in-progress", {"text": "Referral"})
    assert sent(world)["subject"] == "Referral"


async def test_what_a_message_refers_to_in_its_bundle_goes_along(world: World) -> None:
    """Sender, recipients, attachments and the patient of another server; none of it is fetched."""
    letter = communication(
        id="1",
        sender={"reference": "Practitioner/anna"},
        recipient=[
            {"reference": f"{EHR}/PractitionerRole/ben/_history/3"},
            {"reference": "urn:uuid:0b-organization", "display": "Lakeview"},
        ],
        subject={"reference": "Patient/5"},
        encounter={"reference": "Encounter/77"},
        payload=[
            {"contentString": "See the attached."},
            {"contentAttachment": {"url": f"{EHR}/Binary/scan", "title": "scan.pdf"}},
            {"contentReference": {"reference": "Binary/scan", "display": "again.pdf"}},
            {"contentReference": {"reference": "DocumentReference/d"}},
        ],
    )
    document = {
        "resourceType": "DocumentReference", "id": "d", "status": "current",
        "meta": {"versionId": "3"},
        "subject": {"reference": "Patient/5"},
        "context": {"related": [{"reference": "Communication/1"}]},
        "content": [{"attachment": {"url": "Binary/scan", "title": "document.pdf"}}],
    }  # fmt: skip
    bundle = message(
        (f"{EHR}/Communication/1", letter),
        (f"{EHR}/Practitioner/anna",
         {"resourceType": "Practitioner", "id": "anna", "telecom": [direct(ANNA)]}),
        (f"{EHR}/PractitionerRole/ben",
         {"resourceType": "PractitionerRole", "id": "ben",
          "practitioner": {"reference": "Practitioner/ben"},
          "endpoint": [{"reference": "Endpoint/ben"}]}),
        (f"{EHR}/Practitioner/ben", {"resourceType": "Practitioner", "id": "ben"}),
        (f"{EHR}/Endpoint/ben",
         {"resourceType": "Endpoint", "id": "ben", "status": "active", "address": f"mailto:{BEN}",
          "connectionType": {
              "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
              "code": "direct-project"},
          "payloadType": [{"text": "any"}]}),
        ("urn:uuid:0b-organization",
         {"resourceType": "Organization", "name": "Lakeview",
          "telecom": [direct("desk@direct.lakeview.example")]}),
        (f"{EHR}/Patient/5", {"resourceType": "Patient", "id": "5", "name": [{"family": "H"}]}),
        (f"{EHR}/DocumentReference/d", document),
        (f"{EHR}/Binary/scan",
         {"resourceType": "Binary", "id": "scan", "contentType": "application/pdf",
          "data": base64.b64encode(PDF).decode()}),
    )  # fmt: skip
    answer = await processed(world, bundle)
    assert response_of(answer)["code"] == "ok"
    [submission] = world.outbox.submissions
    assert [r.key for r in submission.recipients] == [BEN, "desk@direct.lakeview.example"]
    parts = {p.get_filename(): p for p in sent(world).iter_attachments()}
    assert parts.keys() == {"scan.pdf", "again.pdf", "document.pdf"}
    for part in parts.values():
        assert (part.get_content_type(), part.get_content()) == ("application/pdf", PDF)
    stored = answer["entry"][1]["resource"]
    get_fhir_model_class("Communication").model_validate(stored)
    contained = {f"#{item['id']}": item for item in stored["contained"]}
    assert contained[stored["subject"]["reference"]]["resourceType"] == "Patient"
    # What was not in the message is not taken for something of ours.
    assert stored["encounter"] == {"reference": f"{EHR}/Encounter/77"}
    [kept] = [c for c in contained.values() if c["resourceType"] == "DocumentReference"]
    assert kept["context"]["related"] == [{"reference": "#"}]
    assert kept["subject"] == stored["subject"]
    assert "meta" not in kept
    found = await world.http.get(stored["payload"][1]["contentAttachment"]["url"])
    assert found.content == PDF


async def test_what_is_contained_in_an_entry_moves_up(world: World) -> None:
    role = {
        "resourceType": "PractitionerRole",
        "contained": [{"resourceType": "Practitioner", "id": "p", "telecom": [direct(BEN)]}],
        "practitioner": {"reference": "#p"},
    }
    letter = communication(
        contained=[{"resourceType": "Practitioner", "id": "entry-1", "telecom": [direct(ANNA)]}],
        sender={"reference": "#entry-1"},
        recipient=[{"reference": "urn:uuid:role"}],
    )
    answer = await processed(world, message(("urn:uuid:c", letter), ("urn:uuid:role", role)))
    assert response_of(answer)["code"] == "ok"
    assert [r.key for r in world.outbox.submissions[0].recipients] == [BEN]
    stored = answer["entry"][1]["resource"]
    assert len({item["id"] for item in stored["contained"]}) == 3


async def test_the_directory_and_uploads_of_the_gateway_can_be_named(world: World) -> None:
    ben = {"resourceType": "Practitioner", "telecom": [direct(BEN)]}
    identity = (await world.http.post("/Practitioner", json=ben)).json()["id"]
    upload = (await world.http.post("/Binary", content=PDF)).json()["id"]
    letter = communication(
        recipient=[{"reference": f"{BASE}/Practitioner/{identity}"}],
        payload=[{"contentAttachment": {"url": f"Binary/{upload}", "title": "a.pdf"}}],
    )
    answer = await processed(world, message(("urn:uuid:c", letter)))
    assert response_of(answer)["code"] == "ok", answer
    [part] = sent(world).iter_attachments()
    assert part.get_content() == PDF


async def test_an_answer_to_a_message_that_is_in_the_bundle(world: World) -> None:
    before = {"resourceType": "Communication", "status": "completed", "identifier": [
        {"system": "urn:ietf:rfc:3986", "value": "mid:1@lakeview.example"}]}  # fmt: skip
    letter = communication(inResponseTo=[{"reference": "urn:uuid:before"}])
    bundle = message(("urn:uuid:c", letter), ("urn:uuid:before", before))
    assert response_of(await processed(world, bundle))["code"] == "ok"
    assert sent(world)["in-reply-to"] == "<1@lakeview.example>"


async def test_the_same_message_is_answered_again_and_sent_once(world: World) -> None:
    first = await processed(world, about())
    again = await processed(world, about())
    assert again == first
    # In another envelope too: the id of the header is what counts.
    other = {**about(), "identifier": {"system": "urn:ietf:rfc:3986", "value": "urn:uuid:2"}}
    assert await processed(world, other) == first
    assert len(world.outbox.submissions) == 1


async def test_the_same_message_posted_at_once_by_many_is_sent_once(world: World) -> None:
    answers = await asyncio.gather(*(processed(world, about()) for _ in range(8)))
    assert len(world.outbox.submissions) == 1
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(about(topic={"text": "Another"}), id="same-header-id"),
        pytest.param(
            message(("urn:uuid:c", communication()), id="m-2"), id="same-bundle-identifier"
        ),
    ],
)
async def test_another_message_under_the_same_id_is_a_conflict(
    world: World, other: dict[str, Any]
) -> None:
    first = await processed(world, about())
    refused = await processed(world, other, 409)
    assert refused["issue"][0]["code"] == "duplicate"
    assert len(world.outbox.submissions) == 1
    assert await processed(world, about()) == first


async def test_ids_are_of_each_client(world: World) -> None:
    zoe = "zoe@direct.hillside.example"
    headers = await world.add_client("zoe", zoe)
    await processed(world, about())
    sender = {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{zoe}"}}
    answer = await world.http.post("/$process-message", json=about(sender=sender), headers=headers)
    assert response_of(answer.json())["code"] == "ok"
    assert len(world.outbox.submissions) == 2


async def test_what_was_refused_can_be_corrected_under_its_id(world: World) -> None:
    refused = await processed(world, about(recipient=[{"display": "Nobody"}]))
    assert response_of(refused)["code"] == "fatal-error"
    assert texts_of(refused) == ["This leads to no Direct address."]
    assert response_of(await processed(world, about()))["code"] == "ok"


async def test_what_fails_for_a_while_says_so_and_may_be_sent_again(world: World) -> None:
    submit = world.outbox.submit
    failing = True

    async def sometimes(*given: Any) -> Any:
        if failing:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "of no interest")
        return await submit(*given)

    world.outbox.submit = sometimes  # type: ignore[method-assign]
    assert response_of(await processed(world, about()))["code"] == "transient-error"
    failing = False
    assert response_of(await processed(world, about()))["code"] == "ok"


async def test_the_answer_says_whom_it_does_not_reach(world: World) -> None:
    cara = "cara@direct.lakeview.example"
    both = [*communication()["recipient"],
            {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{cara}"}}]  # fmt: skip
    world.outbox.codes = {BEN: ("refused", Reason.NOT_TRUSTED), cara: ("relayed", None)}
    answer = await processed(world, about(recipient=both))
    assert response_of(answer)["code"] == "ok"
    assert texts_of(answer) == [
        "The recipient's certificate leads to no trust anchor of the sender."
    ]
    world.outbox.codes = {BEN: ("refused", Reason.NOT_TRUSTED)}
    other = message(("urn:uuid:c", communication()), id="m-2")
    other["identifier"]["value"] = "urn:uuid:2"
    answer = await processed(world, other)
    assert response_of(answer)["code"] == "fatal-error"
    assert answer["entry"][1]["resource"]["status"] == "not-done"
    assert (await processed(world, other)) == answer


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"eventCoding": {"system": "http://terminology.hl7.org/CodeSystem/v2-0003",
                          "code": "A04"}}, "The event served here is"),
        ({"eventCoding": {"code": "send-direct"}}, "The event served here is"),
        ({"focus": [{"reference": "urn:uuid:nothing"}]}, "The focus is one Communication"),
        ({"focus": []}, "The focus is one Communication"),
        ({"focus": [{"reference": "urn:uuid:c"}] * 2}, "The focus is one Communication"),
        ({"focus": [{"reference": "urn:uuid:p"}]}, "The focus is one Communication"),
        ({"response": {"identifier": "m-0", "code": "ok"}}, "This is an answer"),
    ],
)  # fmt: skip
async def test_what_is_not_served_is_a_fatal_error(
    world: World, header: dict[str, Any], text: str
) -> None:
    patient = ("urn:uuid:p", {"resourceType": "Patient"})
    answer = await processed(world, message(("urn:uuid:c", communication()), patient, **header))
    assert response_of(answer)["code"] == "fatal-error"
    assert texts_of(answer)[0].startswith(text)
    assert world.outbox.submissions == []


@pytest.mark.parametrize(
    "elements",
    [
        pytest.param({"status": "entered-in-error"}, id="retracted"),
        pytest.param({"status": "banana"}, id="no-status"),
        pytest.param({"medium": [{"text": "telephone"}]}, id="another-medium"),
        pytest.param({"payload": [{"contentAttachment": {"url": "urn:uuid:b"}}]}, id="no-data"),
        pytest.param({"payload": [{"contentAttachment": {"url": "http://x.example/1"}}]}, id="url"),
        pytest.param({"about": [{"reference": "urn:uuid:b"}]}, id="binary-about"),
        pytest.param({"sender": {"identifier": {
            "system": "urn:ietf:rfc:3986", "value": "mailto:eve@direct.hillside.example"}}},
            id="not-theirs-to-send-as"),
        pytest.param({"topic": {"text": "a\r\nBcc: eve@direct.lakeview.example"}}, id="header"),
        pytest.param({"identifier": "x", "payload": "y", "contained": 3}, id="not-fhir"),
        pytest.param({"payload": [{"contentReference": 7}], "recipient": {"reference": 5}},
                     id="not-references"),
    ],
)  # fmt: skip
async def test_what_cannot_be_sent_is_a_fatal_error(world: World, elements: dict[str, Any]) -> None:
    binary = {"resourceType": "Binary", "contentType": "text/plain"}
    bundle = message(("urn:uuid:c", communication(**elements)), ("urn:uuid:b", binary))
    answer = await processed(world, bundle)
    assert response_of(answer)["code"] == "fatal-error"
    assert texts_of(answer)
    assert world.outbox.submissions == []


def without(bundle: dict[str, Any], *path: Any) -> dict[str, Any]:
    changed = copy.deepcopy(bundle)
    inner: Any = changed
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return changed


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param({**about(), "type": "batch"}, id="batch"),
        pytest.param(without(about(), "entry"), id="empty"),
        pytest.param({**about(), "entry": "x"}, id="no-entries"),
        pytest.param({**about(), "entry": [1]}, id="no-entry"),
        pytest.param({**about(), "entry": about()["entry"][1:]}, id="no-header"),
        pytest.param(without(about(), "entry", 0, "resource", "id"), id="no-id"),
        pytest.param(without(about(), "entry", 0, "resource", "source"), id="no-source"),
        pytest.param(without(about(), "entry", 0, "resource", "eventCoding"), id="no-event"),
        pytest.param(without(about(), "entry", 1, "resource", "resourceType"), id="no-type"),
        pytest.param({**about(), "identifier": 3}, id="identifier"),
        pytest.param(message(source={"endpoint": False}), id="no-url"),
        pytest.param({**about(), "entry": [*about()["entry"], *about()["entry"]]}, id="url-twice"),
        pytest.param(communication(), id="not-a-bundle"),
        pytest.param({"resourceType": "Parameters"}, id="no-content"),
    ],
)
async def test_what_is_no_message_is_refused(world: World, bundle: dict[str, Any]) -> None:
    refused = await processed(world, bundle, 400)
    assert refused["resourceType"] == "OperationOutcome"
    assert world.outbox.submissions == []


async def test_one_binary_named_very_often_is_refused(world: World) -> None:
    binary = {"resourceType": "Binary", "contentType": "text/plain", "data": "AAAA" * 250_000}
    payload = [{"contentAttachment": {"url": "urn:uuid:b"}}] * 100
    letter = communication(payload=payload)
    answer = await processed(world, message(("urn:uuid:c", letter), ("urn:uuid:b", binary)))
    assert texts_of(answer) == ["The attachments are too large."]


async def test_resources_that_refer_to_each_other_end(world: World) -> None:
    one = {
        "resourceType": "Patient",
        "link": [{"other": {"reference": "urn:uuid:2"}, "type": "seealso"}],
    }
    two = {
        "resourceType": "Patient",
        "link": [{"other": {"reference": "urn:uuid:1"}, "type": "seealso"}],
    }
    letter = communication(subject={"reference": "urn:uuid:1"})
    bundle = message(("urn:uuid:c", letter), ("urn:uuid:1", one), ("urn:uuid:2", two))
    answer = await processed(world, bundle)
    assert response_of(answer)["code"] == "ok"
    assert len(answer["entry"][1]["resource"]["contained"]) == 2


@pytest.mark.parametrize("name", ["async", "response-url"])
async def test_no_answer_goes_elsewhere_or_comes_later(world: World, name: str) -> None:
    answer = await world.http.post(f"/$process-message?{name}=https://x.example", json=about())
    assert answer.status_code == 422
    parameters = {"resourceType": "Parameters", "parameter": [
        {"name": "content", "resource": about()},
        {"name": name, "valueUrl": "https://x.example"}]}  # fmt: skip
    assert (await world.http.post("/$process-message", json=parameters)).status_code == 422
    assert world.outbox.submissions == []
    del parameters["parameter"][1]  # type: ignore[attr-defined]
    assert response_of(await processed(world, parameters))["code"] == "ok"


async def test_it_needs_the_scope_that_sends(world: World) -> None:
    reader = await world.add_client("reader", ANNA, scopes="system/Communication.rs")
    answer = await world.http.post("/$process-message", json=about(), headers=reader)
    assert answer.status_code == 403
    assert world.outbox.submissions == []


async def test_it_is_audited_before_it_is_answered(world: World) -> None:
    http, _log = logged(world)
    async with http:
        assert (await http.post("/$process-message", json=about())).status_code == 200
    [event] = await world.database.read(lambda c: audit.list_events(c, limit=10))
    assert (event.action, event.subject, event.outcome) == ("fhir-process-message", "/", "200")


async def test_a_client_is_removed_with_what_it_had_processed(world: World) -> None:
    await processed(world, about())
    await world.database.write(lambda c: remove_client(c, "ehr"))
    rows = await world.database.read(lambda c: c.execute(sa.select(fhir_processed)).all())
    assert rows == []


async def test_a_message_comes_and_is_answered_as_xml_too(world: World) -> None:
    headers = {"accept": "application/fhir+xml"}
    answer = await world.http.post("/$process-message", json=about(), headers=headers)
    assert answer.headers["content-type"].startswith("application/fhir+xml")
    assert b'<code value="ok"/>' in answer.content


async def test_the_capability_statement_tells_of_messages(world: World) -> None:
    statement = (await world.http.get("/metadata")).json()
    get_fhir_model_class("CapabilityStatement").model_validate(statement)
    [messaging] = statement["messaging"]
    assert messaging["endpoint"][0]["address"] == f"{BASE}/$process-message"
    [supported] = messaging["supportedMessage"]
    name = supported["definition"].rpartition("/")[2]
    published = await world.http.get(f"/MessageDefinition/{name}", headers={"authorization": ""})
    definition = published.json()
    get_fhir_model_class("MessageDefinition").model_validate(definition)
    assert (definition["url"], definition["eventCoding"]) == (supported["definition"], EVENT)
    assert (await world.http.get("/MessageDefinition/nothing")).status_code == 404
    names = [operation["name"] for operation in statement["rest"][0]["operation"]]
    assert "process-message" in names
