"""The envelope between two gateways (fhir.md 3.4, last row; 3.6 rule 4)."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
from fhir.resources.R4B import get_fhir_model_class

from certs.address import parse_address
from certs.ports import Database
from fhir_bridge.api import create_app
from fhir_bridge.envelope import ENVELOPE_OCTETS_MAX, OBJECTS_MAX, unmarked
from fhir_bridge.inbound import NoticeShown, Reading, view
from fhir_bridge.resources import check, load
from fhir_bridge.terms import extension_value
from tests.unit.fhir_bridge.conftest import (
    ANNA,
    BASE,
    BEN,
    NOW,
    TERMS,
    TRUST,
    MemoryBodies,
    MemoryDeliveries,
    MemoryOutbox,
    MemoryPreflight,
    World,
    communication,
)

THERE = "https://gw.lakeview.example/fhir/R4"
READING = Reading(envelopes=True, base_url=THERE)
MARK = TERMS.extension("envelope")
OURS = f"{TERMS.canonical}/"
FOREIGN = {"url": "https://ehr.example/ext/urgency", "valueString": "today"}
PATIENT = {
    "resourceType": "Patient",
    "id": "patient",
    "identifier": [{"system": "urn:oid:1.2.3", "value": "42"}],
    "name": [{"family": "Helberg", "given": ["Caroline"]}],
}
MORE: dict[str, Any] = {
    "language": "de",
    "extension": [FOREIGN],
    "contained": [PATIENT],
    "subject": {"reference": "#patient", "display": "C. Helberg"},
    "category": [{"text": "alert"}],
    "reasonCode": [{"coding": [{"system": "http://snomed.info/sct", "code": "38341003"}]}],
    "encounter": {"reference": "https://ehr.example/fhir/Encounter/7"},
    "about": [{"identifier": {"system": "urn:oid:1.2.3", "value": "order-7"}}],
    "note": [{"text": "Called her at noon.", "authorString": "Anna"}],
    "identifier": [{"system": "https://ehr.example/messages", "value": "m-1"}],
    "topic": {"text": "Referral", "coding": [{"system": "urn:oid:1.2.3", "code": "ref"}]},
    "priority": "stat",
    "payload": [
        {"contentAttachment": {"contentType": "image/png", "title": "a.png", "data": "PGEvPg=="}},
        {"contentString": "First."},
        {
            "extension": [FOREIGN],
            "contentAttachment": {
                "contentType": "application/pdf",
                "language": "de",
                "title": "b.pdf",
                "data": "JVBERg==",
            },
        },
        {"contentString": "Second."},
    ],
}


@pytest.fixture
async def world(sqlite_database: Database) -> AsyncIterator[World]:
    """An API whose gateway has the setting on."""
    bodies = MemoryBodies()
    outbox = MemoryOutbox(sqlite_database, bodies)
    preflight, deliveries = MemoryPreflight(), MemoryDeliveries()
    app = create_app(
        database=sqlite_database,
        bodies=bodies,
        outbox=outbox,
        clock=lambda: NOW,
        base_url=BASE,
        decision_wait_s=0,
        preflight=preflight,
        deliveries=deliveries,
        envelopes=True,
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as http:
        made = World(sqlite_database, bodies, outbox, http, preflight, deliveries)
        http.headers.update(await made.add_client("ehr", ANNA))
        yield made


async def sent(world: World, **elements: Any) -> bytes:
    """Return the message that a Communication becomes."""
    answer = await world.http.post("/Communication", json=communication(**elements))
    assert answer.status_code == 201, answer.text
    return world.outbox.message()


async def told(world: World, **elements: Any) -> dict[str, str]:
    """Return what a client is told of each element."""
    answer = await world.http.post(
        "/Communication",
        json=communication(**elements),
        headers={"prefer": "return=OperationOutcome"},
    )
    assert answer.status_code == 201, answer.text
    issues = answer.json()["issue"]
    return {i["expression"][0]: i["details"]["text"] for i in issues if "expression" in i}


def received(
    message: bytes, reading: Reading = READING, notice: NoticeShown | None = None
) -> dict[str, Any]:
    """Return what Ben's gateway makes of it, which must be valid whatever it is."""
    made = view(
        io.BytesIO(message),
        message_uuid=UUID(int=7),
        mailbox=parse_address(BEN),
        body_key="body",
        received_at=NOW,
        trust=replace(TRUST, binding=None),
        terms=TERMS,
        reading=reading,
        notice=notice,
    )
    get_fhir_model_class("Communication").model_validate(made.communication)
    check(made.communication)
    return made.communication


