from __future__ import annotations

import pytest
from fhir.resources.R4B import get_fhir_model_class

from certs.errors import DirectError, Reason
from fhir_bridge.outcome import (
    ISSUES,
    FhirError,
    Issue,
    issue_of,
    operation_outcome,
    public_text,
)


def test_every_reason_has_a_row() -> None:
    assert set(ISSUES) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.code)
def test_a_transient_issue_is_a_retryable_reason(reason: Reason) -> None:
    row = ISSUES[reason]
    if row is not None and row.code in ("transient", "throttled"):
        assert reason.retryable


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.code)
def test_a_detail_never_reaches_the_client(reason: Reason) -> None:
    status, issues = issue_of(DirectError(reason, "secret detail"))
    assert 400 <= status < 600
    assert "secret" not in str(operation_outcome(issues))
    assert public_text(reason)


def test_an_outcome_is_valid_fhir() -> None:
    outcome = operation_outcome([Issue("value", "Not a date.", "Communication.sent")])
    get_fhir_model_class("OperationOutcome").model_validate(outcome)


def test_an_outcome_has_at_most_a_hundred_issues() -> None:
    outcome = operation_outcome([Issue("value", "x")] * 5000)
    assert len(outcome["issue"]) == 100
    assert outcome["issue"][-1]["details"]["text"] == "4901 more issues are not listed."


def test_an_error_of_ours_keeps_its_status_and_issues() -> None:
    issue = Issue("value", "x")
    assert issue_of(FhirError(Reason.RESOURCE_INVALID, [issue], status=412)) == (412, (issue,))
    assert issue_of(FhirError(Reason.RESOURCE_INVALID, [issue])) == (400, (issue,))
