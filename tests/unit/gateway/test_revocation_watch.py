"""A decision made without a fresh answer about revocation is logged and counted (K-06)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog.testing
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import parse_address
from certs.crl import read_crl
from certs.evidence import Evidence, Found, Level, Revocation
from certs.issue import Locations
from certs.policy import CertificatePolicy, RevocationMode
from gateway.metrics import Metrics
from gateway.revocation_watch import QUIET, REMEMBERED, Alert, RevocationWatch
from tests.helpers.pki import NOW, Ca
from trust_bundles.decision import Decision, decide
from trust_bundles.policy import Purpose

ADDRESS = parse_address("drjones@direct.example.org")
URL = "http://ca.example.org/crl"
ROOT = Ca.create("Root")
LEAF = ROOT.issue(address=str(ADDRESS), locations=Locations(crls=(URL,))).certificate
SOFT = CertificatePolicy()
HARD = CertificatePolicy(revocation=RevocationMode.HARD_FAIL)
GOOD = read_crl(ROOT.crl().public_bytes(Encoding.DER))
AWAY = Revocation(unreachable=(URL,))


def evidence(revocation: Revocation) -> Evidence:
    return Evidence(ADDRESS, (Found(LEAF, Level.DNS_ADDRESS),), revocation=revocation)


def decided(of: Evidence, policy: CertificatePolicy, *, trusted: bool = True) -> Decision:
    anchors = [ROOT.certificate] if trusted else []
    return decide(ADDRESS, of, anchors, purpose=Purpose.ENCRYPT, now=NOW, policy=policy)


def alerts(
    revocation: Revocation, policy: CertificatePolicy = SOFT, *, trusted: bool = True
) -> tuple[list[Alert], Sequence[object]]:
    counted: list[Alert] = []
    found = evidence(revocation)
    with structlog.testing.capture_logs() as lines:
        watch = RevocationWatch(counted.append)
        watch.seen(found, [decided(found, policy, trusted=trusted)], NOW)
    return counted, lines


def test_what_soft_fail_let_pass_is_an_alert() -> None:
    counted, (line,) = alerts(AWAY)
    assert counted == [Alert.SOFT_FAIL]
    assert line == {
        "event": "revocation not learnt",
        "log_level": "warning",
        "alert": "soft-fail",
        "issuer": "CN=Root,O=Root",
        "serial": f"{LEAF.serial_number:x}",
        "unreachable": (URL,),
    }


def test_what_hard_fail_refused_is_an_alert() -> None:
    assert alerts(AWAY, HARD)[0] == [Alert.HARD_FAIL]


def test_last_good_list_that_serves_on_is_an_alert() -> None:
    assert alerts(replace(AWAY, crls=(GOOD,)))[0] == [Alert.LAST_GOOD]


def test_fresh_answer_is_none() -> None:
    assert alerts(Revocation(crls=(GOOD,))) == ([], [])


def test_certificate_that_is_refused_anyway_is_none() -> None:
    assert alerts(AWAY, trusted=False) == ([], [])


def test_every_decision_is_counted_and_few_lines_are_written() -> None:
    counted: Counter[Alert] = Counter()
    watch = RevocationWatch(lambda alert: counted.update([alert]))
    found = evidence(AWAY)
    decision = decided(found, SOFT)
    with structlog.testing.capture_logs() as lines:
        for minutes in range(21):
            watch.seen(found, [decision], NOW + timedelta(minutes=minutes))
    assert counted == {Alert.SOFT_FAIL: 21}
    assert len(lines) == 21 * timedelta(minutes=1) // QUIET + 1


def test_memory_of_what_was_told_is_bounded() -> None:
    watch = RevocationWatch(lambda _: None)
    decision = decided(evidence(AWAY), SOFT)
    with structlog.testing.capture_logs() as lines:
        for number in (*range(REMEMBERED + 1), 0):
            away = evidence(Revocation(unreachable=(f"{URL}/{number}",)))
            watch.seen(away, [decision], NOW)
    assert len(lines) == REMEMBERED + 2


def test_operators_see_it_in_the_metrics() -> None:
    metrics = Metrics()
    found = evidence(AWAY)
    watch = RevocationWatch(metrics.revocation_not_learnt)
    watch.seen(found, [decided(found, SOFT)], NOW)
    name, labels = "direct_gateway_revocation_not_learnt_total", {"outcome": "soft-fail"}
    assert metrics.registry.get_sample_value(name, labels) == 1
