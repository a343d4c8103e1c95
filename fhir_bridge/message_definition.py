"""The message that `$process-message` takes, as a MessageDefinition at its canonical URL.

Pure.

Standards:
    FHIR    R4 messagedefinition.html, capabilitystatement.html (`messaging.supportedMessage`)
"""

from __future__ import annotations

from typing import Final

from fhir_bridge.message_focus import EVENT
from fhir_bridge.terms import JSON, Terms

__all__ = ["message_definition", "messaging"]

_PUBLISHED: Final = "2026-11-23"
_TRANSPORT: Final = "http://terminology.hl7.org/CodeSystem/message-transport"


def message_definition(name: str, terms: Terms) -> JSON | None:
    """Return the definition that is published as `name`; None where there is none."""
    if name != EVENT:
        return None
    return {
        "resourceType": "MessageDefinition",
        "id": EVENT,
        "url": _url(terms),
        "name": "SendDirect",
        "status": "active",
        "date": _PUBLISHED,
        "description": "A Communication to be sent as a Direct message.",
        "eventCoding": {"system": terms.system("message-event"), "code": EVENT},
        "category": "consequence",
        "focus": [{"code": "Communication", "min": 1, "max": "1"}],
        "responseRequired": "always",
    }


def messaging(base_url: str, terms: Terms) -> JSON:
    """Return what a CapabilityStatement says of messages."""
    return {
        "endpoint": [
            {
                "protocol": {"system": _TRANSPORT, "code": "http"},
                "address": f"{base_url}/$process-message",
            }
        ],
        "documentation": "A message is answered at once, and sent once.",
        "supportedMessage": [{"mode": "receiver", "definition": _url(terms)}],
    }


def _url(terms: Terms) -> str:
    return f"{terms.canonical}/MessageDefinition/{EVENT}"
