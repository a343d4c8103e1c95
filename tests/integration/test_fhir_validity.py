"""Every resource that the API emits passes three validators of other makers (fhir.md 1.7 rule 6).

They complement each other: npm `fhir` knows bindings and reference types, fhirkit primitives,
fhir.resources choices and cardinalities. One story makes the API say everything that it can say.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import fhirkit
import httpx
from fhir.resources.R4B import get_fhir_model_class

from certs.address import parse_address
from certs.errors import Reason
from fhir_bridge.access import Access
from fhir_bridge.audit_api import audit_event
from fhir_bridge.definitions import TYPES
from fhir_bridge.delivery import RecipientState
from fhir_bridge.export_api import SETTLED
from fhir_bridge.hook_calls import Event
from fhir_bridge.inbound import NoticeShown, Reading
from fhir_bridge.operation_definitions import OPERATIONS
from fhir_bridge.records import delivery_changed
from fhir_bridge.search_definitions import search_parameters
from fhir_bridge.socket_protocol import event_bundle, handshake_bundle
from fhir_bridge.terms import InboundStatus
from gateway import audit
from gateway.access_trail import AccessTrail
from gateway.sample_ccda import continuity_of_care_document
from tests.helpers.fhir_site import CLIENTS
from tests.helpers.xdm import metadata, package
from tests.properties.test_fhir_envelope import GIVEN, bundle_of, carried
from tests.unit.fhir_bridge.conftest import (
    ANNA,
    BASE,
    BEN,
    NOW,
    TERMS,
    TRUST,
    World,
    communication,
    empty_database,
    sqlite_database,
    world,
)
from tests.unit.fhir_bridge.test_derived import ccda, mail
from tests.unit.fhir_bridge.test_directory import MINIMAL, direct
from tests.unit.fhir_bridge.test_forwarded import outer
from tests.unit.fhir_bridge.test_hl7v2 import ADT
from tests.unit.fhir_bridge.test_hl7v2 import mail as mail_of_parts
from tests.unit.fhir_bridge.test_process_message import message as message_about
from tests.unit.fhir_bridge.test_tnef import WINMAIL
from tests.unit.fhir_bridge.test_tnef import mail as mail_of_winmail
from tests.unit.fhir_bridge.test_xdm import mail as mail_of_package

__all__ = ["empty_database", "sqlite_database", "world"]

# R4 has no SubscriptionStatus; the websocket needs it, as fhir.md 1.8 says. R4B has it.
ONLY_R4B = {"SubscriptionStatus"}
PLAIN = (
    f"From: Ben Ray <{BEN}>\r\nTo: Anna <{ANNA}>, other@direct.hillside.example\r\n"
    "Cc: cc@direct.lakeview.example\r\nSubject: =?utf-8?q?Caf=C3=A9?=\r\n"
    "Date: not a date\r\nImportance: high\r\nReply-To: desk@direct.lakeview.example\r\n"
    "References: <0@x.example>\r\nIn-Reply-To: <0@x.example>\r\nMessage-ID: <2@x.example>\r\n"
    "Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    "--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n"
    "--c\r\nContent-Type: text/plain; charset=x-unknown\r\n\r\nt\xe9xt\r\n"
    "--c\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--c--\r\n"
    "--b\r\nContent-Type: image/png; name=a.png\r\nContent-ID: <i@x>\r\n"
    "Content-Disposition: inline\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw==\r\n"
    "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nbody\r\n--b--\r\n"
).encode("latin-1")


async def test_everything_the_api_emits_is_valid(world: World) -> None:
    emitted: list[dict[str, Any]] = []

    async def keep(response: httpx.Response) -> None:
        await response.aread()
        kind = response.headers.get("content-type", "")
        if kind.startswith("application/fhir+ndjson"):
            emitted.extend(map(json.loads, response.text.splitlines()))
        elif kind.startswith("application/fhir+json"):
            emitted.append(response.json())

    world.http.event_hooks["response"] = [keep]
    await fill(world)
    await receive(world)
    await send(world)
    await look_around(world)
    await tell(world)
    await export(world)
    await go_wrong(world)
    emitted += socket_bundles(emitted)
    emitted += await audit_events(world)
    emitted.append(bundle_of(carried(GIVEN, {})))
    everything = list({json.dumps(r, sort_keys=True): r for r in map_all(emitted)}.values())
    kinds = {resource["resourceType"] for resource in everything}
    # Issue 7, point 2, and whatever else is served.
    assert kinds >= {
        "Appointment", "AuditEvent", "Binary", "Bundle", "CapabilityStatement", "CarePlan",
        "CareTeam", "Communication", "CommunicationRequest", "Device", "DocumentReference",
        "Endpoint", "Group", "HealthcareService", "List", "Media", "OperationDefinition",
        "OperationOutcome", "Organization", "Parameters", "Patient", "Practitioner",
        "MessageDefinition", "MessageHeader", "PractitionerRole", "Provenance", "SearchParameter",
        "Subscription", "Task",
    }  # fmt: skip
    assert kinds >= TYPES.keys()
    known = [r4(r) for r in everything if r["resourceType"] not in ONLY_R4B]
    problems = [*by_models(everything), *by_fhirkit(known), *await by_npm(known)]
    assert not problems, "\n".join(sorted(set(problems))[:40])


async def fill(world: World) -> None:
    """Store one of every type that a client may write, as small as it may be."""
    for kind in TYPES.values():
        if "create" in kind.interactions and kind.name != "Binary":
            body = {"resourceType": kind.name, **MINIMAL.get(kind.name, {})}
            answer = await world.http.post(f"/{kind.name}", json=body)
            assert answer.status_code == 201, answer.text
    for person in (ANNA, BEN):
        body = {"resourceType": "Practitioner", "telecom": [direct(person)]}
        await world.http.post("/Practitioner", json=body)


async def audit_events(world: World) -> list[dict[str, Any]]:
    """What an administrator reads of the trail: what clients did, and what the gateway did."""
    trail = AccessTrail(world.database)
    await trail.record(
        [
            Access(NOW, "ehr", interaction, target, status)
            for interaction in ("read", "create", "search-system", "bundle", "send-direct")
            for target, status in (
                ("/", 500),
                ("Communication", 200),
                (f"Communication/{UUID(int=1)}", 403),
            )
        ]
    )
    await world.database.write(
        lambda c: audit.record(
            c,
            now=NOW,
            actor="backbone",
            action="communication-received",
            subject=f"Communication/{UUID(int=2)}",
            outcome="trusted",
        )
    )
    found = await trail.events(before=None, limit=100, actor=None, action=None)
    return [audit_event(event, TERMS) for event in found]


async def receive(world: World) -> None:
    """Mail with everything in it, documents of two patients, and mail of nobody to nobody."""
    document = continuity_of_care_document(now=NOW)
    for message in (
        PLAIN,
        PLAIN.replace(b"Caf", b"Tea"),  # the same Message-ID again
        mail(document),
        mail(document, continuity_of_care_document(now=NOW, seed=1)).replace(b"<1@", b"<3@"),
        b"To: undisclosed-recipients:;\r\nContent-Type: text/html\r\n\r\n<p>only</p>\r\n",
        b"\r\n",
        mail_of_package(package(document)),
        mail_of_package(package(ccda("Other"))),
        mail_of_package(package(b"%PDF", about=metadata(b"%PDF", sha1="0" * 40))),
        PLAIN.replace(b"<2@", b"<5@").replace(b"Importance: high", b"Importance: low"),
        mail_of_parts(ADT, ADT.replace(b"Helberg", b"Other")),
        mail_of_winmail(WINMAIL),
        PLAIN.replace(b"<2@", b"<6@").replace(b"Reply-To:", b"Sender:"),
    ):
        await world.receive(message)
    for kind in ("mdn", "dsn"):
        await world.receive(
            PLAIN.replace(b"<2@", b"<7@"), notice=NoticeShown(kind, "<2@x.example>")
        )
    enveloped = carried(GIVEN, {})
    await world.receive(enveloped, reading=Reading(envelopes=True))
    attached = await world.receive(outer(PLAIN, enveloped))
    await world.http.get(f"/Communication/{attached}/$forwarded")
    await world.receive(PLAIN.replace(b"<2@", b"<8@"), status=InboundStatus.IN_PROGRESS)
    for trust in (
        replace(TRUST, binding="address-bound"),
        replace(TRUST, signed_at=None),
        replace(TRUST, signature=None, bundle="https://bundles.example/one.p7b"),
    ):
        await world.receive(PLAIN.replace(b"<2@", b"<9@"), trust=trust)


async def send(world: World) -> None:
    """Send in every way, and let everything become of it that can."""
    world.preflight.reasons["no@direct.lakeview.example"] = Reason.CERTIFICATE_NOT_FOUND
    binary = await world.http.post("/Binary?_filename=a.bin", content=b"\x00octets")
    attachment = {"url": f"Binary/{binary.json()['id']}", "title": "a.bin"}
    body = communication(
        payload=[
            {"contentString": "x"},
            {"contentAttachment": attachment},
            {"contentAttachment": {"contentType": "text/xml", "data": "PGEvPg=="}},
        ],
        priority="urgent",
        language="en",
    )
    await world.http.post("/Communication", json=body)
    prefer = {"prefer": "return=OperationOutcome"}
    await world.http.post("/Communication", json=body, headers=prefer)
    await world.http.post("/Communication/$preflight", json=communication())
    request = {**communication(), "resourceType": "CommunicationRequest", "status": "active"}
    del request["topic"]
    await world.http.post("/CommunicationRequest", json=request)
    codes = ("relayed", "processed", "dispatched", "failed", "refused", "held")
    for number, code in enumerate(codes):
        world.now += timedelta(seconds=1)
        sent = (await world.http.post("/Communication", json=communication())).json()
        reason = Reason.BACKBONE_REFUSED if code in ("failed", "refused") else None
        state = RecipientState(parse_address(BEN), code, world.now, reason, "5.1.1")
        message = world.outbox.ids[-1]
        await world.database.write(
            lambda c, m=message, s=state: delivery_changed(
                c, message=m, states=lambda: [s], now=world.now
            )
        )
        await world.http.get(f"/Communication/{sent['id']}")
        if number == 3:
            await world.http.post(f"/Communication/{sent['id']}/$resend")


async def look_around(world: World) -> None:
    """Read everything, in every form that there is."""
    for channel in ({"type": "websocket"}, {"type": "email", "endpoint": f"mailto:{BEN}"}):
        made = await world.http.post(
            "/Subscription",
            json={
                "resourceType": "Subscription",
                "status": "requested",
                "reason": "x",
                "criteria": "Communication?",
                "channel": channel,
            },
        )
        await world.http.get(f"/Subscription/{made.json()['id']}/$get-ws-binding-token")
    patient = {"resourceType": "Patient", "name": [{"family": "Helberg"}]}
    made = await world.http.post("/Patient", json=patient)
    await world.http.put(f"/Patient/{made.json()['id']}", json={**made.json(), "active": True})
    entry = {"request": {"method": "POST", "url": "Patient"}, "resource": patient}
    wrong = {"request": {"method": "GET", "url": "Patient/nobody"}}
    for kind, entries in (("batch", [entry, wrong]), ("transaction", [entry])):
        await world.http.post("", json={"resourceType": "Bundle", "type": kind, "entry": entries})
    await world.http.get("/metadata")
    await world.http.get("/MessageDefinition/send-direct")
    for operation in OPERATIONS:
        await world.http.get(f"/OperationDefinition/{operation.name}")
    for path in (
        "/Communication?_count=200&_include=*&_revinclude=Provenance:target&_total=accurate",
        "/Communication?_elements=topic&_count=3",
        "/Communication?_summary=count",
        "/Communication?subject:missing=true&_count=1",
        "/Communication/$inbox",
        "/Communication/_history?_count=200",
        "/_history?_count=500",
        "/CommunicationRequest",
        "/Task?_count=200",
        "/Provenance?_count=200",
        "/DocumentReference?_count=200",
        "/AuditEvent?_count=200",
        "/Subscription",
        "/List?_count=200",
        "?_count=41",
        "?_type=Patient,Practitioner,Task&_count=100",
        *(f"/{kind}?_count=10" for kind in TYPES if kind not in ("AuditEvent", "Binary")),
        *(f"/SearchParameter/{name}" for name in search_parameters()),
    ):
        await world.http.get(path)
    newest = (await world.http.get("/Communication?direction=inbound&_count=1")).json()
    identity = newest["entry"][0]["resource"]["id"]
    await world.http.post(f"/Communication/{identity}/$mark-read")
    binaries = (await world.http.get("/Communication?_count=200")).text
    binary = binaries.partition('"Binary/')[2][:36]
    await world.http.get(f"/Binary/{binary}", headers={"accept": "application/fhir+json"})


async def tell(world: World) -> None:
    """Post messages: one that is sent, one that reaches nobody, one that is not served."""
    sender = {"reference": "urn:uuid:1b0c5a1e-1111-4e1e-8f4b-1c2d3e4f5a6b"}
    anna = {"resourceType": "Practitioner", "telecom": [direct(ANNA)]}
    bundle = message_about(
        ("urn:uuid:2b0c5a1e-1111-4e1e-8f4b-1c2d3e4f5a6b", communication(sender=sender)),
        (sender["reference"], anna),
    )
    bundle["entry"][0]["resource"]["focus"] = [{"reference": bundle["entry"][1]["fullUrl"]}]
    await world.http.post("/$process-message", json=bundle)
    world.outbox.codes = {BEN: ("refused", Reason.NOT_TRUSTED)}
    for number, focus in enumerate(([bundle["entry"][1]["fullUrl"]], [])):
        header = {**bundle["entry"][0]["resource"], "id": f"m-{number + 2}"}
        header["focus"] = [{"reference": url} for url in focus] or [{"display": "nothing"}]
        other = {**bundle, "entry": [{**bundle["entry"][0], "resource": header}]}
        other["entry"] += bundle["entry"][1:]
        other["identifier"] = {"system": "urn:ietf:rfc:3986", "value": f"urn:x:{number}"}
        await world.http.post("/$process-message", json=other)
    world.outbox.codes = {}


async def export(world: World) -> None:
    """Export everything, and what is gone."""
    made = await world.http.post("/Patient", json={"resourceType": "Patient"})
    await world.http.delete(f"/Patient/{made.json()['id']}")
    asked = {"prefer": "respond-async"}
    begun = await world.http.get("/$export?_since=2025-01-01", headers=asked)
    world.now += SETTLED
    manifest = (await world.http.get(begun.headers["content-location"])).json()
    assert manifest["output"]
    for file in (*manifest["output"], *manifest["deleted"]):
        assert (await world.http.get(file["url"])).content


async def go_wrong(world: World) -> None:
    """Provoke errors of every kind."""
    await world.http.get("/Communication/nobody")
    await world.http.get("/Nothing")
    await world.http.get("/Communication?sent=banana")
    await world.http.get("/Communication", headers={"authorization": "Bearer nobody"})
    await world.http.post("/Communication", content=b"{")
    await world.http.post("/Communication", json={"resourceType": "Communication", "x": []})
    await world.http.post("/Communication", json=communication(recipient=[{"display": "x"}]))
    await world.http.post("/Communication/$validate", json=communication(status="banana"))
    await world.http.post("/Communication/$validate", json=communication())
    await world.http.post("/Subscription", json={"resourceType": "Subscription"})


def socket_bundles(emitted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What goes over a websocket, of the first Communication."""
    first = next(r for r in emitted if r["resourceType"] == "Communication")
    event = Event(UUID(first["id"]), f"Communication/{first['id']}", 1, json.dumps(first))
    return [
        handshake_bundle(event.id, "active", NOW),
        event_bundle(event.id, "active", event, 1, BASE, NOW),
    ]