def parts(message: bytes) -> list[EmailMessage]:
    parsed = message_from_bytes(message, policy=policy.default)
    return cast(list[EmailMessage], [*parsed.iter_attachments()])


def envelope_of(message: bytes) -> dict[str, Any]:
    """Return the Communication in the message's envelope."""
    [part] = [p for p in parts(message) if p.get_filename() == "communication.fhir.json"]
    bundle = load(part.get_content())
    get_fhir_model_class("Bundle").model_validate(bundle)
    whole: dict[str, Any] = bundle["entry"][1]["resource"]
    return whole


def changed(message: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the message as somebody would send it who writes envelopes of their own."""
    parsed = message_from_bytes(message, policy=policy.SMTP)
    [part] = [p for p in parsed.iter_attachments() if "fhir" in p.get_content_type()]
    bundle = json.loads(part.get_content())
    change(bundle)
    return replaced(message, json.dumps(bundle).encode())


def replaced(message: bytes, octets: bytes) -> bytes:
    """Return the message with other octets in its envelope."""
    parsed = message_from_bytes(message, policy=policy.SMTP)
    [part] = [p for p in parsed.iter_attachments() if "fhir" in p.get_content_type()]
    kept = part["content-type"]
    part.set_content(
        octets, "application", "fhir+json", disposition="attachment", filename="x.json"
    )
    part.replace_header("content-type", str(kept))
    return parsed.as_bytes()


def was_read(found: dict[str, Any]) -> bool:
    return extension_value(found, MARK) is not None


def titles(found: dict[str, Any]) -> list[str]:
    return [
        p["contentAttachment"].get("title", "")
        for p in found["payload"]
        if "contentAttachment" in p
    ]


def elements(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: found.get(name) for name in names}


CARRIED = ("language", "subject", "contained", "category", "reasonCode", "encounter", "about",
           "note", "topic", "priority")  # fmt: skip


async def test_what_mail_cannot_carry_arrives(world: World) -> None:
    found = received(await sent(world, **MORE))
    assert elements(found, *CARRIED) == elements(MORE, *CARRIED)
    assert FOREIGN in found["extension"]
    assert MORE["identifier"][0] in found["identifier"]


async def test_payloads_arrive_one_by_one_and_in_order(world: World) -> None:
    found = received(await sent(world, **MORE))
    kinds = [p.get("contentString") or p["contentAttachment"]["title"] for p in found["payload"]]
    assert kinds == ["a.png", "First.", "b.pdf", "Second."]
    pdf = found["payload"][2]
    assert pdf["contentAttachment"]["language"] == "de"
    assert FOREIGN in pdf["extension"]
    assert pdf["contentAttachment"]["url"].startswith("Binary/")


async def test_the_envelope_itself_is_no_attachment_and_can_be_read(world: World) -> None:
    message = await sent(world, **MORE)
    found = received(message)
    assert "communication.fhir.json" not in titles(found)
    reference: Any = extension_value(found, MARK)
    made = view(
        io.BytesIO(message), message_uuid=UUID(int=7), mailbox=parse_address(BEN),
        body_key="body", received_at=NOW, trust=TRUST, terms=TERMS, reading=READING,
    )  # fmt: skip
    rows = {f"Binary/{row.id}": row for row in made.binaries}
    assert rows[reference["reference"]].content_type.startswith("application/fhir+json")


async def test_where_it_is_not_read_it_is_an_attachment(world: World) -> None:
    message = await sent(world, **MORE)
    found = received(message, Reading())
    assert titles(found) == ["a.png", "b.pdf", "communication.fhir.json"]
    assert not {"language", "category", "subject", "note"} & found.keys()
    assert found["topic"] == {"text": "Referral"}


async def test_a_message_that_mail_says_whole_has_no_envelope(world: World) -> None:
    assert parts(await sent(world)) == []


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"priority": "routine"}, id="priority"),
        pytest.param({"topic": {"coding": [{"code": "x"}]}}, id="topic-without-text"),
        pytest.param({"payload": [{"contentString": "a"}, {"contentString": "b"}]}, id="texts"),
        pytest.param(
            {"payload": [{"contentString": "a", "extension": [FOREIGN]}]}, id="payload-extension"
        ),
    ],
)
async def test_what_mail_says_less_exactly_is_in_the_envelope(
    world: World, more: dict[str, Any]
) -> None:
    found = received(await sent(world, **more))
    assert was_read(found)
    assert {name: found[name] for name in more if name != "payload"} == {
        name: more[name] for name in more if name != "payload"
    }


async def test_the_same_message_makes_the_same_resource(world: World) -> None:
    message = await sent(world, **MORE)
    assert received(message) == received(message)


async def test_it_is_off_by_default(sqlite_database: Database) -> None:
    bodies = MemoryBodies()
    outbox = MemoryOutbox(sqlite_database, bodies)
    app = create_app(
        database=sqlite_database, bodies=bodies, outbox=outbox, clock=lambda: NOW, base_url=BASE
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as http:
        world = World(sqlite_database, bodies, outbox, http, MemoryPreflight())
        http.headers.update(await world.add_client("ehr", ANNA))
        assert len(parts(await sent(world, **MORE))) == 2


async def test_a_client_is_told_what_travels_in_it(world: World) -> None:
    found = await told(
        world,
        **MORE,
        text={"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'},
    )
    travels = "This element travels in the envelope, for gateways that read it."
    assert found.pop("Communication.text") == "This element does not travel."
    assert set(found.values()) == {travels}
    assert {"Communication.note", "Communication.subject", "Communication.extension"} <= set(found)


async def test_a_client_is_told_what_stays_for_its_own_sake(world: World) -> None:
    notes = [
        {
            "text": "Ask Dr. Ray first",
            "extension": [{"url": TERMS.extension("internal"), "valueBoolean": True}],
        },
        {"text": "Called"},
    ]
    found = await told(world, note=notes)
    assert found == {"Communication.note": "This element does not travel."}


async def test_a_communication_that_is_internal_has_no_envelope(world: World) -> None:
    internal = {"url": TERMS.extension("internal"), "valueBoolean": True}
    message = await sent(world, **{**MORE, "extension": [FOREIGN, internal]})
    assert len(parts(message)) == 2


async def test_what_is_private_stays(world: World) -> None:
    internal = [{"url": TERMS.extension("internal"), "valueBoolean": True}]
    patient = {
        **PATIENT,
        "meta": {"tag": [{"code": "vip"}]},
        "text": {
            "status": "generated",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml">444112224</div>',
        },
        "identifier": [
            *cast(list[Any], PATIENT["identifier"]),
            {"system": "http://hl7.org/fhir/sid/us-ssn", "value": "444112224"},
            {"system": "urn:oid:2.16.840.1.113883.4.1", "value": "444-11-2224"},
            {"type": {"coding": [{"code": "SS"}]}, "value": "444112225"},
        ],
    }
    message = await sent(
        world,
        meta={"tag": [{"system": "urn:x", "code": "urgent-desk"}]},
        contained=[patient],
        subject={"reference": "#patient"},
        note=[{"text": "Ask Dr. Ray first", "extension": internal}, {"text": "Called"}],
        extension=[FOREIGN, {"url": TERMS.extension("wants-dispatched"), "valueBoolean": True}],
    )
    whole = envelope_of(message)
    text = json.dumps(whole)
    for secret in (
        "44411",
        "444-11",
        "Ask Dr. Ray",
        "vip",
        "urgent-desk",
        "wants-dispatched",
        "meta",
    ):
        assert secret not in text
    assert whole["note"] == [{"text": "Called"}]
    assert whole["contained"][0]["identifier"] == PATIENT["identifier"]


async def test_references_to_the_sending_server_are_absolute(world: World) -> None:
    patient = (await world.http.post("/Patient", json={"resourceType": "Patient"})).json()["id"]
    message = await sent(
        world,
        subject={"reference": f"Patient/{patient}"},
        about=[{"reference": "#order"}],
        contained=[
            {
                "resourceType": "Basic",
                "id": "order",
                "code": {"text": "order"},
                "subject": {"reference": f"Patient/{patient}"},
            }
        ],
    )
    url = f"{BASE}/Patient/{patient}"
    assert envelope_of(message)["subject"]["reference"] == url
    found = received(message)
    assert found["subject"]["reference"] == url
    assert found["contained"][0]["subject"]["reference"] == url


async def test_a_message_with_blind_copies_has_none(world: World) -> None:
    role = {"url": TERMS.extension("recipient-role"), "valueCode": "bcc"}
    blind = {
        "extension": [role],
        "identifier": {
            "system": "urn:ietf:rfc:3986",
            "value": "mailto:zoe@direct.lakeview.example",
        },
    }
    recipients = [*communication()["recipient"], blind]
    found = await told(world, **{**MORE, "recipient": recipients})
    assert set(found.values()) == {"This element does not travel."}
    for number in (-1, -2):
        assert "communication.fhir.json" not in [
            p.get_filename() for p in parts(world.outbox.message(number))
        ]


async def test_one_that_is_too_large_is_not_sent_and_that_is_told(world: World) -> None:
    note = {"text": "x" * (1024 * 1024 - 1)}
    found = await told(world, note=[note, note, note])
    assert found == {"Communication.note": "This element does not travel."}
    assert parts(world.outbox.message()) == []


async def test_one_of_too_many_objects_is_neither_sent_nor_read(world: World) -> None:
    notes = [{"text": "x"}] * OBJECTS_MAX
    found = await told(world, note=notes)
    assert found == {"Communication.note": "This element does not travel."}
    forged = changed(await sent(world, **MORE), lambda bundle: focus(bundle).update(note=notes))
    assert received(forged) == received(forged, Reading())


async def test_a_reply_agrees_with_its_headers(world: World) -> None:
    first = await world.receive(
        b"From: ben@direct.lakeview.example\r\nTo: anna@direct.hillside.example\r\n"
        b"Message-ID: <a%b@x.example>\r\n\r\nx"
    )
    message = await sent(
        world, **{**MORE, "inResponseTo": [{"reference": f"Communication/{first}"}]}
    )
    found = received(message)
    assert was_read(found)
    assert found["inResponseTo"][0]["identifier"]["value"] == "mid:a%25b@x.example"


async def test_html_and_its_text_agree(world: World) -> None:
    role = {
        "url": TERMS.extension("mime-part"),
        "extension": [{"url": "role", "valueCode": "body-html"}],
    }
    html = {
        "extension": [role],
        "contentAttachment": {"contentType": "text/html", "data": "PGI+YQpiPC9iPg=="},
    }
    found = received(await sent(world, language="de", payload=[html, {"contentString": "a b"}]))
    assert was_read(found)
    assert [mime_role(p) for p in found["payload"]] == ["body-html", "body"]
    alone = received(await sent(world, language="de", payload=[html]))
    assert was_read(alone)
    assert [mime_role(p) for p in alone["payload"]] == ["body", "body-html"]


def mime_role(payload: dict[str, Any]) -> Any:
    [part] = [e for e in payload["extension"] if e["url"] == TERMS.extension("mime-part")]
    return extension_value({"extension": part["extension"]}, "role")


async def test_attachments_of_the_same_octets_are_told_apart_by_their_titles(world: World) -> None:
    payload = [
        {
            "contentAttachment": {
                "contentType": "text/plain",
                "title": t,
                "language": t,
                "data": "YQ==",
            }
        }
        for t in ("de", "en", "fr")
    ]
    found = received(await sent(world, payload=payload))
    assert [
        (a["title"], a["language"]) for p in found["payload"] if (a := p["contentAttachment"])
    ] == [("de", "de"), ("en", "en"), ("fr", "fr")]


async def test_what_is_sent_on_loses_the_mark(world: World) -> None:
    message = await sent(world, **MORE)
    identity = await world.receive(message.replace(ANNA.encode(), BEN.encode()))
    stored = (await world.http.get(f"/Communication/{identity}")).json()
    assert "envelope=direct-message" in json.dumps(stored["payload"])
    again = await sent(world, payload=stored["payload"])
    assert b"envelope=" not in again
    assert not was_read(received(again))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a/fhir+json; fhirVersion=4.0; envelope=direct-message", "a/fhir+json; fhirVersion=4.0"),
        ("a/b;Envelope = x", "a/b"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("a/b", "a/b"),
    ],
)  # fmt: skip
def test_the_mark_alone_is_taken_off(given: str, kept: str) -> None:
    assert unmarked(given) == kept


def focus(bundle: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = bundle["entry"][1]["resource"]
    return whole


def of_focus(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda bundle: focus(bundle).update(values)


def mailto(address: str) -> dict[str, Any]:
    return {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}}


def mid(value: str) -> dict[str, Any]:
    return {"system": "urn:ietf:rfc:3986", "value": f"mid:{value}"}


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "sender": of_focus(sender=mailto("ceo@direct.lakeview.example")),
    "no-sender": lambda b: focus(b).pop("sender"),
    "recipients": of_focus(recipient=[mailto(BEN), mailto("zoe@direct.lakeview.example")]),
    "no-recipients": lambda b: focus(b).pop("recipient"),
    "recipient-in-another-role": lambda b: focus(b)["recipient"][0]["extension"][0].update(
        valueCode="cc"),
    "subject-line": of_focus(topic={"text": "Pay this"}),
    "no-subject-line": lambda b: focus(b).pop("topic"),
    "message-id": of_focus(identifier=[mid("other@direct.hillside.example")]),
    "answered": of_focus(inResponseTo=[{"identifier": mid("other@x.example")}]),
    "answered-by-reference": of_focus(inResponseTo=[{"reference": "https://x.example/Communication/1"}]),
    "time": of_focus(sent="2020-01-01T00:00:00Z"),
    "time-that-is-a-year": of_focus(sent="2020"),
    "priority": of_focus(priority="urgent"),
    "text": lambda b: focus(b)["payload"][1].update(contentString="First!"),
    "one-text-less": lambda b: focus(b)["payload"].pop(),
    "attachment-missing": lambda b: focus(b)["payload"].pop(0),
    "attachment-twice": lambda b: focus(b)["payload"].append(focus(b)["payload"][0]),
    "digest": lambda b: focus(b)["payload"][0]["extension"][0]["extension"][0].update(
        valueString="00" * 32),
    "no-digest": lambda b: focus(b)["payload"][0].pop("extension"),
    "a-document-elsewhere": lambda b: focus(b)["payload"][0].update(
        contentReference={"reference": "https://x.example/Binary/1"}, contentAttachment=None),
    "no-payload": lambda b: focus(b).pop("payload"),
    "source": lambda b: b["entry"][0]["resource"]["source"].update(endpoint="mailto:x@y.example"),
    "event": lambda b: b["entry"][0]["resource"]["eventCoding"].update(code="send-direct"),
    "focus": lambda b: b["entry"][0]["resource"].update(focus=[{"reference": "urn:uuid:0"}]),
    "another-resource": lambda b: b["entry"].append(
        {"fullUrl": "urn:uuid:5a6c3b2e-0d3f-4a52-8f0e-6a2f6f0f1c11", "resource": PATIENT}),
    "another-type": lambda b: b["entry"][1].update(resource={"resourceType": "Patient"}),
    "no-message": lambda b: b.update(type="collection"),
    "wrong-type": of_focus(note="a string"),
    "wrong-types-deep": of_focus(category=[[1]], extension=[{"url": 7}]),
    "null": of_focus(category=[None]),
    "unknown-element": of_focus(recieved="2026"),
    "empty": of_focus(note=[]),
    "dangling": of_focus(encounter={"reference": "#nobody"}),
    "a-loop-that-nothing-refers-to": lambda b: focus(b)["contained"].append(
        {"resourceType": "Patient", "id": "loose"}),
    "no-resource": lambda b: b["entry"][1].pop("resource"),
    "no-header": lambda b: b["entry"].pop(0),
    "no-entries": lambda b: b.update(entry=[]),
}  # fmt: skip


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED.keys())
async def test_one_that_does_not_agree_is_an_attachment(
    world: World, change: Callable[[dict[str, Any]], object]
) -> None:
    message = await sent(world, **MORE)
    assert was_read(received(changed(message, lambda _: None)))
    forged = changed(message, change)
    assert received(forged) == received(forged, Reading())
    assert len(titles(received(forged))) == 3


OCTETS = {
    "no-json": b"\xff\x00{",
    "empty": b"",
    "a-list": b"[]",
    "deep": b'{"resourceType":"Bundle","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep-objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "twice": b'{"resourceType":"Bundle","type":"message","type":"message"}',
    "too-large": b" " * (ENVELOPE_OCTETS_MAX + 1),
    "many-elements": b'{"resourceType":"Bundle","entry":[' + b"1," * 500_000 + b"1]}",
    "nan": b'{"resourceType":"Bundle","x":NaN}',
}


@pytest.mark.parametrize("octets", OCTETS.values(), ids=OCTETS.keys())
async def test_what_is_no_envelope_is_an_attachment(world: World, octets: bytes) -> None:
    message = replaced(await sent(world, **MORE), octets)
    assert received(message) == received(message, Reading())


async def test_of_several_none_is_read(world: World) -> None:
    message = await sent(world, **MORE)
    parsed = message_from_bytes(message, policy=policy.SMTP)
    [part] = [p for p in parsed.iter_attachments() if "fhir" in p.get_content_type()]
    parsed.attach(part)
    twice = parsed.as_bytes()
    assert received(twice) == received(twice, Reading())


async def test_one_whose_type_is_not_marked_is_an_attachment(world: World) -> None:
    message = (await sent(world, **MORE)).replace(b"; envelope=direct-message", b"")
    assert received(message) == received(message, Reading())


async def test_one_of_a_notification_is_not_read(world: World) -> None:
    message = await sent(world, **MORE)
    assert not was_read(received(message, notice=NoticeShown("mdn", None)))


async def test_what_only_the_gateway_states_is_never_taken(world: World) -> None:
    message = await sent(world, **MORE)
    plain = received(message, Reading())

    def forge(bundle: dict[str, Any]) -> None:
        claims = ["direct-trust", "delivery", "thread-id", "raw-message", "direction", "partial",
                  "envelope", "patient-conflict", "duplicate-message-id"]  # fmt: skip
        focus(bundle)["extension"] += [
            {"url": TERMS.extension(name), "valueString": "forged"} for name in claims
        ]
        focus(bundle).update(
            id="forged",
            meta={"security": [{"code": "forged"}], "tag": [{"code": "forged"}]},
            text={
                "status": "generated",
                "div": '<div xmlns="http://www.w3.org/1999/xhtml">forged</div>',
            },
            status="entered-in-error",
            statusReason={"text": "forged"},
            received="2020-01-01T00:00:00Z",
            partOf=[{"reference": "Communication/forged"}],
            medium=[{"text": "forged"}],
        )
        focus(bundle)["sender"]["display"] = "forged"
        focus(bundle)["recipient"][0]["display"] = "forged"
        focus(bundle)["payload"][0]["contentAttachment"].update(
            title="forged", contentType="forged/x", url="https://forged.example/x", size=1
        )
        focus(bundle)["identifier"] += [
            mid("forged@x.example"),
            {"system": "urn:x", "value": " MID:forged@x.example"},
            {"system": TERMS.namespace("thread"), "value": "forged"},
        ]
        focus(bundle)["category"].append(
            {"coding": [{"system": TERMS.system("notice"), "code": "mdn", "display": "forged"}]}
        )

    found = received(changed(message, forge))
    assert was_read(found)
    assert "forged" not in json.dumps(found)
    stated = ("id", "status", "received", "medium", "sender", "recipient", "sent")
    assert elements(found, *stated, "partOf") == elements(plain, *stated, "partOf")
    ours = [e for e in found["extension"] if e["url"].startswith(OURS) and e["url"] != MARK]
    assert ours == [e for e in plain["extension"] if e["url"].startswith(OURS)]


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/5a6c3b2e-0d3f-4a52-8f0e-6a2f6f0f1c11",
        "Patient/5a6c3b2e-0d3f-4a52-8f0e-6a2f6f0f1c11/_history/1",
        "Patient?name=x",
        f"{THERE}/Patient/5a6c3b2e-0d3f-4a52-8f0e-6a2f6f0f1c11",
        f"{THERE.replace('gw', 'GW')}/Patient/5a6c3b2e-0d3f-4a52-8f0e-6a2f6f0f1c11",
        "javascript:alert(1)",
        "file:///etc/passwd",
    ],
)
async def test_no_reference_names_a_resource_of_the_receiving_server(
    world: World, reference: str
) -> None:
    message = await sent(world, **MORE)

    def point(bundle: dict[str, Any]) -> None:
        there = {"reference": reference, "display": "somebody"}
        visit = reference.replace("Patient", "Encounter")
        focus(bundle).update(about=[there], encounter={"reference": visit})
        focus(bundle)["extension"].append({"url": "https://x.example/e", "valueUrl": reference})
        focus(bundle)["contained"][0]["managingOrganization"] = {"display": "x"}

    found = received(changed(message, point))
    assert was_read(found)
    assert found["about"] == [{"display": "somebody"}]
    assert "encounter" not in found
    assert reference not in json.dumps(found)


async def test_contained_resources_that_refer_to_each_other_end(world: World) -> None:
    contained = [
        {"resourceType": "Organization", "id": "a", "partOf": {"reference": "#b"}},
        {"resourceType": "Organization", "id": "b", "partOf": {"reference": "#a"}},
    ]
    found = received(await sent(world, contained=contained, about=[{"reference": "#a"}]))
    assert found["contained"] == contained


async def test_contained_names_of_the_gateway_are_its_own(world: World) -> None:
    contained = [
        {"resourceType": "Practitioner", "id": "sender", "name": [{"text": "Somebody else"}]},
        {"resourceType": "Patient", "id": "p1", "name": [{"text": "C. Helberg"}]},
        {"resourceType": "Patient", "id": "patient", "name": [{"text": "Her mother"}]},
        {"resourceType": "Encounter", "id": "visit", "status": "planned",
         "class": {"code": "AMB"}, "subject": {"reference": "#p1"}},
    ]  # fmt: skip
    found = received(
        await sent(
            world,
            contained=contained,
            subject={"reference": "#p1"},
            encounter={"reference": "#visit"},
            about=[{"reference": "#sender"}, {"reference": "#patient"}],
        )
    )
    by_name = {item["id"]: item for item in found["contained"]}
    assert "sender" not in by_name
    assert by_name["patient"]["name"] == [{"text": "C. Helberg"}]
    assert by_name["visit"]["subject"] == {"reference": "#patient"}
    names = [by_name[each["reference"][1:]]["name"][0]["text"] for each in found["about"]]
    assert names == ["Somebody else", "Her mother"]


async def test_a_hundred_names_in_the_title_do_no_harm(world: World) -> None:
    title = re.sub(r"x", "x\u202e", "x" * 100)
    payload = [
        {"contentString": "a"},
        {"contentAttachment": {"contentType": "text/plain", "title": title, "data": "YQ=="}},
    ]
    assert was_read(received(await sent(world, language="de", payload=payload)))
