"""What the API serves: the shape of the table of resource types.

Pure. The router, the search and the CapabilityStatement all read `definitions.TYPES`, so that
none of them can claim what another does not do.

Standards:
    FHIR    R4 http.html (interactions), search.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["COMMON", "Kind", "ResourceType", "SearchParameter"]


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
    not define it, we publish its definition. `targets` of a reference: none named is any type.
    `of`: it has no index of its own, but finds by that of another parameter.
    """

    name: str
    kind: Kind
    paths: tuple[str, ...]
    targets: tuple[str, ...] = ()
    selective: bool = True
    ours: bool = False
    of: str | None = None


@dataclass(frozen=True, slots=True)
class ResourceType:
    """One resource type: `interactions` by their FHIR codes.

    One that is `in_mailbox` belongs to a mailbox, one `of_client` to the client that made it,
    another to what the client's domain shares.
    """

    name: str
    interactions: tuple[str, ...]
    parameters: tuple[SearchParameter, ...]
    in_mailbox: bool = False
    of_client: bool = False

    def parameter(self, name: str) -> SearchParameter | None:
        """Return the search parameter that `name` finds by, of this type or of all types."""
        found = next((p for p in (*self.parameters, *COMMON) if p.name == name), None)
        return self.parameter(found.of) if found is not None and found.of else found

    def owners_among(self, owners: Iterable[str]) -> list[str]:
        """Return those of `owners` that may have a resource of this type.

        With one mailbox that is one owner, and an index gives the rows in order.
        """
        prefix = "" if self.in_mailbox else "client:" if self.of_client else "@"
        if prefix:
            return [owner for owner in owners if owner.startswith(prefix)]
        return [owner for owner in owners if not owner.startswith(("client:", "@"))]


# Of every type. _id and _lastUpdated are columns of their own and have no index rows.
COMMON: Final = (
    SearchParameter("_id", Kind.CODE, ()),
    SearchParameter("_lastUpdated", Kind.DATE, (), selective=False),
    SearchParameter("_tag", Kind.CODE, ("meta.tag",)),
    SearchParameter("_security", Kind.CODE, ("meta.security",)),
    SearchParameter("_profile", Kind.URI, ("meta.profile",)),
    SearchParameter("_source", Kind.URI, ("meta.source",)),
)
