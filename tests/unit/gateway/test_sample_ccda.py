from __future__ import annotations

from datetime import timedelta
from xml.etree import ElementTree

import pytest

from gateway.sample_ccda import continuity_of_care_document
from tests.helpers.pki import NOW

V3 = "{urn:hl7-org:v3}"
SECTIONS = {
    "48765-2": "allergies",
    "10160-0": "medications",
    "11450-4": "problems",
    "30954-2": "results",
    "8716-3": "vital signs",
    "11369-6": "immunizations",
    "46240-8": "encounters",
    "47519-4": "procedures",
    "18776-5": "plan",
}


def document(seed: int = 0) -> ElementTree.Element:
    return ElementTree.fromstring(continuity_of_care_document(now=NOW, seed=seed))


@pytest.mark.parametrize("seed", range(5))
def test_is_a_clinical_document_of_about_100_kb(seed: int) -> None:
    octets = continuity_of_care_document(now=NOW, seed=seed)
    assert 90_000 <= len(octets) <= 130_000
    root = ElementTree.fromstring(octets)
    assert root.tag == f"{V3}ClinicalDocument"
    templates = {e.get("root") for e in root.findall(f"{V3}templateId")}
    assert "2.16.840.1.113883.10.20.22.1.2" in templates


def test_has_every_section_with_a_table_and_coded_entries() -> None:
    found = {}
    for section in document().iter(f"{V3}section"):
        code = section.find(f"{V3}code")
        assert code is not None
        found[code.get("code")] = section
        assert section.find(f"{V3}title") is not None
        assert section.find(f".//{V3}table/{V3}tbody/{V3}tr") is not None
        assert section.find(f".//{V3}entry//{V3}code[@codeSystem]") is not None
    assert set(found) == set(SECTIONS)


def test_names_a_patient() -> None:
    family = document().find(f".//{V3}patient/{V3}name/{V3}family")
    assert family is not None
    assert family.text == "Oyelaran"


def test_every_id_is_its_own() -> None:
    ids = [e.get("root", "") for e in document().iter(f"{V3}id") if e.get("extension") is None]
    own = [i for i in ids if i]
    assert len(own) == len(set(own))


def test_the_same_arguments_give_the_same_octets() -> None:
    assert continuity_of_care_document(now=NOW, seed=3) == continuity_of_care_document(
        now=NOW, seed=3
    )


def test_seed_and_time_change_it() -> None:
    first = continuity_of_care_document(now=NOW)
    assert continuity_of_care_document(now=NOW, seed=1) != first
    assert continuity_of_care_document(now=NOW + timedelta(days=1)) != first
