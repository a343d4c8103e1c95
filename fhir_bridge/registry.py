"""What the API serves: resource types, their interactions and their search parameters.

Pure. The router, the search and the CapabilityStatement all read `TYPES`, so that none of them
can claim what another does not do.

Standards:
    FHIR    R4 http.html (interactions), search.html, the search parameters of each type
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["COMMON", "TYPES", "Kind", "ResourceType", "SearchParameter"]


class Kind(Enum):
    """The type of a search parameter, in FHIR's words."""

    CODE = "token"
    REFERENCE = "reference"
    DATE = "date"
    STRING = "string"
    URI = "uri"


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """One search parameter.

    `paths` say what it finds: element names with dots; `ext(name)` is an extension of ours and
    `part(name)` a part of it. `selective` ones usually match few resources. `ours`: FHIR does
    not define it, we publish its definition.
    """

    name: str
    kind: Kind
    paths: tuple[str, ...]
    targets: tuple[str, ...] = ()
    selective: bool = True
    ours: bool = False


@dataclass(frozen=True, slots=True)
class ResourceType:
    """One resource type: `interactions` by their FHIR codes.

    One that is `in_mailbox` belongs to a mailbox, another to what the client's domain shares.
    """

    name: str
    interactions: tuple[str, ...]
    parameters: tuple[SearchParameter, ...]
    in_mailbox: bool = False

    def parameter(self, name: str) -> SearchParameter | None:
        """Return the search parameter `name` of this type or of all types."""
        return next((p for p in (*self.parameters, *COMMON) if p.name == name), None)


# _id and _lastUpdated are columns, not index rows.
COMMON: Final = (
    SearchParameter("_id", Kind.CODE, ()),
    SearchParameter("_lastUpdated", Kind.DATE, (), selective=False),
)

_ACTORS: Final = (
    "Device",
    "Organization",
    "Patient",
    "Practitioner",
    "PractitionerRole",
    "RelatedPerson",
    "HealthcareService",
)

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

_COMMUNICATION: Final = ResourceType(
    "Communication",
    _ALL,
    (
        SearchParameter("based-on", Kind.REFERENCE, ("basedOn",)),
        SearchParameter("category", Kind.CODE, ("category",), selective=False),
        SearchParameter("encounter", Kind.REFERENCE, ("encounter",), ("Encounter",)),
        SearchParameter("identifier", Kind.CODE, ("identifier",)),
        SearchParameter("instantiates-canonical", Kind.REFERENCE, ("instantiatesCanonical",)),
        SearchParameter("instantiates-uri", Kind.URI, ("instantiatesUri",)),
        SearchParameter("medium", Kind.CODE, ("medium",), selective=False),
        SearchParameter("part-of", Kind.REFERENCE, ("partOf",)),
        SearchParameter("patient", Kind.REFERENCE, ("subject",), ("Patient",)),
        SearchParameter("received", Kind.DATE, ("received",), selective=False),
        SearchParameter(
            "recipient", Kind.REFERENCE, ("recipient",), (*_ACTORS, "Group", "CareTeam")
        ),
        SearchParameter("sender", Kind.REFERENCE, ("sender",), _ACTORS),
        SearchParameter("sent", Kind.DATE, ("sent",), selective=False),
        SearchParameter("status", Kind.CODE, ("status",), selective=False),
        SearchParameter("subject", Kind.REFERENCE, ("subject",), ("Patient", "Group")),
        SearchParameter("thread", Kind.CODE, ("ext(thread-id)",), ours=True),
        SearchParameter("direction", Kind.CODE, ("ext(direction)",), selective=False, ours=True),
        SearchParameter("delivery", Kind.CODE, ("recipient.ext(delivery).part(code)",), ours=True),
        SearchParameter("topic", Kind.CODE, ("topic",), ours=True),
    ),
    in_mailbox=True,
)

TYPES: Final[Mapping[str, ResourceType]] = {
    "Communication": _COMMUNICATION,
    "Binary": ResourceType("Binary", ("create", "read", "delete"), ()),
}
