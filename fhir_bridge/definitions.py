"""Every resource type that the API serves, with its interactions and search parameters.

Pure: a table. What R4 defines is written from R4; what is ours is marked.

Standards:
    FHIR    R4 4.0.1: the search parameters of each resource type
    fhir.md sections 3.5 (delivery), 4.1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fhir_bridge.registry import Kind, ResourceType, SearchParameter

__all__ = ["COMPARTMENT", "TYPES"]

_ALL: Final = (
    "create",
    "read",
    "vread",
    "update",
    "patch",
    "delete",
    "history-instance",
    "history-type",
    "search-type",
)
_READ: Final = ("read", "vread", "history-instance", "history-type", "search-type")


def _token(name: str, *paths: str, often: bool = False, ours: bool = False) -> SearchParameter:
    return SearchParameter(name, Kind.CODE, paths or (name,), selective=not often, ours=ours)


def _reference(name: str, path: str, *targets: str, ours: bool = False) -> SearchParameter:
    return SearchParameter(name, Kind.REFERENCE, (path,), targets, ours=ours)


def _date(name: str, *paths: str) -> SearchParameter:
    return SearchParameter(name, Kind.DATE, paths or (name,), selective=False)


def _string(name: str, *paths: str) -> SearchParameter:
    return SearchParameter(name, Kind.STRING, paths or (name,))


def _uri(name: str, path: str) -> SearchParameter:
    return SearchParameter(name, Kind.URI, (path,))


_SENDERS: Final = (
    "Device",
    "Organization",
    "Patient",
    "Practitioner",
    "PractitionerRole",
    "RelatedPerson",
    "HealthcareService",
)
_RECIPIENTS: Final = (*_SENDERS, "Group", "CareTeam")
_IDENTIFIER: Final = _token("identifier")
_PATIENT: Final = _reference("patient", "subject", "Patient")
_SUBJECT: Final = _reference("subject", "subject", "Patient", "Group")
_ENCOUNTER: Final = _reference("encounter", "encounter", "Encounter")
_STATUS: Final = _token("status", often=True)

# A Direct address is found as `mailto:` under `email` and `telecom`, in lower case.
_TELECOM: Final = (
    _token("telecom"),
    _token("email", "telecom"),
)
_PERSON: Final = (
    _IDENTIFIER,
    _token("active", often=True),
    _string("name"),
    _string("family", "name.family"),
    _string("given", "name.given"),
    _token("gender", often=True),
    *_TELECOM,
)

_COMMUNICATION: Final = (
    _reference("based-on", "basedOn"),
    _token("category", often=True),
    _ENCOUNTER,
    _IDENTIFIER,
    _reference("instantiates-canonical", "instantiatesCanonical"),
    _uri("instantiates-uri", "instantiatesUri"),
    _token("medium", often=True),
    _reference("part-of", "partOf"),
    _PATIENT,
    _date("received"),
    _reference("recipient", "recipient", *_RECIPIENTS),
    _reference("sender", "sender", *_SENDERS),
    _date("sent"),
    _STATUS,
    _SUBJECT,
    _reference("about", "about", ours=True),
    _token("thread", "ext(thread-id)", ours=True),
    _token("direction", "ext(direction)", often=True, ours=True),
    _token("delivery", "recipient.ext(delivery).part(code)", ours=True),
    _token("topic", ours=True),
    SearchParameter(
        "delivery-recipient",
        Kind.REFERENCE,
        (),
        _RECIPIENTS,
        ours=True,
        of="recipient",
    ),
)

_COMMUNICATION_REQUEST: Final = (
    _date("authored", "authoredOn"),
    _reference("based-on", "basedOn"),
    _token("category", often=True),
    _ENCOUNTER,
    _token("group-identifier", "groupIdentifier"),
    _IDENTIFIER,
    _token("medium", often=True),
    _date("occurrence", "occurrenceDateTime", "occurrencePeriod"),
    _PATIENT,
    _token("priority", often=True),
    _reference("recipient", "recipient", *_RECIPIENTS),
    _reference("replaces", "replaces", "CommunicationRequest"),
    _reference("requester", "requester"),
    _reference("sender", "sender", *_SENDERS),
    _STATUS,
    _SUBJECT,
)

_DOCUMENT_REFERENCE: Final = (
    _IDENTIFIER,
    _token("contenttype", "content.attachment.contentType", often=True),
    _date("date"),
    _token("format", "content.format", often=True),
    _PATIENT,
    _reference("related", "context.related"),
    _STATUS,
    _SUBJECT,
    _token("type", often=True),
)

_TASK: Final = (
    _date("authored-on", "authoredOn"),
    _reference("based-on", "basedOn"),
    _token("business-status", "businessStatus", often=True),
    _token("code", often=True),
    _reference("focus", "focus"),
    _IDENTIFIER,
    _token("intent", often=True),
    _date("modified", "lastModified"),
    _reference("owner", "owner"),
    _reference("part-of", "partOf", "Task"),
    _reference("patient", "for", "Patient"),
    _token("performer", "performerType", often=True),
    _date("period", "executionPeriod"),
    _token("priority", often=True),
    _reference("requester", "requester"),
    _STATUS,
    _reference("subject", "for"),
)


def _shared(name: str, *parameters: SearchParameter) -> ResourceType:
    return ResourceType(name, _ALL, parameters)


_TYPES: Final = (
    ResourceType("Communication", _ALL, _COMMUNICATION, in_mailbox=True),
    ResourceType("CommunicationRequest", _ALL, _COMMUNICATION_REQUEST, in_mailbox=True),
    ResourceType("Binary", ("create", "read", "delete"), ()),
    ResourceType("Task", _ALL, _TASK, in_mailbox=True),
    ResourceType("DocumentReference", _ALL, _DOCUMENT_REFERENCE, in_mailbox=True),
    # The submission sets of XDM packages (fhir.md 3.3).
    ResourceType(
        "List",
        _READ,
        (
            _token("code", often=True),
            _date("date"),
            _IDENTIFIER,
            _reference("item", "entry.item"),
            _PATIENT,
            _reference("source", "source", "Device", "Patient", "Practitioner", "PractitionerRole"),
            _STATUS,
            _SUBJECT,
            _string("title"),
        ),
        in_mailbox=True,
    ),
    ResourceType(
        "Provenance",
        _READ,
        (
            _reference("agent", "agent.who"),
            _reference("entity", "entity.what"),
            _date("recorded"),
            _reference("target", "target"),
        ),
        in_mailbox=True,
    ),
    ResourceType(
        "Media",
        _ALL,
        (
            _date("created", "createdDateTime", "createdPeriod"),
            _IDENTIFIER,
            _PATIENT,
            _STATUS,
            _SUBJECT,
            _token("type", often=True),
        ),
        in_mailbox=True,
    ),
    ResourceType(
        "Subscription",
        _ALL,
        (
            _STATUS,
            _token("type", "channel.type", often=True),
            _uri("url", "channel.endpoint"),
        ),
        of_client=True,
    ),
    # Not stored here: the gateway's audit trail (`audit_api`).
    ResourceType(
        "AuditEvent",
        ("read", "search-type"),
        (_string("agent-name"), _token("subtype")),
        of_client=True,
    ),
    _shared("Patient", *_PERSON, _date("birthdate", "birthDate")),
    _shared("Practitioner", *_PERSON),
    _shared("RelatedPerson", *_PERSON, _reference("patient", "patient", "Patient")),
    _shared(
        "PractitionerRole",
        _IDENTIFIER,
        _token("active", often=True),
        _reference("practitioner", "practitioner", "Practitioner"),
        _reference("organization", "organization", "Organization"),
        _reference("endpoint", "endpoint", "Endpoint"),
        _token("role", "code"),
        _token("specialty"),
        *_TELECOM,
    ),
    _shared(
        "Organization",
        _IDENTIFIER,
        _token("active", often=True),
        _string("name", "name", "alias"),
        _reference("partof", "partOf", "Organization"),
        _reference("endpoint", "endpoint", "Endpoint"),
        _token("type"),
        *_TELECOM,
    ),
    _shared(
        "HealthcareService",
        _IDENTIFIER,
        _token("active", often=True),
        _string("name"),
        _reference("organization", "providedBy", "Organization"),
        _reference("endpoint", "endpoint", "Endpoint"),
        *_TELECOM,
    ),
    _shared(
        "Endpoint",
        _IDENTIFIER,
        _token("connection-type", "connectionType", often=True),
        _string("name"),
        _reference("organization", "managingOrganization", "Organization"),
        _STATUS,
        SearchParameter("address", Kind.URI, ("address",), ours=True),
    ),
    _shared("Device", _IDENTIFIER, _STATUS, _string("device-name", "deviceName.name")),
    _shared(
        "Group",
        _IDENTIFIER,
        _token("code"),
        _reference("member", "member.entity"),
        _token("type", often=True),
    ),
    _shared(
        "CareTeam",
        _IDENTIFIER,
        _token("category", often=True),
        _ENCOUNTER,
        _reference("participant", "participant.member"),
        _PATIENT,
        _STATUS,
        _SUBJECT,
    ),
    _shared(
        "Appointment",
        _IDENTIFIER,
        _date("date", "start"),
        _reference("actor", "participant.actor"),
        _STATUS,
    ),
    _shared(
        "CarePlan",
        _IDENTIFIER,
        _token("category", often=True),
        _ENCOUNTER,
        _PATIENT,
        _STATUS,
        _SUBJECT,
    ),
    _shared("Encounter", _IDENTIFIER, _PATIENT, _STATUS, _SUBJECT, _date("date", "period")),
)

TYPES: Final[Mapping[str, ResourceType]] = {kind.name: kind for kind in _TYPES}

# FHIR R4 compartmentdefinition-patient: which references put a resource into it.
COMPARTMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "Appointment": ("actor",),
    "CarePlan": ("patient",),
    "CareTeam": ("patient", "participant"),
    "Communication": ("subject", "sender", "recipient"),
    "CommunicationRequest": ("subject", "sender", "recipient", "requester"),
    "DocumentReference": ("subject",),
    "Encounter": ("patient",),
    "Group": ("member",),
    "List": ("subject", "source"),
    "Media": ("subject",),
    "RelatedPerson": ("patient",),
}
