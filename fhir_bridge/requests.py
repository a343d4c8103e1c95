"""A `CommunicationRequest` that asks for a Direct message: what it sends, what it comes to.

Pure.

Standards:
    FHIR    R4 CommunicationRequest
    fhir.md section 3.4, last paragraph
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from fhir_bridge.indexing import interval
from fhir_bridge.terms import JSON, Terms, extension_value, is_direct

__all__ = ["communication_of", "due_at", "is_active", "outcome_of"]

_SHARED: Final = (
    "contained",
    "category",
    "priority",
    "medium",
    "subject",
    "about",
    "encounter",
    "payload",
    "recipient",
    "sender",
    "reasonCode",
    "note",
)
# What the end of a Communication means for its request (fhir.md 3.4): a person must act on a
# message that failed.
_OUTCOMES: Final = {"completed": "completed", "stopped": "on-hold", "not-done": "on-hold"}


def is_active(request: Mapping[str, Any]) -> bool:
    """Say whether the request asks for a Direct message to be sent now (D10)."""
    medium = request.get("medium", ())
    return (
        request.get("status") == "active"
        and request.get("doNotPerform") is not True
        and (not medium or is_direct(medium))
    )


def due_at(request: Mapping[str, Any]) -> datetime | None:
    """Return when the request is to be sent: from the time it names on; None: at once."""
    period = request.get("occurrencePeriod", {})
    times = interval(request.get("occurrenceDateTime", period.get("start", "")))
    return times[0] if times else None


def communication_of(request: JSON, identity: UUID, *, terms: Terms) -> JSON:
    """Return the Communication that fulfils `request`, to be sent.

    R4's request has no topic: our extension `topic` says the subject line.
    """
    communication: JSON = {
        "resourceType": "Communication",
        "status": "in-progress",
        "basedOn": [{"reference": f"CommunicationRequest/{identity}"}],
        **{name: request[name] for name in _SHARED if name in request},
    }
    topic = extension_value(request, terms.extension("topic"))
    if topic is not None:
        communication["topic"] = {"text": topic}
    return communication


def outcome_of(request: JSON, communication: Mapping[str, Any]) -> JSON:
    """Return `request` with the status that its Communication's end gives it."""
    status = _OUTCOMES.get(communication.get("status", ""))
    if request.get("status") != "active" or status is None:
        return request
    changed: JSON = {**request, "status": status}
    if "statusReason" in communication:
        changed["statusReason"] = communication["statusReason"]
    return changed
