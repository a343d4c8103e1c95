from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.domain_check import Finding, Seen, Status, Sts, Tls, View, Wanted, examine
from gateway.mta_sts import Mode, StsPolicy
from tests.helpers.pki import NOW

DOMAIN = "d.example.org"
USER = f"u@{DOMAIN}"
HOST = "mx.example.org"
OURS, THEIRS, OLD = (letter * 64 for letter in "abc")
WANTED = Wanted(DOMAIN, {DOMAIN: frozenset({OURS}), USER: frozenset()}, (HOST,))
GOOD_TLS = Tls("192.0.2.1", "TLSv1.3", (HOST,), NOW + timedelta(days=9), verified=True)
GOOD = View(
    certificates={DOMAIN: Seen((OURS,)), USER: Seen()},
    by_tcp={(DOMAIN, "ns"): Seen((OURS,))},
    mail_hosts=Seen((HOST,)),
    tls={HOST: [GOOD_TLS]},
    ldap=Seen(),
    entries={},
    sts=Sts(True, StsPolicy(Mode.ENFORCE, (HOST,), 60)),
    tls_report=Seen(("v=TLSRPTv1; rua=mailto:x@example.org",)),
)


def wrong(view: View, wanted: Wanted = WANTED) -> list[tuple[str, str]]:
    rows = examine(wanted, view, NOW)
    return [(row.check, row.found) for row in rows if row.status is Status.WRONG]


def test_nothing_is_wrong_with_what_is_as_it_should_be() -> None:
    assert wrong(GOOD) == []
    assert Finding("SRV", f"_ldap._tcp.{DOMAIN}", "LDAP servers, if you have any", "none",
                   Status.ABSENT) in examine(WANTED, GOOD, NOW)  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        pytest.param(Seen(), "none", id="missing"),
        pytest.param(Seen((THEIRS,)), "b" * 16, id="foreign"),
        pytest.param(Seen((OURS, OLD)), f"{'a' * 16}, {'c' * 16}", id="retired-one-left"),
        pytest.param(Seen(failure="SERVFAIL"), "failed: SERVFAIL", id="no-answer"),
    ],
)
def test_other_certificates_than_ours_are_wrong(seen: Seen, found: str) -> None:
    view = replace(GOOD, certificates={DOMAIN: seen, USER: Seen()})
    assert wrong(view) == [("CERT", found)]


def test_name_server_without_tcp_is_wrong() -> None:
    """CD-029."""
    view = replace(GOOD, by_tcp={(DOMAIN, "ns"): Seen(failure="refused")})
    assert wrong(view) == [("CERT by TCP", "failed: refused")]
    assert wrong(replace(GOOD, by_tcp={})) == [("CERT by TCP", "none")]


def test_address_that_nobody_can_write_to_is_wrong() -> None:
    wanted = replace(WANTED, certificates={DOMAIN: frozenset(), USER: frozenset()})
    view = replace(
        GOOD, certificates={DOMAIN: Seen(), USER: Seen()}, by_tcp={(DOMAIN, "ns"): Seen()}
    )
    assert [check for check, _ in wrong(view, wanted)] == ["CERT", "CERT"]


def test_certificates_in_ldap_do_not_count_where_dns_has_the_domains() -> None:
    """CD-002: discovery never gets as far as LDAP."""
    wanted = replace(WANTED, certificates={DOMAIN: frozenset({OURS}), USER: frozenset({OLD})})
    view = replace(GOOD, ldap=Seen(("ldap:389",)), entries={(USER, "ldap:389"): Seen((OLD,))})
    assert ("CERT", "none") in wrong(view, wanted)
    both = replace(
        view,
        certificates={DOMAIN: Seen(), USER: Seen()},
        by_tcp={(DOMAIN, "ns"): Seen(), (USER, "ns"): Seen()},
        entries={(USER, "ldap:389"): Seen((OLD,)), (DOMAIN, "ldap:389"): Seen((OURS,))},
    )
    assert wrong(both, wanted) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param({"version": None}, "no STARTTLS", id="no-starttls"),
        pytest.param({"names": ("other.example.org",)}, "other.example.org", id="other-name"),
        pytest.param({"names": ("*.mx.example.org",)}, "*.mx.example.org", id="too-deep"),
        pytest.param({"expires": NOW - timedelta(days=1)}, "expired", id="expired"),
        pytest.param({"verified": False}, "by no public CA", id="own-ca-under-mta-sts"),
        pytest.param({"failure": "refused", "version": None}, "failed: refused", id="closed"),
    ],
)
def test_tls_of_the_mail_host_is_wrong(change: dict[str, object], found: str) -> None:
    view = replace(GOOD, tls={HOST: [replace(GOOD_TLS, **change)]})  # type: ignore[arg-type]
    ((check, said),) = wrong(view)
    assert check == "TLS"
    assert found in said


def test_own_ca_will_do_where_no_policy_demands_more() -> None:
    own = replace(GOOD_TLS, verified=False, names=("*.example.org",))
    assert wrong(replace(GOOD, tls={HOST: [own]}, sts=Sts())) == []


@pytest.mark.parametrize(
    "sts",
    [
        pytest.param(Sts(True, failure="HTTP 404"), id="no-policy"),
        pytest.param(Sts(True), id="record-without-policy"),
        pytest.param(Sts(True, StsPolicy(Mode.ENFORCE, ("o.example.org",), 60)), id="other-host"),
    ],
)
def test_mta_sts_that_keeps_senders_away_is_wrong(sts: Sts) -> None:
    assert [check for check, _ in wrong(replace(GOOD, sts=sts))] == ["MTA-STS"]


def test_mail_host_that_is_not_ours_is_wrong() -> None:
    view = replace(GOOD, mail_hosts=Seen((HOST, "else.example.org")))
    assert ("MX", f"{HOST}, else.example.org") in wrong(view)
    assert ("MX", "none") in wrong(replace(GOOD, mail_hosts=Seen()))


def test_ldap_server_that_was_asked_for_must_be_announced() -> None:
    wanted = replace(WANTED, ldap=("ldap:389",))
    assert wrong(GOOD, wanted) == [("SRV", "none")]


def test_two_tls_reporting_records_are_none() -> None:
    """RFC8460 3."""
    view = replace(GOOD, tls_report=Seen(GOOD.tls_report.values * 2))
    assert [check for check, _ in wrong(view)] == ["TLS-RPT"]
