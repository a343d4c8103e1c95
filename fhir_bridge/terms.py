"""The words we put into resources: code systems, extensions and identifiers.

Pure. Every name of our own is made from one canonical base, so that an operator can publish the
definitions under a domain of theirs.

Standards:
    FHIR    R4 4.0.1
    RFC2392 sections 2 and 3: `mid:` URLs
    USCORE  us-core-direct: this contact point is a Direct address
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from urllib.parse import quote, unquote

__all__ = [
    "DEFAULT_CANONICAL",
    "DIRECT_MEDIUM",
    "JSON",
    "MAILTO",
    "MID",
    "URI_SYSTEM",
    "US_CORE_DIRECT",
    "InboundStatus",
    "Terms",
    "extension",
    "extension_value",
    "is_direct",
    "mailto_identifier",
    "message_id_of",
    "mid_identifier",
]

JSON = dict[str, Any]

DEFAULT_CANONICAL: Final = "https://direct-gateway.dev/fhir"

# FHIR: the system of an identifier that is a URI.
URI_SYSTEM: Final = "urn:ietf:rfc:3986"
MAILTO: Final = "mailto:"
MID: Final = "mid:"
US_CORE_DIRECT: Final = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-direct"

CONNECTION_TYPE: Final = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
DIRECT_MEDIUM: Final[JSON] = {
    "coding": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode",
            "code": "EMAILWRIT",
        },
        {"system": CONNECTION_TYPE, "code": "direct-project"},
    ],
    "text": "Direct",
}

# RFC2392 2: what of an addr-spec need not be percent-encoded in a mid URL.
_MID_SAFE: Final = "@!$&'()*+,;=:/~"


class InboundStatus(Enum):
    """The status of a message that was received (fhir.md 3.5).

    FHIR has it tell of the transmission, which is over; clients built on Medplum's read receipts
    have it in progress until somebody has read it.
    """

    COMPLETED = "completed"
    IN_PROGRESS = "in-progress"


@dataclass(frozen=True, slots=True)
class Terms:
    """The extensions, systems and code systems under one canonical base."""

    canonical: str = DEFAULT_CANONICAL

    def extension(self, name: str) -> str:
        """Return the URL of our extension `name`."""
        return f"{self.canonical}/StructureDefinition/{name}"

    def system(self, name: str) -> str:
        """Return the system of our code system `name`."""
        return f"{self.canonical}/CodeSystem/{name}"

    def namespace(self, name: str) -> str:
        """Return the system of our identifiers `name`."""
        return f"{self.canonical}/sid/{name}"


def extension(url: str, parts: Iterable[tuple[str, JSON]]) -> JSON:
    """Return a complex extension; each part is a name and its value, as {"valueX": ...}."""
    return {"url": url, "extension": [{"url": name, **value} for name, value in parts]}


def extension_value(element: Mapping[str, Any], url: str) -> Any | None:
    """Return the simple value of the first extension `url` of `element`, or None."""
    for item in element.get("extension", ()):
        if item.get("url") == url:
            return next((v for k, v in item.items() if k.startswith("value")), None)
    return None


def is_direct(concepts: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether one of the `medium` concepts is Direct."""
    return any(
        coding.get("system") == CONNECTION_TYPE and coding.get("code") == "direct-project"
        for concept in concepts
        for coding in concept.get("coding", ())
    )


def mailto_identifier(address: str) -> JSON:
    """Return the identifier that stands for a Direct address."""
    return {"system": URI_SYSTEM, "value": f"{MAILTO}{address}"}


def mid_identifier(message_id: str) -> JSON:
    """Return the identifier that stands for a Message-ID, given with its angle brackets."""
    # RFC2392 2: without the angle brackets, and percent-encoded.
    return {"system": URI_SYSTEM, "value": MID + quote(message_id.strip("<>"), safe=_MID_SAFE)}


def message_id_of(identifiers: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the Message-ID, in angle brackets, that the first `mid:` identifier stands for."""
    for identifier in identifiers:
        value = identifier.get("value")
        if (
            identifier.get("system") == URI_SYSTEM
            and isinstance(value, str)
            and value.startswith(MID)
        ):
            return f"<{unquote(value.removeprefix(MID))}>"
    return None
