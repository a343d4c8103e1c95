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
from fhir_bridge.terms import JSON, Terms

__all__ = ["require_changeable", "require_deletable"]

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
    if new.get("status") not in (old.get("status"), "entered-in-error"):
        issues.append(_frozen("Communication.status"))
    if _ours(old, terms) != _ours(new, terms):
        issues.append(_frozen("Communication.extension"))
    if issues:
        raise FhirError(Reason.RESOURCE_CONFLICT, issues)


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


def _ours(resource: Mapping[str, Any], terms: Terms) -> list[Any]:
    return [
        extension
        for extension in resource.get("extension", ())
        if str(extension.get("url", "")).startswith(f"{terms.canonical}/")
    ]


def _frozen(at: str) -> Issue:
    return Issue("business-rule", "This cannot change once the message is on its way.", at)
