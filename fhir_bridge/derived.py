"""Resources that the gateway adds to a message: documents, evidence of trust, delivery tasks.

Pure; they can all be made again.

Standards:
    FHIR    R4 DocumentReference, Provenance, Task; valuesets iso-21089-lifecycle,
            provenance-agent-type
    fhir.md sections 3.3 (C-CDA rows, "also created"), 3.5 (Task for each recipient)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

import pybase64

from fhir_bridge.ccda import Code, Document, Patient
from fhir_bridge.delivery import address_of, delivery_of
from fhir_bridge.terms import JSON, URI_SYSTEM, Terms
from fhir_bridge.trust import Trust, instant

__all__ = ["delivery_tasks", "document_reference", "patient_of", "provenance"]

# The code systems that clinical documents use most; another is named by its OID.
_SYSTEMS: Final = {
    "2.16.840.1.113883.6.1": "http://loinc.org",
    "2.16.840.1.113883.6.96": "http://snomed.info/sct",
    "2.16.840.1.113883.5.25": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality",
}
# A message is at its end, so that "processed" is all that comes of a recipient.
_ENDED: Final = frozenset({"completed", "stopped"})
_DELIVERED: Final = frozenset({"dispatched", "displayed", "deleted"})
# fhir.md 3.1: as the Endpoint example of FHIR names C-CDA.
_FORMATS: Final = "urn:oid:1.3.6.1.4.1.19376.1.2.3"
_TRANSMITTER: Final = {
    "system": "http://hl7.org/fhir/us/core/CodeSystem/us-core-provenance-participant-type",
    "code": "transmitter",
}
_AGENT: Final = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_SOURCE_SIGNATURE: Final = {
    "system": "urn:iso-astm:E1762-95:2013",
    "code": "1.2.840.10065.1.12.1.14",
    "display": "Source Signature",
}
# Signature and a chain have some thousands; a larger one is stated, and not repeated here.
SIGNATURE_OCTETS: Final = 64 * 1024


def document_reference(
    document: Document, attachment: JSON, *, communication: UUID, path: str, patient: JSON | None
) -> JSON:
    """Return the DocumentReference of a C-CDA that a message carries as the part `path`."""
    content: JSON = {"attachment": attachment}
    if document.format is not None:
        content["format"] = {"system": _FORMATS, "code": document.format}
    reference: JSON = {
        "resourceType": "DocumentReference",
        "id": str(uuid5(communication, f"DocumentReference/{path}")),
        "status": "current",
        "content": [content],
        "context": {"related": [{"reference": f"Communication/{communication}"}]},
    }
    if document.identifier is not None:
        reference["masterIdentifier"] = _identifier(*document.identifier)
    if document.code is not None:
        reference["type"] = {"coding": [_coding(document.code)]}
    if document.confidentiality is not None:
        reference["securityLabel"] = [{"coding": [_coding(document.confidentiality)]}]
    if document.title is not None:
        reference["description"] = document.title
    if document.author is not None:
        reference["author"] = [{"display": document.author}]
    if document.custodian is not None:
        reference["custodian"] = {"type": "Organization", "display": document.custodian}
    if document.instant is not None:
        reference["date"] = document.instant
    if patient is not None:
        reference["contained"] = [patient]
        reference["subject"] = {"reference": "#patient"}
    return reference


def patient_of(patient: Patient) -> JSON:
    """Return the contained Patient that a document's record target names."""
    found: JSON = {"resourceType": "Patient", "id": "patient"}
    if patient.identifiers:
        found["identifier"] = [_identifier(*each) for each in patient.identifiers]
    name: JSON = {}
    if patient.family:
        name["family"] = patient.family
    if patient.given:
        name["given"] = list(patient.given)
    if name:
        found["name"] = [name]
    if patient.birth:
        found["birthDate"] = patient.birth
    if patient.gender:
        found["gender"] = patient.gender
    return found


