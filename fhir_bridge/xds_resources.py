"""The submission sets and document entries of an XDM package as FHIR resources.

Pure. A List for each submission set, a DocumentReference for each document whose file is there;
what the metadata says of a file and what the file is are compared.

Standards:
    MHD     IHE ITI Mobile access to Health Documents 4.2: XDS metadata in FHIR
    IHE     ITI TF-3 4.2.3: the metadata attributes; data types CX, XCN, XON, XTN, DTM
    FHIR    R4 List, DocumentReference
    fhir.md section 3.2 (identifiers), section 3.3, row on XDM
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import pybase64

from fhir_bridge.hl7v2 import moment_of, patient_of
from fhir_bridge.terms import JSON, URI_SYSTEM
from fhir_bridge.xdm import Filed, Package
from fhir_bridge.xds_metadata import Classified, Registered

__all__ = ["document_entry", "is_as_described", "source_patient", "submission_set"]

_MHD: Final = "https://profiles.ihe.net/ITI/MHD"
_DOCUMENT_ID: Final = "urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab"
_DOCUMENT_PATIENT: Final = "urn:uuid:58a6f841-87b3-4a3e-92fd-a8ffeff98427"
_DOCUMENT_AUTHOR: Final = "urn:uuid:93606bcf-9494-43ec-9b4e-a7748d1a838d"
_CLASS: Final = "urn:uuid:41a5887f-8865-4c09-adf7-e362475b143a"
_CONFIDENTIALITY: Final = "urn:uuid:f4f85eac-e6cb-4883-b524-f2705394840f"
_EVENT: Final = "urn:uuid:2c6b8cb7-8b2a-4051-b291-b1ae6a575ef4"
_FORMAT: Final = "urn:uuid:a09d5840-386c-46f2-b5ad-9c3699a4309d"
_FACILITY: Final = "urn:uuid:f33fb8ac-18af-42cc-ae0e-ed0b0bdb91e1"
_PRACTICE: Final = "urn:uuid:cccf5598-8b07-4b77-a05e-ae952c785ead"
_TYPE: Final = "urn:uuid:f0306f51-975f-434e-a61c-c59651d33983"
_SET_ID: Final = "urn:uuid:96fdda7c-d067-4183-912e-bf5ee74998a8"
_SET_SOURCE: Final = "urn:uuid:554ac39e-e3fe-47fe-b233-965d2a147832"
_SET_AUTHOR: Final = "urn:uuid:a7058bb9-b4e4-4307-ba5b-e3f0ab85e12d"
_SET_CONTENT: Final = "urn:uuid:aa543740-bdda-424e-8c96-df4873be8500"

# Code systems that FHIR names by a URL of their own.
_SYSTEMS: Final = {
    "2.16.840.1.113883.6.1": "http://loinc.org",
    "2.16.840.1.113883.6.96": "http://snomed.info/sct",
    "2.16.840.1.113883.5.25": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality",
}
_OID: Final = re.compile(r"[0-2](\.(0|[1-9]\d*)){2,}")
_UUID: Final = re.compile(r"urn:uuid:[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def document_entry(
    entry: Registered, filed: Filed, *, identity: UUID, binary: UUID, communication: UUID
) -> JSON:
    """Return the DocumentReference of `entry`, whose content is `binary`."""
    attachment: JSON = {
        "contentType": entry.media_type,
        "url": f"Binary/{binary}",
        "size": filed.size,
        "hash": filed.sha1,
        "title": entry.title or filed.path.rpartition("/")[2],
    }
    if created := moment_of(entry.slot("creationTime")):
        attachment["creation"] = created
    if _LANGUAGE.fullmatch(entry.slot("languageCode")):
        attachment["language"] = entry.slot("languageCode")
    content: JSON = {"attachment": attachment}
    for coding in _codings(entry, _FORMAT):
        content.setdefault("format", coding)
    found: JSON = {
        "resourceType": "DocumentReference",
        "id": str(identity),
        **_identifiers(entry, _DOCUMENT_ID),
        "status": "current",
        **_concept(entry, "type", _TYPE),
        **_concepts(entry, "category", _CLASS),
        **_authors(entry, _DOCUMENT_AUTHOR, "author"),
        **({"description": entry.comment} if entry.comment else {}),
        **_concepts(entry, "securityLabel", _CONFIDENTIALITY),
        "content": [content],
        "context": {
            **_concepts(entry, "event", _EVENT),
            **_period(entry),
            **_concept(entry, "facilityType", _FACILITY),
            **_concept(entry, "practiceSetting", _PRACTICE),
            "related": [{"reference": f"Communication/{communication}"}],
        },
    }
    if patient := source_patient(entry):
        found["contained"] = [patient]
        found["subject"] = {"reference": "#patient"}
        found["context"]["sourcePatientInfo"] = {"reference": "#patient"}
    return found


def submission_set(
    package: Package, *, identity: UUID, communication: UUID, documents: list[JSON]
) -> JSON | None:
    """Return the List of a submission set; None where the metadata has no such set."""
    submitted = package.metadata.submission
    if submitted is None:
        return None
    named = _identifiers(submitted, _SET_ID)
    identifiers = [*named.get("identifier", ()), *filter(None, [named.get("masterIdentifier")])]
    found: JSON = {
        "resourceType": "List",
        "id": str(identity),
        "extension": [*_set_extensions(submitted)],
        "identifier": identifiers,
        "status": "current",
        "mode": "working",
        "title": submitted.title,
        "code": {
            "coding": [{"system": f"{_MHD}/CodeSystem/MHDlistTypes", "code": "submissionset"}]
        },
        "date": moment_of(submitted.slot("submissionTime")),
        "note": [{"text": submitted.comment}] if submitted.comment else [],
        "entry": [
            {"item": {"reference": f"DocumentReference/{document['id']}"}} for document in documents
        ],
    }
    authors = _authors(submitted, _SET_AUTHOR, "author").get("author", ())
    if authors:
        found["source"] = authors[0]
    patients = [d["contained"][0] for d in documents if "contained" in d]
    if patients and all(patient == patients[0] for patient in patients):
        found["contained"] = [patients[0]]
        found["subject"] = {"reference": "#patient"}
    return {name: value for name, value in found.items() if value}


def source_patient(entry: Registered) -> JSON | None:
    """Return the contained Patient that sourcePatientId and sourcePatientInfo tell of."""
    given = (entry.slot("sourcePatientId"), entry.identifiers.get(_DOCUMENT_PATIENT, ""))
    stated = (value.partition("|") for value in entry.slots.get("sourcePatientInfo", ()))
    return patient_of(((name, text) for name, _, text in stated), identifiers=given)


def is_as_described(entry: Registered, filed: Filed) -> bool:
    """Say whether the file has the size and the SHA-1 that the metadata gives, where it does."""
    size, said = entry.slot("size"), entry.slot("hash").lower()
    actual = binascii.hexlify(pybase64.b64decode(filed.sha1)).decode()
    return size in ("", str(filed.size)) and said in ("", actual)


def _identifiers(entry: Registered, scheme: str) -> JSON:
    # fhir.md 3.2: as MHD has them, OIDs and UUIDs as URIs.
    found: JSON = {}
    unique = entry.identifiers.get(scheme, "")
    if unique:
        root, _, extension = unique.partition("^")
        value = f"urn:oid:{root}" if _OID.fullmatch(root) else root
        found["masterIdentifier"] = (
            {"system": value, "value": extension}
            if extension and value.startswith("urn:")
            else {"system": URI_SYSTEM, "value": value}
        )
    if _UUID.fullmatch(entry.id):
        identifier = {"use": "official", "system": URI_SYSTEM, "value": entry.id.lower()}
        found["identifier"] = [identifier]
    return found


def _set_extensions(submitted: Registered) -> Iterator[JSON]:
    for coding in _codings(submitted, _SET_CONTENT):
        yield {
            "url": f"{_MHD}/StructureDefinition/ihe-designationType",
            "valueCodeableConcept": {"coding": [coding]},
        }
    source = submitted.identifiers.get(_SET_SOURCE, "")
    if _OID.fullmatch(source):
        identifier = {"system": URI_SYSTEM, "value": f"urn:oid:{source}"}
        yield {"url": f"{_MHD}/StructureDefinition/ihe-sourceId", "valueIdentifier": identifier}
    for value in submitted.slots.get("intendedRecipient", ()):
        if reference := _recipient(value):
            url = f"{_MHD}/StructureDefinition/ihe-intendedRecipient"
            yield {"url": url, "valueReference": reference}


def _recipient(value: str) -> JSON:
    """Return whom "XON|XCN|XTN" means."""
    organization, person, telecom = [*value.split("|"), "", ""][:3]
    shown = _person(person) or organization.split("^")[0].strip()
    found: JSON = {"display": shown} if shown else {}
    address = [*telecom.split("^"), "", "", "", ""][3].strip()
    if "@" in address:
        found["identifier"] = {"system": URI_SYSTEM, "value": f"mailto:{address.lower()}"}
    return found


def _authors(entry: Registered, scheme: str, element: str) -> JSON:
    found = []
    for author in entry.under(scheme):
        people = [_person(text) for text in author.slots.get("authorPerson", ())]
        places = [t.split("^")[0].strip() for t in author.slots.get("authorInstitution", ())]
        for shown in [*filter(None, people)] or [*filter(None, places)]:
            found.append({"display": shown})
    return {element: found} if found else {}


def _person(text: str) -> str:
    """Return the name in an XCN: given, middle, family."""
    parts = [part.strip() for part in text.split("^")] + [""] * 6
    return " ".join(filter(None, (parts[5], parts[2], parts[3], parts[1], parts[4])))


def _codings(entry: Registered, scheme: str) -> Iterator[JSON]:
    for classified in entry.under(scheme):
        if classified.code.strip():
            yield _coding(classified)


def _coding(classified: Classified) -> JSON:
    system = next(iter(classified.slots.get("codingScheme", ())), "")
    coding: JSON = {"code": " ".join(classified.code.split())}
    if _OID.fullmatch(system):
        coding["system"] = _SYSTEMS.get(system, f"urn:oid:{system}")
    elif re.fullmatch(r"[a-z]+:\S+", system):
        coding["system"] = system
    if classified.display:
        coding["display"] = classified.display
    return coding


def _concept(entry: Registered, element: str, scheme: str) -> Mapping[str, Any]:
    codings = list(_codings(entry, scheme))
    return {element: {"coding": codings[:1]}} if codings else {}


def _concepts(entry: Registered, element: str, scheme: str) -> Mapping[str, Any]:
    found = [{"coding": [coding]} for coding in _codings(entry, scheme)]
    return {element: found} if found else {}


def _period(entry: Registered) -> JSON:
    slots = (("start", "serviceStartTime"), ("end", "serviceStopTime"))
    period = {name: moment for name, slot in slots if (moment := moment_of(entry.slot(slot)))}
    return {"period": period} if period else {}
