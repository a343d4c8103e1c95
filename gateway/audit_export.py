"""Audit events in the forms that others read: lines of JSON, and FHIR AuditEvent.

Pure. The lines keep the chain: who has them can verify them without our database.

Standards:
    FHIR    R4 AuditEvent; DICOM PS3.16 CID 405 by way of `audit-event-type`
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from certs.errors import DirectError, Reason
from gateway.audit import AuditEvent

__all__ = ["events_of", "fhir_audit_event", "line_of"]

_FIELDS: Final = frozenset(AuditEvent.__slots__)
_TEXTS: Final = _FIELDS - {"number", "at", "old", "new"}
# Outcomes of ours that mean the act did not come about; all others mean that it did.
_FAILURES: Final = frozenset({"failure", "failed", "refused"})
_TYPE_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"


def line_of(event: AuditEvent) -> str:
    """Return the event as one line of JSON, without the line's end."""
    values = asdict(event)
    values["at"] = event.at.isoformat(timespec="microseconds")
    return json.dumps(values, separators=(",", ":"))


def events_of(lines: Iterable[str]) -> Iterator[AuditEvent]:
    """Yield the events that `line_of` wrote.

    Raises:
        DirectError: RESOURCE_INVALID; a line is no such event.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield _event(json.loads(line))
        except (ValueError, TypeError, KeyError):
            detail = f"line {number} is not an audit event"
            raise DirectError(Reason.RESOURCE_INVALID, detail) from None


def _event(values: Any) -> AuditEvent:
    if set(values) != _FIELDS or not all(isinstance(values[name], str) for name in _TEXTS):
        raise ValueError
    return AuditEvent(**{**values, "at": datetime.fromisoformat(values["at"])})


def fhir_audit_event(event: AuditEvent) -> dict[str, Any]:
    """Return the event as an R4 AuditEvent, as JSON values."""
    changes = {"old": event.old, "new": event.new, "digest": event.digest}
    return {
        "resourceType": "AuditEvent",
        "id": f"audit-{event.number}",
        # DICOM's "Application Activity" is the class that all of our acts belong to.
        "type": {"system": _TYPE_SYSTEM, "code": "110100", "display": "Application Activity"},
        "subtype": [{"system": "urn:direct-gateway:action", "code": event.action}],
        "action": "E",
        "recorded": event.at.isoformat(timespec="microseconds"),
        "outcome": "4" if event.outcome in _FAILURES else "0",
        **({"outcomeDesc": event.outcome} if event.outcome else {}),
        "agent": [{"who": {"display": event.actor}, "requestor": True}],
        "source": {"observer": {"display": "direct-gateway"}},
        "entity": [
            {
                "what": {"identifier": {"value": event.subject}},
                "detail": [
                    {"type": name, "valueString": value}
                    for name, value in changes.items()
                    if value is not None
                ],
            }
        ],
    }
