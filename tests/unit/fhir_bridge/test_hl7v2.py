"""The patient of an HL7 v2 message (fhir.md 3.3, row on the subject)."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.ccda import read_document
from fhir_bridge.documents import DISAGREEING_MAX
from fhir_bridge.hl7v2 import PATIENTS_MAX, SEGMENT_OCTETS_MAX, is_hl7v2, patients_in
from fhir_bridge.terms import extension_value
from tests.unit.fhir_bridge.conftest import TERMS, World
from tests.unit.fhir_bridge.test_derived import ccda
from tests.unit.fhir_bridge.test_directory import stored
from tests.unit.fhir_bridge.test_inbound import seen

MRN = "urn:oid:1.3.6.1.4.1.21367.2005.3.7"
MSH = b"MSH|^~\\&|EHR|Lakeview|||20260102093000-0500||ADT^A01^ADT_A01|1|P|2.5.1|||||||\r"
PID = (
    b"PID|1||6578946^^^Lakeview&1.3.6.1.4.1.21367.2005.3.7&ISO^MR~444222222^^^&"
    b"2.16.840.1.113883.4.1&ISO^SS||Helberg&Hel^Caroline^B.^^^^L~Former^Kathy|Mother"
    b"|19700501|F\r"
)
ADT = MSH + b"EVN|A01|20260102\r" + PID + b"PV1|1|I\r"


def patients(*blocks: bytes) -> list[dict[str, Any]]:
    found = list(patients_in(blocks))
    for patient in found:
        get_fhir_model_class("Patient").model_validate(patient)
    return found


def mail(*parts: bytes) -> bytes:
    encoded = (
        b"--b\r\nContent-Type: application/octet-stream; name=part.bin\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(part) + b"\r\n"
        if not part.startswith(b"<?xml")
        else b"--b\r\nContent-Type: text/xml\r\n\r\n" + part + b"\r\n"
        for part in parts
    )
    return (
        b"From: ben@direct.lakeview.example\r\nTo: anna@direct.hillside.example\r\n"
        b"Message-ID: <1@x.example>\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\n\r\ntext\r\n" + b"".join(encoded) + b"--b--\r\n"
    )


async def received(world: World, *parts: bytes) -> dict[str, Any]:
    identity = await world.receive(mail(*parts))
    resource: dict[str, Any] = (await world.http.get(f"/Communication/{identity}")).json()
    get_fhir_model_class("Communication").model_validate(resource)
    return resource


def test_the_patient_is_whom_the_pid_names() -> None:
    assert patients(ADT) == [
        {
            "resourceType": "Patient",
            "id": "patient",
            "identifier": [
                {"system": MRN, "value": "6578946"},
                {"system": "urn:oid:2.16.840.1.113883.4.1", "value": "444222222"},
            ],
            "name": [{"family": "Helberg", "given": ["Caroline", "B."]}],
            "birthDate": "1970-05-01",
            "gender": "female",
        }
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_it_does_not_matter_how_the_message_comes_in_pieces(size: int) -> None:
    assert patients(*(ADT[at : at + size] for at in range(0, len(ADT), size))) == patients(ADT)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(ADT.replace(b"\r", b"\n"), id="line-feeds"),
        pytest.param(ADT.replace(b"\r", b"\r\n"), id="both"),
        pytest.param(b"\x0b" + ADT + b"\x1c\r", id="framed-as-by-mllp"),
        pytest.param(b"\xef\xbb\xbf" + ADT, id="byte-order-mark"),
        pytest.param(ADT.replace(b"^~\\&", b"^~\\&#"), id="truncation-character"),
        pytest.param(ADT.removesuffix(b"\r"), id="no-last-end"),
        pytest.param(
            ADT.translate(bytes.maketrans(b"|^~\\&", b"!@*?%")), id="delimiters-of-its-own"
        ),
        pytest.param(
            ADT.replace(b"EVN|", b"OBX|" + b"A" * 3 * SEGMENT_OCTETS_MAX), id="long-segment"
        ),
        pytest.param(ADT + PID, id="the-same-twice"),
        pytest.param(ADT.replace(b"||Helberg", b'|""|Helberg'), id="null"),
    ],
)
def test_a_lawful_or_usual_form_is_read(message: bytes) -> None:
    assert is_hl7v2(message[:64])
    assert patients(message) == patients(ADT)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(rb"O\T\Brien\F\x", "O&Brien|x", id="escapes"),
        pytest.param(rb"Smith\H\ \X0D\II\.br\ ", "Smith II", id="formats-are-dropped"),
        pytest.param(rb"a\b", "a\\b", id="half-an-escape"),
        pytest.param("Müller".encode(), "Müller", id="utf-8"),
        pytest.param(b"  two \x07 words ", "two words", id="spaces-and-controls"),
    ],
)
def test_a_name_is_read_as_it_is_meant(name: bytes, family: str) -> None:
    [patient] = patients(ADT.replace(b"Helberg&Hel", name))
    assert patient["name"][0]["family"] == family


def test_the_message_says_its_character_set() -> None:
    latin = ADT.replace(b"2.5.1|||||||", b"2.5.1||||||8859/1|")
    [patient] = patients(latin.replace(b"Helberg&Hel", "Müller".encode("latin-1")))
    assert patient["name"][0]["family"] == "Müller"
    [patient] = patients(ADT.replace(b"Helberg&Hel", "Müller".encode("latin-1")))
    assert patient["name"][0]["family"] == "M�ller"


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        pytest.param(b"19700501", b"19701399", "birthDate", id="no-such-day"),
        pytest.param(b"19700501", b"unknown", "birthDate", id="no-date"),
        pytest.param(b"|F\r", b"|X\r", "gender", id="no-such-gender"),
        pytest.param(b"|F\r", b"|\r", "gender", id="no-gender"),
        pytest.param(b"&ISO", b"", None, id="type-left-out"),
        pytest.param(b"Helberg&Hel^Caroline^B.^^^^L", b"", "name", id="no-name"),
    ],
)
def test_what_cannot_be_read_is_left_out(before: bytes, after: bytes, gone: str | None) -> None:
    [whole], [patient] = patients(ADT), patients(ADT.replace(before, after))
    assert set(whole) - set(patient) == ({gone} if gone else set())


def test_an_identifier_of_an_authority_without_oid_is_left_out() -> None:
    [patient] = patients(MSH + b"PID|1||7^^^Lakeview^MR~8^^^&x&ISO~9||Helberg\r")
    assert "identifier" not in patient


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"MSH", id="head-only"),
        pytest.param(b"MSH is not what this is", id="words"),
        pytest.param(ADT.replace(b"^~\\&", b"^^^^"), id="one-delimiter-for-all"),
        pytest.param(ADT.replace(b"MSH", b"FHS"), id="batch"),
        pytest.param(MSH, id="no-pid"),
        pytest.param(MSH + b"PID\r", id="bare-pid"),
        pytest.param(MSH + b"PID|1||||||\r", id="empty-pid"),
        pytest.param(b"A" * 2 * SEGMENT_OCTETS_MAX + ADT, id="long-before"),
        pytest.param(MSH + b"PID|1||" + b"1" * SEGMENT_OCTETS_MAX + b"\r", id="endless-pid"),
    ],
)
def test_what_names_nobody_is_about_nobody(message: bytes) -> None:
    assert patients(message) == []


def test_there_is_an_end_to_patients_and_to_identifiers() -> None:
    many = b"".join(b"PID|1||%d^^^&1.2.3&ISO\r" % number for number in range(100))
    assert len(patients(MSH + many)) == PATIENTS_MAX
    ids = b"~".join(b"%d^^^&1.2.3&ISO" % number for number in range(100))
    [patient] = patients(MSH + b"PID|1||" + ids + b"\r")
    assert len(patient["identifier"]) == 10


@given(st.lists(st.sampled_from([ADT, MSH, PID, b"|", b"^", b"\\", b"\r", b"PID|"]) | st.binary()))
def test_any_octets_are_read_or_passed_over(blocks: list[bytes]) -> None:
    patients(MSH, *blocks)
    patients(*blocks)


async def test_the_patient_of_an_hl7_message_is_the_subject(world: World) -> None:
    message = await received(world, ADT)
    assert message["subject"] == {"reference": "#patient"}
    [patient] = [r for r in message["contained"] if r["id"] == "patient"]
    assert patient["name"][0]["family"] == "Helberg"
    # fhir.md 3.3: HL7 v2 stays a plain attachment.
    assert "about" not in message
    attachment = message["payload"][1]["contentAttachment"]
    assert (await world.http.get(attachment["url"])).content == ADT


async def test_a_known_patient_of_an_hl7_message_is_referred_to(world: World) -> None:
    known = await stored(world, "Patient", identifier=[{"system": MRN, "value": "6578946"}])
    message = await received(world, ADT)
    assert message["subject"] == {"reference": f"Patient/{known['id']}"}
    assert "contained" not in message or "patient" not in [r["id"] for r in message["contained"]]


async def test_a_document_is_believed_before_an_hl7_message_that_agrees(world: World) -> None:
    message = await received(world, ADT.replace(b"|F\r", b"|U\r"), ccda())
    [patient] = [r for r in message["contained"] if r["id"].startswith("patient")]
    assert patient["gender"] == "female"
    assert [i["value"] for i in patient["identifier"]] == ["444222222"]


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((ccda(), ADT.replace(b"Helberg&Hel", b"Other")), id="document"),
        pytest.param((ADT + PID.replace(b"Helberg&Hel", b"Other"),), id="two-pids"),
        pytest.param((ADT, ADT.replace(b"19700501", b"19700502")), id="two-messages"),
    ],
)
async def test_sources_that_disagree_leave_the_message_without_a_patient(
    world: World, parts: tuple[bytes, ...]
) -> None:
    message = await received(world, *parts)
    assert "subject" not in message
    assert extension_value(message, TERMS.extension("patient-conflict")) == {
        "reference": "#patient"
    }
    assert [r["id"] for r in message["contained"] if r["id"] != "sender"] == [
        "patient",
        "patient-2",
    ]


def test_there_is_an_end_to_the_patients_of_a_message() -> None:
    parts = (
        MSH + b"".join(b"PID|1||%d%d^^^&1.2.3&ISO\r" % (part, number) for number in range(10))
        for part in range(100, 400)
    )
    found = seen(mail(*parts)).communication
    assert sum(r["resourceType"] == "Patient" for r in found["contained"]) == DISAGREEING_MAX


def test_a_date_of_a_document_that_is_none_is_left_out() -> None:
    wrong = ccda().replace(b"19700501", b"19701399").replace(b"20260102", b"20261302")
    document = read_document([wrong])
    assert document is not None
    assert document.instant is None
    assert document.patient is not None
    assert document.patient.birth is None
