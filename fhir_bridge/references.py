"""References inside a resource: find them, put others in their place.

Pure.

Standards:
    FHIR    R4 http.html 3.1.0.11.2 (transactions: temporary ids), 3.1.0.11.2.1 (conditional
            references)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fhir_bridge.terms import JSON

__all__ = ["conditional_references", "with_references"]

_CONDITIONAL: Final = re.compile(r"[A-Z][A-Za-z]+\?\S+")
# Elements that may hold the temporary URL of another entry of a transaction.
_LINKS: Final = frozenset({"reference", "url", "uri", "valueUri", "valueUrl"})


def conditional_references(resource: JSON) -> set[str]:
    """Return every reference of the form Type?search in `resource`."""
    return {
        value
        for name, value in _strings(resource)
        if name == "reference" and _CONDITIONAL.fullmatch(value)
    }


def with_references(value: Any, places: Mapping[str, str]) -> Any:
    """Return `value` with each link that `places` names replaced."""
    if isinstance(value, dict):
        return {
            name: places[item]
            if name in _LINKS and isinstance(item, str) and item in places
            else with_references(item, places)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [with_references(item, places) for item in value]
    return value


def _strings(resource: JSON) -> Iterator[tuple[str, str]]:
    pending: list[tuple[str, Any]] = [("", resource)]
    while pending:
        name, item = pending.pop()
        if isinstance(item, str):
            yield name, item
        elif isinstance(item, dict):
            pending.extend(item.items())
        elif isinstance(item, list):
            pending.extend((name, child) for child in item)
