"""The documents that a message carries as resources beside it, and the patient they are of.

Pure.

Standards:
    FHIR    R4 DocumentReference, List, Communication.about, .subject
    fhir.md section 3.3, rows on C-CDA, XDM, the subject, and sources that disagree
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID, uuid5

from fhir_bridge.binary_rows import BinaryRow
from fhir_bridge.derived import document_reference, patient_of
from fhir_bridge.packages import Packaged
from fhir_bridge.payloads import Payloads
from fhir_bridge.terms import JSON, Terms
from fhir_bridge.xds_resources import document_entry, is_as_described, submission_set

__all__ = ["same_patient", "with_documents"]

# Each is compared with all; a person who looks at a conflict needs no more either.
DISAGREEING_MAX: Final = 20
UNDOCUMENTED_MAX: Final = 10


def with_documents(
    communication: JSON, payloads: Payloads, identity: UUID, terms: Terms
) -> tuple[JSON, ...]:
    """Return the resources of the documents, and link `communication` to them and their patient.

    Patients of whom two sources say different things leave the message without a subject.
    """
    found: list[JSON] = []
    # What an envelope says of the patient counts first.
    subject, stated = _take_subject(communication)
    patients = [stated] if stated else []
    # fhir.md 3.3: what XDM says of the patient counts before what a C-CDA says, and HL7 v2 last.
    for packaged in payloads.packages:
        described = [*_of_package(packaged, identity, patients, terms)]
        listed = submission_set(
            packaged.package,
            identity=uuid5(identity, f"List/{packaged.path}/{packaged.package.folder}"),
            communication=identity,
            documents=described,
        )
        found += [*described, *([listed] if listed else [])]
    for attached in payloads.documents:
        patient = patient_of(attached.document.patient) if attached.document.patient else None
        found.append(
            document_reference(
                attached.document,
                attached.attachment,
                communication=identity,
                path=attached.path,
                patient=patient,
            )
        )
        _note(patient, patients)
    for patient in payloads.patients:
        _note(patient, patients)
    if payloads.undocumented:
        note = {"text": _undocumented(payloads.undocumented)}
        communication["note"] = [*communication.get("note", ()), note]
    if found:
        about = [{"reference": f"{r['resourceType']}/{r['id']}"} for r in found]
        communication["about"] = [*about, *communication.get("about", ())]
    _link_subject(communication, subject, stated, patients, terms)
    return tuple(found)


def same_patient(one: JSON, other: JSON) -> bool:
    """Say whether two sources may mean the same patient.

    Everything that both state must agree: identifiers of one system, birth, gender, name.
    """
    systems = {i["system"]: i.get("value") for i in one.get("identifier", ()) if "system" in i}
    shared = [i for i in other.get("identifier", ()) if i.get("system") in systems]
    if shared and not any(systems[i["system"]] == i.get("value") for i in shared):
        return False
    for element in ("birthDate", "gender"):
        if len({one.get(element), other.get(element)} - {None, "unknown"}) > 1:
            return False
    names = [patient.get("name", [{}])[0] for patient in (one, other)]
    families = [str(name["family"]).casefold() for name in names if "family" in name]
    given = [str(name["given"][0]).casefold() for name in names if name.get("given")]
    return len(set(families)) < 2 and len(set(given)) < 2


def _undocumented(names: Sequence[str]) -> str:
    # fhir.md 3.7: who looks for the document hears why there is none.
    few, more = names[:UNDOCUMENTED_MAX], len(names) - UNDOCUMENTED_MAX
    listed = ", ".join(few) + (f" and {more} more" if more > 0 else "")
    return f"No DocumentReference, for it is no clinical document (CDA) that can be read: {listed}"


def _of_package(
    packaged: Packaged, identity: UUID, patients: list[JSON], terms: Terms
) -> Iterator[JSON]:
    package = packaged.package
    for number, entry in enumerate(package.metadata.documents):
        filed = package.file(entry.slot("URI"))
        if filed is None:
            continue
        binary: BinaryRow = packaged.binaries[filed.path]
        steps = f"{packaged.path}/{package.folder}/{number}"
        reference = document_entry(
            entry,
            filed,
            identity=uuid5(identity, f"DocumentReference/{steps}"),
            binary=binary.id,
            communication=identity,
        )
        if not is_as_described(entry, filed):
            url = terms.extension("metadata-mismatch")
            reference["extension"] = [{"url": url, "valueBoolean": True}]
        _note(next(iter(reference.get("contained", ())), None), patients)
        if filed.document is not None and filed.document.patient is not None:
            _note(patient_of(filed.document.patient), patients)
        yield reference


def _note(patient: JSON | None, patients: list[JSON]) -> None:
    if patient is None or len(patients) == DISAGREEING_MAX:
        return
    if not any(same_patient(patient, known) for known in patients):
        patients.append(patient)


def _take_subject(communication: JSON) -> tuple[JSON | None, JSON | None]:
    """Take out whom the message is about already, and the Patient that is contained for it."""
    subject = communication.pop("subject", None)
    contained = communication.pop("contained", [])
    named = subject is not None and subject.get("reference") == "#patient"
    patient = next((item for item in contained if named and item.get("id") == "patient"), None)
    if kept := [item for item in contained if item is not patient]:
        communication["contained"] = kept
    return subject, patient


def _link_subject(
    communication: JSON,
    subject: JSON | None,
    stated: JSON | None,
    patients: list[JSON],
    terms: Terms,
) -> None:
    if subject is not None and stated is None and patients and "identifier" in subject:
        logical = {"resourceType": "Patient", "identifier": [subject["identifier"]]}
        if not any(same_patient(logical, patient) for patient in patients):
            patients.insert(0, logical)
    _link_patient(communication, patients, terms)
    if subject is not None and patients in ([], [stated]):
        communication["subject"] = subject


def _link_patient(communication: JSON, patients: Sequence[JSON], terms: Terms) -> None:
    if not patients:
        return
    named = [
        {**patient, "id": "patient" if number == 0 else f"patient-{number + 1}"}
        for number, patient in enumerate(patients)
    ]
    communication["contained"] = [*communication.get("contained", ()), *named]
    if len(named) == 1:
        communication["subject"] = {"reference": "#patient"}
        return
    url = terms.extension("patient-conflict")
    communication["extension"] += [
        {"url": url, "valueReference": {"reference": f"#{patient['id']}"}} for patient in named
    ]
