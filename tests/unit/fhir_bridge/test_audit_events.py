"""What is audited as AuditEvent (fhir.md 3.3, "also created"; section 2 row 32)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fhir.resources.R4B import get_fhir_model_class

from fhir_bridge.access import Recorded
from fhir_bridge.audit_api import audit_event
from tests.unit.fhir_bridge.conftest import NOW, TERMS

MESSAGE = f"Communication/{UUID(int=1)}"


def shown(action: str, subject: str, outcome: str) -> dict[str, Any]:
    event = audit_event(Recorded(7, NOW, "backbone", action, subject, outcome), TERMS)
    get_fhir_model_class("AuditEvent").model_validate(event)
    return event


def test_a_received_message_is_an_import_of_which_only_the_resource_is_told() -> None:
    event = shown("communication-received", MESSAGE, "trusted")
    assert event["type"] == {
        "system": "http://dicom.nema.org/resources/ontology/DCM",
        "code": "110107",
        "display": "Import",
    }
    assert (event["action"], event["outcome"]) == ("C", "0")
    assert event["entity"] == [{"what": {"reference": MESSAGE}}]
    assert "text" not in event


def test_a_try_to_tell_a_subscriber_says_how_it_ended() -> None:
    outcomes = [
        shown("fhir-notify", f"Subscription/{UUID(int=2)}", status)["outcome"]
        for status in ("200", "502")
    ]
    assert outcomes == ["0", "8"]
