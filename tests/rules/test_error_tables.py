"""Both tables over `Reason` are total and agree with it (design 4.5)."""

from __future__ import annotations

import pytest

from certs.errors import Reason
from fhir_bridge.outcome import ISSUES
from gateway.status import REPLIES


@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.code)
def test_every_reason_has_an_smtp_reply_or_says_it_never_reaches_the_wire(reason: Reason) -> None:
    reply = REPLIES[reason]
    if reply is None:
        return
    assert (reply.code // 100 == 4) == reason.retryable
    assert reply.status[0] == str(reply.code)[0]


@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.code)
def test_every_reason_has_a_fhir_issue(reason: Reason) -> None:
    assert reason in ISSUES


def test_tables_hold_nothing_else() -> None:
    assert set(REPLIES) == set(Reason)
    assert set(ISSUES) == set(Reason)


def test_codes_are_lower_case_words_with_hyphens() -> None:
    for reason in Reason:
        assert reason.code == reason.name.lower().replace("_", "-")
        assert Reason.of(reason.code) is reason
