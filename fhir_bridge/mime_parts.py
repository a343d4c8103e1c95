"""The extension `mime-part` of a payload, and which payloads go out with a message.

Pure.

Standards:
    fhir.md section 3.3 (class D: what was made here is not sent back)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhir_bridge.terms import JSON, Terms

__all__ = ["mime_part_of", "outgoing_payload"]


def mime_part_of(payload: Mapping[str, Any], terms: Terms) -> Mapping[str, Any]:
    """Return the parts of the extension by their names; none where there is no such extension."""
    url = terms.extension("mime-part")
    for item in payload.get("extension", ()):
        if item.get("url") == url:
            return {
                part["url"]: next((v for k, v in part.items() if k.startswith("value")), None)
                for part in item.get("extension", ())
            }
    return {}


def outgoing_payload(resource: Mapping[str, Any], terms: Terms) -> list[tuple[int, JSON]]:
    """Return the payloads with their positions, but what was made from another of them."""
    listed = [(p, mime_part_of(p, terms)) for p in resource.get("payload", ())]
    # fhir.md 3.3, class D: text of the HTML, files of a winmail.dat that goes along itself.
    whole = {part.get("path") for p, part in listed if not part.get("derived")} - {None}
    return [
        (number, p)
        for number, (p, part) in enumerate(listed)
        if not (part.get("derived") and part.get("derived-from", part.get("path")) in whole)
    ]
