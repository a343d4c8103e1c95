from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from certs.errors import Reason
from fhir_bridge.ccda import read_document
from fhir_bridge.derived import SIGNATURE_OCTETS
from fhir_bridge.terms import extension_value, mailto_identifier
from fhir_bridge.trust import Trust
from tests.unit.fhir_bridge.conftest import BEN, TERMS, TRUST, World, communication
from tests.unit.fhir_bridge.test_communication_api import CARA, to
from tests.unit.fhir_bridge.test_inbound import seen

HEADER = """<?xml version="1.0" encoding="UTF-8"?>
<ClinicalDocument xmlns="urn:hl7-org:v3">
<templateId root="2.16.840.1.113883.10.20.22.1.1"/>
<templateId root="2.16.840.1.113883.10.20.22.1.1" extension="2015-08-01"/>
<id root="2.16.840.1.113883.19.5" extension="doc-1"/>
<code code="34133-9" codeSystem="2.16.840.1.113883.6.1" displayName="Summarization of episode"/>
<title>Continuity of Care  Document</title>
<effectiveTime value="20260102093000-0500"/>
<confidentialityCode code="N" codeSystem="2.16.840.1.113883.5.25"/>
<recordTarget><patientRole>
<id extension="444222222" root="2.16.840.1.113883.4.1"/>
<patient><name><given>Caroline</given><given>B.</given><family>{family}</family></name>
<name use="OLD"><given>Kathy</given><family>Former</family></name>
<administrativeGenderCode code="F" codeSystem="2.16.840.1.113883.5.1"/>
<birthTime value="19700501"/></patient></patientRole></recordTarget>
<author><assignedAuthor><assignedPerson><name><prefix>Dr.</prefix><given>Alice</given>
<family>Wells</family></name></assignedPerson></assignedAuthor></author>
<author><assignedAuthor><assignedPerson><name><given>Second</given></name></assignedPerson>
</assignedAuthor></author><custodian><assignedCustodian><representedCustodianOrganization>
<name>Lakeview Hospital</name></representedCustodianOrganization></assignedCustodian></custodian>
"""
BODY = "<component><structuredBody>&#x41;</structuredBody></component></ClinicalDocument>"


def ccda(family: str = "Helberg") -> bytes:
    return (HEADER.format(family=family) + BODY).encode()


def mail(*documents: bytes) -> bytes:
    parts = b"".join(
        b"--b\r\nContent-Type: text/xml\r\nContent-Transfer-Encoding: base64\r\n"
        b"Content-Disposition: attachment; filename=ccd.xml\r\n\r\n"
        + base64.b64encode(document)
        + b"\r\n"
        for document in documents
    )
    return (
        b"From: ben@direct.lakeview.example\r\nTo: anna@direct.hillside.example\r\n"
        b"Message-ID: <1@x.example>\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\n\r\ntext\r\n" + parts + b"--b--\r\n"
    )


async def found(world: World, query: str) -> list[Any]:
    entries = (await world.http.get(f"/{query}")).json().get("entry", [])
    for entry in entries:
        kind = entry["resource"]["resourceType"]
        get_fhir_model_class(kind).model_validate(entry["resource"])
    return [entry["resource"] for entry in entries]


async def test_a_clinical_document_is_described_and_its_patient_is_the_subject(
    world: World,
) -> None:
    identity = await world.receive(mail(ccda()))
    message = (await world.http.get(f"/Communication/{identity}")).json()
    get_fhir_model_class("Communication").model_validate(message)
    patient = next(r for r in message["contained"] if r["id"] == "patient")
    assert (patient["name"], patient["birthDate"], patient["gender"]) == (
        [{"family": "Helberg", "given": ["Caroline", "B."]}],
        "1970-05-01",
        "female",
    )
    assert message["subject"] == {"reference": "#patient"}
    [document] = await found(world, f"DocumentReference?related=Communication/{identity}")
    assert message["about"] == [{"reference": f"DocumentReference/{document['id']}"}]
    assert document["date"] == "2026-01-02T09:30:00-05:00"
    assert document["description"] == "Continuity of Care Document"
    assert document["type"]["coding"][0]["system"] == "http://loinc.org"
    assert document["masterIdentifier"]["value"] == "doc-1"
    assert document["author"] == [{"display": "Dr. Alice Wells"}]
    assert document["custodian"]["display"] == "Lakeview Hospital"
    assert document["content"][0]["format"] == {
        "system": "urn:oid:1.3.6.1.4.1.19376.1.2.3",
        "code": "urn:hl7-org:sdwg:ccda-structuredBody:2.1",
    }
    attachment = document["content"][0]["attachment"]
    assert attachment == message["payload"][1]["contentAttachment"]
    assert (await world.http.get(attachment["url"])).content == ccda()


async def test_documents_of_two_patients_leave_the_message_without_one(world: World) -> None:
    identity = await world.receive(mail(ccda(), ccda("Other")))
    message = (await world.http.get(f"/Communication/{identity}")).json()
    assert "subject" not in message
    assert extension_value(message, TERMS.extension("patient-conflict")) == {
        "reference": "#patient"
    }
    families = [r["name"][0]["family"] for r in message["contained"] if r["id"] != "sender"]
    assert families == ["Helberg", "Other"]
    assert len(await found(world, "DocumentReference")) == 2


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not xml", id="not-xml"),
        pytest.param(b"<a/>", id="other-root"),
        pytest.param(b"<ClinicalDocument/>", id="no-namespace"),
        pytest.param(ccda().replace(b"<title>", b"<title"), id="not-well-formed"),
        pytest.param(ccda().replace(b"<title>", b"<a>" * 100_000 + b"<title>"), id="too-deep"),
        pytest.param(
            ccda().replace(b"<Clin", b'<!DOCTYPE x [<!ENTITY a "b">]><Clin'),
            id="doctype",
        ),
        pytest.param(ccda().replace(b"<title>", b"<title>" + b"x" * 2_000_000), id="endless"),
    ],
)
async def test_what_is_no_clinical_document_is_an_attachment_only(
    world: World, document: bytes
) -> None:
    assert read_document([document]) is None
    await world.receive(mail(document))
    assert await found(world, "DocumentReference") == []


