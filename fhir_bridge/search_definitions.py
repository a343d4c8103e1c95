"""The search parameters that are ours, as SearchParameter resources at their canonical URLs.

Pure: made from the table that the search itself reads.

Standards:
    FHIR    R4 SearchParameter
    fhir.md section 3.5 (delivery, delivery-recipient), section 4.1
"""

from __future__ import annotations

import re
from typing import Final

from fhir_bridge.definitions import TYPES
from fhir_bridge.registry import Kind, SearchParameter
from fhir_bridge.terms import JSON, Terms

__all__ = ["search_parameter", "search_parameters"]

_TEXTS: Final = {
    "about": "What a message is about",
    "address": "The address of an endpoint, as a URI",
    "delivery": "How far a message is, for any of its recipients",
    "delivery-recipient": "A Direct address, as mailto:, that a message was sent to",
    "direction": "Whether a message was received or sent: inbound, outbound",
    "thread": "The Message-ID of the root of the thread",
    "topic": "The code of the topic of a message; with :text its words",
}
_FUNCTION: Final = re.compile(r"(ext|part)\(([a-z-]+)\)")


def search_parameters() -> dict[str, tuple[str, SearchParameter]]:
    """Return every parameter of ours with its resource type, by the name it is published under."""
    return {
        f"{kind.name}-{parameter.name}": (kind.name, parameter)
        for kind in TYPES.values()
        for parameter in kind.parameters
        if parameter.ours
    }


def search_parameter(name: str, terms: Terms) -> JSON | None:
    """Return the SearchParameter that is published as `name`."""
    found = search_parameters().get(name)
    if found is None:
        return None
    base, parameter = found
    paths = parameter.paths or (parameter.of or parameter.name,)
    definition: JSON = {
        "resourceType": "SearchParameter",
        "id": name,
        "url": f"{terms.canonical}/SearchParameter/{name}",
        "name": name.replace("-", "_"),
        "status": "active",
        "description": _TEXTS.get(parameter.name, parameter.name),
        "code": parameter.name,
        "base": [base],
        "type": parameter.kind.value,
        "expression": " | ".join(_fhirpath(base, path, terms) for path in paths),
    }
    if parameter.kind is Kind.REFERENCE and parameter.targets:
        definition["target"] = list(parameter.targets)
    return definition


def _fhirpath(base: str, path: str, terms: Terms) -> str:
    def extension(match: re.Match[str]) -> str:
        url = terms.extension(match[2]) if match[1] == "ext" else match[2]
        return f"extension('{url}')" + ("" if match[1] == "ext" and ".part(" in path else ".value")

    return f"{base}.{_FUNCTION.sub(extension, path)}"
