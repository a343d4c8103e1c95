"""What may still change of a stored resource, and what may be deleted.

Pure.

Standards:
    fhir.md section 3.5: after hand-over a message is what was sent; section 4.1: delete drafts only
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.terms import JSON, InboundStatus, Terms, extension_value

__all__ = ["require_changeable", "require_deletable", "require_no_claims"]

_FROZEN: Final = (
    "sender",
    "recipient",
    "topic",
    "payload",
    "sent",
    "received",
    "identifier",
    "inResponseTo",
    "partOf",
    "medium",
)
_DELETABLE: Final = frozenset({"preparation", "entered-in-error"})
# Extensions of a Communication that tell of its signature, its octets, where it came from.
_CLAIMS: Final = ("direct-trust", "raw-message", "envelope", "not-judged")
# Made by the gateway; a client reads them.
OURS_ONLY: Final = frozenset({"Provenance", "AuditEvent"})


def require_changeable(old: Mapping[str, Any], new: JSON, *, message: bool, terms: Terms) -> None:
    """Return where `old` may become `new`. `message`: it was received or sent.

    Raises:
        FhirError: RESOURCE_CONFLICT (409, business-rule), with every element concerned.
    """
    if not message:
        return
    issues = [
        _frozen(f"Communication.{name}") for name in _FROZEN if old.get(name) != new.get(name)
    ]
    if new.get("status") not in _allowed(old, terms):
        issues.append(_frozen("Communication.status"))
    if _ours(old, terms) != _ours(new, terms):
        issues.append(_frozen("Communication.extension"))
    if issues:
        raise FhirError(Reason.RESOURCE_CONFLICT, issues)


def require_no_claims(new: Mapping[str, Any], terms: Terms) -> None:
    """Return where a client's own resource does not state what only the gateway can know.

    Otherwise one client of a mailbox could show the others a message as received and trusted.

    Raises:
        FhirError: RESOURCE_CONFLICT (409, business-rule).
    """
    urls = {terms.extension(name) for name in _CLAIMS}
    stated = [e for e in new.get("extension", ()) if e.get("url") in urls]
    if stated:
        issue = Issue(
            "business-rule", "Only the gateway states this.", f"{new['resourceType']}.extension"
        )
        raise FhirError(Reason.RESOURCE_CONFLICT, [issue])


def require_deletable(old: Mapping[str, Any], *, message: bool) -> None:
    """Return where `old` may be deleted: a draft, a retracted record, a directory entry.

    Raises:
        FhirError: RESOURCE_CONFLICT (409, business-rule).
    """
    kind = old.get("resourceType")
    kept = kind == "Communication" and (message or old.get("status") not in _DELETABLE)
    if kept or kind in OURS_ONLY:
        issue = Issue("business-rule", "What was sent, received or recorded is kept.")
        raise FhirError(Reason.RESOURCE_CONFLICT, [issue])


def _allowed(old: Mapping[str, Any], terms: Terms) -> tuple[str | None, ...]:
    """Return the statuses that the message may come to by a client's word."""
    direction = extension_value(old, terms.extension("direction"))
    # fhir.md section 2 row 17: it was received, and somebody has read it.
    if direction == "inbound" and old.get("status") == InboundStatus.IN_PROGRESS.value:
        return (old["status"], InboundStatus.COMPLETED.value, "entered-in-error")
    return (old.get("status"), "entered-in-error")


def _ours(resource: Mapping[str, Any], terms: Terms) -> list[Any]:
    return [
        extension
        for extension in resource.get("extension", ())
        if str(extension.get("url", "")).startswith(f"{terms.canonical}/")
    ]


def _frozen(at: str) -> Issue:
    return Issue("business-rule", "This cannot change once the message is on its way.", at)
