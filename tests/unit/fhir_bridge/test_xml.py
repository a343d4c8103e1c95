"""XML: the same resources as in JSON, both ways, and nothing that XML could do besides."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from fhir_bridge.outcome import FhirError
from fhir_bridge.resources import check, dump, load
from fhir_bridge.xml_format import to_xml
from fhir_bridge.xml_reader import from_xml
from tests.unit.fhir_bridge.conftest import World, communication

XML = {"content-type": "application/fhir+xml"}
OPEN = '<Patient xmlns="http://hl7.org/fhir">'
EMPTY = '<Patient xmlns="http://hl7.org/fhir"/>'
DIV = '<div xmlns="http://www.w3.org/1999/xhtml">'
NARRATIVE = '<div xmlns="http://www.w3.org/1999/xhtml">a &amp; b<p/>é<!-- c --></div>'
PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "text": {"status": "generated", "div": NARRATIVE},
    "contained": [{"resourceType": "Organization", "id": "o", "name": 'A & "B" <C>\n\tD'}],
    "extension": [
        {"url": "https://x.example/a", "valueDecimal": Decimal("1.00")},
        {"url": "https://x.example/b", "extension": [{"url": "c", "valueBoolean": False}]},
    ],
    "active": True,
    "name": [{"given": ["Anna", None], "_given": [None, {"id": "second"}]}],
    "_birthDate": {"extension": [{"url": "https://x.example/c", "valueInteger": -3}]},
    "managingOrganization": {"reference": "#o"},
}


def read(body: str) -> dict[str, Any]:
    return from_xml(f'<Patient xmlns="http://hl7.org/fhir">{body}</Patient>'.encode())


def test_nothing_is_lost_between_json_and_xml() -> None:
    check(load(dump(PATIENT)))
    assert from_xml(to_xml(PATIENT)) == PATIENT
    assert dump(from_xml(to_xml(PATIENT))).count(b"1.00") == 1


def test_elements_stand_in_the_order_of_their_type() -> None:
    mixed = {"resourceType": "Patient", "birthDate": "2000-01-01", "active": True, "id": "a"}
    text = to_xml(mixed).decode()
    assert text.index("<id") < text.index("<active") < text.index("<birthDate")


def test_a_narrative_that_is_no_xhtml_is_shown_as_text() -> None:
    div = '<div xmlns="http://www.w3.org/1999/xhtml">a</div></text><active value="true"/>'
    patient = {"resourceType": "Patient", "text": {"status": "generated", "div": div}}
    found = from_xml(to_xml(patient))
    assert "active" not in found
    assert "&lt;active" in found["text"]["div"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f'<!DOCTYPE p [<!ENTITY a "b">]>{EMPTY}', id="doctype"),
        pytest.param(f'<!DOCTYPE p SYSTEM "file:///etc/passwd">{EMPTY}', id="external"),
        pytest.param(f'{OPEN}<active value="&a;"/></Patient>', id="entity"),
        pytest.param("", id="empty"),
        pytest.param("{}", id="json"),
        pytest.param("<Patient/>", id="no-namespace"),
        pytest.param('<Foo xmlns="http://hl7.org/fhir"/>', id="unknown-type"),
        pytest.param('<Element xmlns="http://hl7.org/fhir"/>', id="no-resource"),
        pytest.param(f'{OPEN}<active value="true"/>', id="cut-off"),
        pytest.param(f'<?xml version="1.0" encoding="utf-16"?>{OPEN}\xff', id="not-utf-8"),
    ],
)  # fmt: skip
def test_what_is_no_resource_is_refused(body: str) -> None:
    with pytest.raises(FhirError):
        from_xml(body.encode("latin-1"))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('<foo value="1"/>', id="unknown-element"),
        pytest.param('<active value="1"/>', id="boolean"),
        pytest.param('<active valve="true"/>', id="unknown-attribute"),
        pytest.param('<active value="true"/><active value="true"/>', id="repeated"),
        pytest.param("<active/>", id="no-value"),
        pytest.param("text", id="text"),
        pytest.param('<multipleBirthInteger value="1.5"/>', id="integer"),
        pytest.param('<multipleBirthInteger value="99999999999999999999"/>', id="huge-integer"),
        pytest.param('<extension url="x"><valueDecimal value="NaN"/></extension>', id="decimal"),
        pytest.param('<extension url="x"><valueDecimal value="1e99999"/></extension>', id="huge"),
        pytest.param("<contained><Patient/><Patient/></contained>", id="two-contained"),
        pytest.param("<contained><Foo/></contained>", id="unknown-contained"),
        pytest.param('<text><status value="generated"/><div>a</div></text>', id="div-of-fhir"),
        pytest.param('<div xmlns="http://www.w3.org/1999/xhtml">a</div>', id="misplaced-div"),
        pytest.param("<name>" * 200 + "</name>" * 200, id="wrong-nesting"),
        pytest.param('<extension url="x">' * 2000 + "</extension>" * 2000, id="deep"),
        pytest.param(f"<contained>{OPEN}" * 500 + "</Patient></contained>" * 500, id="deeper"),
        pytest.param(f"<text>{DIV}{'<b>' * 5000}{'</b>' * 5000}</div></text>", id="deep-narrative"),
        pytest.param('<name id="a"/>' * 100_001, id="many"),
    ],
)  # fmt: skip
def test_what_fhir_does_not_have_is_refused(body: str) -> None:
    with pytest.raises(FhirError) as caught:
        read(body)
    assert caught.value.status == 400


def test_control_characters_are_not_written() -> None:
    with pytest.raises(FhirError) as caught:
        to_xml({"resourceType": "Patient", "name": [{"text": "a\x01"}]})
    assert caught.value.status == 406


async def test_a_resource_goes_in_and_comes_out_as_xml(world: World) -> None:
    draft = communication(status="preparation")
    made = await world.http.post("/Communication", content=to_xml(draft), headers=XML)
    assert made.status_code == 201, made.text
    assert made.headers["content-type"].startswith("application/fhir+json")
    path = f"/Communication/{made.json()['id']}"
    for ask in ({"headers": {"accept": "application/fhir+xml"}}, {"params": {"_format": "xml"}}):
        answer = await world.http.get(path, **ask)  # type: ignore[arg-type]  # httpx's own union
        assert answer.headers["content-type"] == "application/fhir+xml; charset=utf-8"
        assert answer.headers["etag"] == 'W/"1"'
        assert from_xml(answer.content) == made.json()
    page = await world.http.get("/Communication?_format=application/fhir%2Bxml")
    assert from_xml(page.content)["entry"][0]["resource"] == made.json()


async def test_errors_are_xml_too(world: World) -> None:
    answer = await world.http.get("/Communication/none", headers={"accept": "text/xml"})
    assert answer.status_code == 404
    assert from_xml(answer.content)["resourceType"] == "OperationOutcome"


async def test_xml_is_judged_as_json_is(world: World) -> None:
    text = b'<Communication xmlns="http://hl7.org/fhir"><status value="banana"/></Communication>'
    answer = await world.http.post("/Communication", content=text, headers=XML)
    assert answer.status_code == 400
    assert answer.json()["issue"][0]["expression"] == ["Communication.status"]


async def test_xml_over_the_limit_is_refused(world: World) -> None:
    answer = await world.http.post("/Communication", content=b" " * 3_000_000, headers=XML)
    assert answer.status_code == 413


async def test_a_stranger_has_no_xml_read(world: World) -> None:
    headers = {**XML, "authorization": "Bearer wrong"}
    answer = await world.http.post("/Communication", content=b"<", headers=headers)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("headers", "query", "status", "kind"),
    [
        ({"accept": "application/fhir+json, */*; q=0.1"}, "", 200, "json"),
        ({"accept": "application/fhir+xml;q=0.5, application/fhir+json"}, "", 200, "json"),
        ({"accept": "text/html, application/xml;q=0.9, */*;q=0.8"}, "", 200, "xml"),
        ({"accept": "application/fhir+json; fhirVersion=4.0"}, "", 200, "json"),
        ({"accept": "application/fhir+json; fhirVersion=5.0"}, "", 406, "json"),
        ({"accept": "text/html"}, "", 406, "json"),
        ({"accept": "text/html"}, "?_format=json", 200, "json"),
        ({}, "?_format=html", 406, "json"),
        ({}, "?_pretty=true", 200, "json"),
        ({"accept": ";;q=x,,"}, "", 406, "json"),
    ],
)  # fmt: skip
async def test_the_answer_is_of_the_type_asked_for(
    world: World, headers: dict[str, str], query: str, status: int, kind: str
) -> None:
    answer = await world.http.get(f"/Communication{query}", headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith(f"application/fhir+{kind}")


async def test_another_version_of_fhir_is_not_taken(world: World) -> None:
    headers = {"content-type": "application/fhir+json; fhirVersion=5.0"}
    answer = await world.http.post("/Communication", content=b"{}", headers=headers)
    assert answer.status_code == 415


async def test_pretty_json_is_the_same_json(world: World) -> None:
    answer = await world.http.get("/Communication?_pretty=true")
    assert answer.text.count("\n") > 3
    assert answer.json()["resourceType"] == "Bundle"


async def test_an_uploaded_xml_document_stays_as_it_is(world: World) -> None:
    ccda = b"<ClinicalDocument xmlns='urn:hl7-org:v3'/>"
    headers = {"content-type": "application/xml"}
    made = (await world.http.post("/Binary", content=ccda, headers=headers)).json()
    path = f"/Binary/{made['id']}"
    assert (await world.http.get(path, headers={"accept": "application/xml"})).content == ccda
    shown = await world.http.get(path, headers={"accept": "application/fhir+xml"})
    assert from_xml(shown.content)["contentType"] == "application/xml"


async def test_the_capability_statement_names_both(world: World) -> None:
    statement = (await world.http.get("/metadata")).json()
    assert {"application/fhir+json", "application/fhir+xml"} <= set(statement["format"])
    assert from_xml(to_xml(statement)) == json.loads(json.dumps(statement))