def map_all(resources: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each resource, and each one within a Bundle."""
    for resource in resources:
        yield resource
        for entry in resource.get("entry", []):
            yield from map_all([r for r in (entry.get("resource"),) if r])
            yield from map_all([r for r in (entry.get("response", {}).get("outcome"),) if r])


def by_models(resources: list[dict[str, Any]]) -> Iterator[str]:
    for resource in resources:
        try:
            get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        except ValueError as error:
            yield f"fhir.resources: {resource['resourceType']}: {error}"


def by_fhirkit(resources: list[dict[str, Any]]) -> Iterator[str]:
    for resource in resources:
        for issue in fhirkit.validate(json.dumps(resource)):
            yield f"fhirkit: {issue}"


async def by_npm(resources: list[dict[str, Any]]) -> list[str]:
    node = shutil.which("node")
    assert node, "this test needs Node 20 (apt install nodejs npm)"
    process = await asyncio.create_subprocess_exec(
        node,
        "validate.mjs",
        cwd=CLIENTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    lines = "\n".join(json.dumps(resource) for resource in resources)
    output, _ = await process.communicate(lines.encode())
    found = [json.loads(line) for line in output.splitlines()]
    assert len(found) == len(resources)
    return [f"npm fhir: {problem}" for problems in found for problem in problems]


def r4(resource: dict[str, Any]) -> dict[str, Any]:
    """The resource without the entries that only R4B knows."""
    entries = [
        entry
        for entry in resource.get("entry", [])
        if entry.get("resource", {}).get("resourceType") not in ONLY_R4B
    ]
    return (
        {**resource, "entry": entries}
        if entries
        else {name: value for name, value in resource.items() if name != "entry"}
    )