def provenance(
    communication: Mapping[str, Any], *, raw: UUID, documents: Sequence[JSON], trust: Trust
) -> JSON:
    """Return the evidence that a received message is from whom it says."""
    identity = UUID(communication["id"])
    described = (f"{d['resourceType']}/{d['id']}" for d in documents)
    targets = [f"Communication/{identity}", *described, f"Binary/{raw}"]
    sender = communication.get("sender", {"display": "unknown"})
    who = {k: sender[k] for k in ("identifier", "display") if k in sender}
    found: JSON = {
        "resourceType": "Provenance",
        "id": str(uuid5(identity, "Provenance")),
        "target": [{"reference": target} for target in targets],
        "recorded": instant(trust.checked),
        "activity": {
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle",
                    "code": "receive",
                }
            ]
        },
        "agent": [
            {"type": {"coding": [{"system": _AGENT, "code": "author"}]}, "who": who},
            {"type": {"coding": [_TRANSMITTER]}, "who": _hisp(sender, trust)},
            {
                "type": {"coding": [{"system": _AGENT, "code": "verifier"}]},
                "who": {"type": "Device", "display": "direct-gateway"},
            },
        ],
        "entity": [{"role": "source", "what": {"reference": f"Binary/{raw}"}}],
    }
    if trust.bundle and "://" in trust.bundle:
        found["policy"] = [trust.bundle]
    if trust.signed_at is not None:
        # FHIR demands the time of a signature: where its maker states none, none is made up.
        when = found["occurredDateTime"] = instant(trust.signed_at)
        found["signature"] = [_signature(when, who, _hisp(sender, trust), trust)]
    return found


def _signature(when: str, sender: JSON, organization: JSON, trust: Trust) -> JSON:
    """Return who signed, and the signature itself, by which that can be verified again."""
    found: JSON = {"type": [_SOURCE_SIGNATURE], "when": when}
    if trust.binding == "domain-bound":
        found |= {"who": organization, "onBehalfOf": sender}
    else:
        found["who"] = sender
    found |= {"targetFormat": "message/rfc822", "sigFormat": "application/pkcs7-signature"}
    if trust.signature is not None and len(trust.signature) <= SIGNATURE_OCTETS:
        found["data"] = pybase64.b64encode(trust.signature).decode()
    return found


def _hisp(sender: Mapping[str, Any], trust: Trust) -> JSON:
    """Return who sent it on: the organization of the certificate, of the sender's domain."""
    domain = (address_of(dict(sender)) or "").rpartition("@")[2]
    return {"type": "Organization", "display": trust.organization or domain or "unknown"}


def delivery_tasks(communication: Mapping[str, Any], *, terms: Terms) -> dict[UUID, JSON]:
    """Return a Task for each recipient of a sent message, by id: Task has "failed"."""
    identity = UUID(communication["id"])
    tasks: dict[UUID, JSON] = {}
    for recipient in communication.get("recipient", ()):
        delivery = delivery_of(recipient, terms)
        address = address_of(recipient)
        if not delivery or address is None:
            continue
        task: JSON = {
            "resourceType": "Task",
            "status": _task_status(delivery["code"], communication),
            "intent": "order",
            "code": {"coding": [{"system": terms.system("task"), "code": "direct-delivery"}]},
            "businessStatus": {
                "coding": [{"system": terms.system("delivery"), "code": delivery["code"]}]
            },
            "focus": {"reference": f"Communication/{identity}"},
            "lastModified": delivery["time"],
            "restriction": {"recipient": [{"identifier": recipient["identifier"]}]},
        }
        if "reason" in delivery:
            coding = {"system": terms.system("delivery-reason"), "code": delivery["reason"]}
            task["statusReason"] = {"coding": [coding], "text": delivery["text"]}
        tasks[uuid5(identity, f"Task/{address}")] = task
    return tasks


def _task_status(code: str, communication: Mapping[str, Any]) -> str:
    if code in ("failed", "refused"):
        return "failed"
    if code in _DELIVERED or (code == "processed" and communication["status"] in _ENDED):
        return "completed"
    return {"queued": "requested", "held": "on-hold"}.get(code, "in-progress")


def _identifier(root: str, extension: str) -> JSON:
    # fhir.md 3.2: an OID or UUID that stands alone is a URI.
    kind = "uuid" if "-" in root else "oid"
    if extension:
        return {"system": f"urn:{kind}:{root}", "value": extension}
    return {"system": URI_SYSTEM, "value": f"urn:{kind}:{root}"}


def _coding(code: Code) -> JSON:
    coding = {"system": _SYSTEMS.get(code.system, f"urn:oid:{code.system}"), "code": code.code}
    return {**coding, "display": code.display} if code.display else coding