def test_a_document_without_a_body_is_read_to_its_end() -> None:
    document = read_document([(HEADER.format(family="x") + "</ClinicalDocument>").encode()])
    assert document is not None
    assert document.patient is not None


def test_a_bare_document_has_nothing_to_say() -> None:
    document = read_document([b'<ClinicalDocument xmlns="urn:hl7-org:v3"/>'])
    assert document is not None
    assert (document.identifier, document.code, document.patient) == (None, None, None)


async def test_the_trust_in_a_message_is_on_record(world: World) -> None:
    identity = await world.receive(mail(ccda()))
    [evidence] = await found(world, f"Provenance?target=Communication/{identity}")
    assert evidence["agent"][0]["who"]["identifier"]["value"] == f"mailto:{BEN}"
    kinds = [agent["type"]["coding"][0]["code"] for agent in evidence["agent"]]
    assert kinds == ["author", "transmitter", "verifier"]
    assert evidence["agent"][1]["who"]["display"] == "Lakeview Hospital"
    kinds = [target["reference"].partition("/")[0] for target in evidence["target"]]
    assert kinds == ["Communication", "DocumentReference", "Binary"]
    assert evidence["target"][2] == evidence["entity"][0]["what"]
    raw = await world.http.get(evidence["entity"][0]["what"]["reference"])
    assert raw.content == mail(ccda())
    put = await world.http.put(f"/Provenance/{evidence['id']}", json=evidence)
    assert put.status_code == 405


def provenance(trust: Trust) -> dict[str, Any]:
    found = seen(mail(), trust=trust).provenance
    assert found is not None
    get_fhir_model_class("Provenance").model_validate(found)
    return found


def test_the_signature_is_that_of_the_sender_where_the_certificate_is_theirs() -> None:
    found = provenance(replace(TRUST, binding="address-bound"))
    assert found["occurredDateTime"] == "2026-01-02T11:59:00Z"
    sender = {"identifier": mailto_identifier(BEN)}
    assert found["signature"] == [
        {
            "type": [
                {
                    "system": "urn:iso-astm:E1762-95:2013",
                    "code": "1.2.840.10065.1.12.1.14",
                    "display": "Source Signature",
                }
            ],
            "when": "2026-01-02T11:59:00Z",
            "who": sender,
            "targetFormat": "message/rfc822",
            "sigFormat": "application/pkcs7-signature",
            "data": base64.b64encode(b"the CMS").decode(),
        }
    ]


def test_an_organization_signs_on_behalf_of_the_sender() -> None:
    [signature] = provenance(TRUST)["signature"]
    assert signature["who"] == {"type": "Organization", "display": "Lakeview Hospital"}
    assert signature["onBehalfOf"]["identifier"] == mailto_identifier(BEN)


def test_a_time_of_signing_that_is_not_stated_is_not_made_up() -> None:
    found = provenance(replace(TRUST, signed_at=None))
    assert not found.keys() & {"occurredDateTime", "signature"}


@pytest.mark.parametrize(
    "octets", [pytest.param(None, id="opaque"), pytest.param(bytes(SIGNATURE_OCTETS + 1), id="big")]
)
def test_a_signature_around_the_message_or_too_large_is_stated_only(octets: bytes | None) -> None:
    [signature] = provenance(replace(TRUST, signature=octets))["signature"]
    assert "data" not in signature
    [whole] = provenance(replace(TRUST, signature=bytes(SIGNATURE_OCTETS)))["signature"]
    assert len(base64.b64decode(whole["data"])) == SIGNATURE_OCTETS


async def test_each_recipient_has_a_task(world: World) -> None:
    world.outbox.codes = {BEN: ("relayed", None), CARA: ("refused", Reason.NOT_TRUSTED)}
    posted = communication(recipient=[to(BEN), to(CARA)])
    sent = (await world.http.post("/Communication", json=posted)).json()
    query = f"Task?focus=Communication/{sent['id']}"
    tasks = {
        t["restriction"]["recipient"][0]["identifier"]["value"]: t
        for t in await found(world, query)
    }
    assert tasks[f"mailto:{BEN}"]["status"] == "in-progress"
    assert tasks[f"mailto:{CARA}"]["status"] == "failed"
    assert tasks[f"mailto:{CARA}"]["statusReason"]["coding"][0]["code"] == "not-trusted"
    mine = tasks[f"mailto:{BEN}"]
    assigned = {**mine, "owner": {"display": "Zoe"}}
    await world.http.put(f"/Task/{mine['id']}", json=assigned)
    world.outbox.codes = {BEN: ("dispatched", None)}
    await world.outbox.settled(world.outbox.ids[0], 0)
    task = (await world.http.get(f"/Task/{mine['id']}")).json()
    assert (task["status"], task["owner"]) == ("completed", {"display": "Zoe"})
