"""The message that answers a message: whether it was sent, and what became of it.

Pure.

Standards:
    FHIR    R4 messaging.html 2.4.3 (responses), messageheader.html (response),
            valueset-response-code
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid5

from fhir_bridge.delivery import delivery_of
from fhir_bridge.message_bundle import Message
from fhir_bridge.outcome import Issue, operation_outcome
from fhir_bridge.terms import JSON, URI_SYSTEM, Terms
from fhir_bridge.trust import instant

__all__ = ["answer_of", "issues_of"]

_SOURCE = "direct-gateway"
_UNSENT = ("refused", "failed")


def answer_of(
    message: Message,
    *,
    code: str,
    issues: Sequence[Issue],
    identity: UUID,
    now: datetime,
    base_url: str,
    communication: JSON | None = None,
) -> JSON:
    """Return the answer `identity` to `message`: `code` is ok, transient-error or fatal-error.

    With `communication`, as it is stored, it shows what was sent.
    """
    header_id, details_id = uuid5(identity, "header"), uuid5(identity, "details")
    asked = message.header
    response: JSON = {"identifier": message.id, "code": code}
    header: JSON = {
        "resourceType": "MessageHeader",
        "id": str(header_id),
        **{name: asked[name] for name in ("eventCoding", "eventUri") if name in asked},
        "destination": [{"endpoint": asked["source"]["endpoint"]}],
        "source": {"name": _SOURCE, "endpoint": f"{base_url}/$process-message"},
        "response": response,
    }
    entries: list[JSON] = [{"fullUrl": f"urn:uuid:{header_id}", "resource": header}]
    if communication is not None:
        url = f"{base_url}/Communication/{communication['id']}"
        header["focus"] = [{"reference": url}]
        entries.append({"fullUrl": url, "resource": communication})
    if issues:
        url = f"urn:uuid:{details_id}"
        response["details"] = {"reference": url}
        outcome = {**operation_outcome(issues), "id": str(details_id)}
        entries.append({"fullUrl": url, "resource": outcome})
    return {
        "resourceType": "Bundle",
        "id": str(identity),
        "identifier": {"system": URI_SYSTEM, "value": f"urn:uuid:{identity}"},
        "type": "message",
        "timestamp": instant(now),
        "entry": entries,
    }


def issues_of(communication: JSON, terms: Terms) -> list[Issue]:
    """Return an issue for each recipient that the message does not reach."""
    found = []
    for position, recipient in enumerate(communication.get("recipient", ())):
        delivery = delivery_of(recipient, terms)
        if delivery.get("code") in _UNSENT:
            text = delivery.get("text", "The message could not be delivered.")
            at = f"Communication.recipient[{position}]"
            found.append(Issue("processing", text, at, severity="warning"))
    return found
