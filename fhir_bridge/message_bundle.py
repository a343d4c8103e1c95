"""A message Bundle: what it says of itself, and the resources that it brings.

Pure.

Standards:
    FHIR    R4 messaging.html, messageheader.html, bundle.html (message)
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.resources import check, decimal_text, require_type, require_well_formed
from fhir_bridge.terms import JSON

__all__ = ["Entry", "Message", "read_message"]

ENTRIES_MAX: Final = 1000
_RESTFUL: Final = re.compile(r"(https?://.+)/[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A resource of the Bundle; `base` is the server that its relative references are of."""

    url: str
    base: str | None
    resource: JSON


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `id` is its MessageHeader's, `envelope` a digest of the Bundle's identifier.

    `digest` is of all that it says: that of the same message is the same, whatever envelope it
    comes in.
    """

    id: str
    envelope: str | None
    digest: str
    header: JSON
    entries: tuple[Entry, ...]


def read_message(bundle: JSON) -> Message:
    """Return what `bundle` is.

    Raises:
        FhirError: RESOURCE_INVALID; it is no message that could be answered.
    """
    require_type(bundle, "Bundle")
    require_well_formed(bundle, "Bundle")
    if bundle.get("type") != "message":
        raise _invalid("value", "Only a Bundle of type message is taken here.", "Bundle.type")
    listed = bundle.get("entry")
    if not isinstance(listed, list) or len(listed) > ENTRIES_MAX:
        raise _invalid("structure", "A message has 1 to 1,000 entries.", "Bundle.entry")
    entries = tuple(_entry(item, position) for position, item in enumerate(listed))
    if len({entry.url for entry in entries}) < len(entries):
        text = "bdl-7: each resource of a message has a URL of its own."
        raise _invalid("invariant", text, "Bundle.entry")
    header = entries[0].resource
    if header["resourceType"] != "MessageHeader":
        text = "The first resource of a message is its MessageHeader."
        raise _invalid("structure", text, "Bundle.entry[0].resource")
    check(header)
    if "id" not in header:
        text = "A message is known by the id of its MessageHeader."
        raise _invalid("required", text, "MessageHeader.id")
    check({**bundle, "entry": [{"resource": header}]})
    identifier = bundle.get("identifier")
    return Message(
        id=header["id"],
        envelope=_digest(identifier) if identifier else None,
        digest=_digest([[entry.url, entry.resource] for entry in entries]),
        header=header,
        entries=entries,
    )


def _entry(item: Any, position: int) -> Entry:
    at = f"Bundle.entry[{position}]"
    resource = item.get("resource") if isinstance(item, dict) else None
    if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
        raise _invalid("structure", "An entry of a message has a resource.", f"{at}.resource")
    url = item.get("fullUrl")
    if not isinstance(url, str):
        # Without a URL it is known by its type and id, or not at all.
        return Entry(f"{resource['resourceType']}/{resource.get('id')}", None, resource)
    restful = _RESTFUL.fullmatch(url)
    return Entry(url, restful[1] if restful else None, resource)


def _digest(value: Any) -> str:
    octets = orjson.dumps(value, default=decimal_text, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(octets).hexdigest()


def _invalid(code: str, text: str, expression: str) -> FhirError:
    return FhirError(Reason.RESOURCE_INVALID, [Issue(code, text, expression)])
