from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import parse_address
from certs.crl import read_crl
from certs.errors import Reason
from certs.evidence import Evidence, Found, Level, Revocation
from certs.issue import Locations, Use
from certs.ocsp import Status
from certs.policy import CertificatePolicy, RevocationMode
from tests.helpers.pki import NOW, Ca
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, decide, is_judged
from trust_bundles.policy import Purpose
from trust_bundles.verdicts import VerdictCache

ADDRESS = parse_address("drjones@direct.example.org")
ROOT = Ca.create("Root")
MIDDLE = Ca.create("Middle", parent=ROOT)
OTHER = Ca.create("Other")
NOTHING = Revocation()
POLICY = CertificatePolicy()
WITH_CRL = Locations(crls=("http://ca.example/crl",))


def evidence(
    *certificates: x509.Certificate,
    level: Level = Level.DNS_ADDRESS,
    intermediates: Sequence[x509.Certificate] = (),
    revocation: Revocation = NOTHING,
    failure: Reason | None = None,
) -> Evidence:
    found = tuple(Found(certificate, level) for certificate in certificates)
    return Evidence(ADDRESS, found, (), tuple(intermediates), revocation, failure)


def judged(
    *certificates: x509.Certificate,
    level: Level = Level.DNS_ADDRESS,
    anchors: Sequence[x509.Certificate] = (ROOT.certificate,),
    purpose: Purpose = Purpose.ENCRYPT,
    policy: CertificatePolicy = POLICY,
    intermediates: Sequence[x509.Certificate] = (),
    revocation: Revocation = NOTHING,
    cache: VerdictCache | None = None,
) -> Decision:
    seen = evidence(*certificates, level=level, intermediates=intermediates, revocation=revocation)
    return decide(ADDRESS, seen, anchors, purpose=purpose, now=NOW, policy=policy, cache=cache)


VALID = ROOT.issue(address=str(ADDRESS)).certificate
EXPIRED = ROOT.expired(address=str(ADDRESS)).certificate
FOREIGN = ROOT.issue(address="other@direct.example.org").certificate
SIGN_ONLY = ROOT.issue(address=str(ADDRESS), uses=frozenset({Use.SIGN}), label="s").certificate
UNTRUSTED = OTHER.issue(address=str(ADDRESS)).certificate
REVOKED = ROOT.issue(address=str(ADDRESS), locations=WITH_CRL).certificate
BY_MIDDLE = MIDDLE.issue(address=str(ADDRESS)).certificate
DOMAIN_BOUND = ROOT.issue(domain=ADDRESS.domain).certificate
REVOCATION = Revocation(crls=(read_crl(ROOT.crl([REVOKED]).public_bytes(Encoding.DER)),))


def test_trusted_certificate_is_decided_for_with_its_path() -> None:
    decision = judged(VALID)
    assert decision.reason is None
    assert decision.certificates == (VALID,)
    verdict = decision.verdicts[0]
    assert verdict.path == (VALID,)
    assert verdict.anchor == ROOT.certificate
    assert verdict.revocation is Status.GOOD


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        pytest.param(FOREIGN, Reason.CERTIFICATE_NOT_BOUND, id="another-address"),
        pytest.param(EXPIRED, Reason.CERTIFICATE_EXPIRED, id="expired"),
        pytest.param(SIGN_ONLY, Reason.CERTIFICATE_UNFIT, id="signs-only"),
        pytest.param(UNTRUSTED, Reason.NOT_TRUSTED, id="other-ca"),
        pytest.param(BY_MIDDLE, Reason.NOT_TRUSTED, id="intermediate-missing"),
        pytest.param(REVOKED, Reason.CERTIFICATE_REVOKED, id="revoked"),
        pytest.param(DOMAIN_BOUND, Reason.CERTIFICATE_NOT_BOUND, id="domain-bound-at-address"),
    ],
)
def test_refused_for_the_first_thing_wrong(certificate: x509.Certificate, reason: Reason) -> None:
    decision = judged(certificate, revocation=REVOCATION)
    assert decision.reason is reason
    assert decision.certificates == ()
    assert decision.verdicts[0].reason is reason
    assert decision.detail


def test_usable_certificates_of_a_set_are_all_taken_and_the_others_ignored() -> None:
    """CD-004: D4, D9 and D17 of the official tool."""
    second = ROOT.issue(address=str(ADDRESS), label="second").certificate
    decision = judged(EXPIRED, VALID, REVOKED, FOREIGN, second, revocation=REVOCATION)
    assert decision.certificates == (VALID, second)
    assert decision.reason is None


def test_reason_is_of_the_certificate_that_came_furthest() -> None:
    assert judged(EXPIRED, UNTRUSTED, FOREIGN).reason is Reason.NOT_TRUSTED


def test_domain_bound_certificate_serves_at_the_domain_level_and_in_a_message() -> None:
    assert judged(DOMAIN_BOUND, level=Level.DNS_DOMAIN).reason is None
    assert judged(DOMAIN_BOUND, level=Level.LDAP_DOMAIN).reason is None
    signed = judged(DOMAIN_BOUND, level=Level.MESSAGE, purpose=Purpose.SIGN)
    assert signed.reason is None


def test_nothing_found_says_why() -> None:
    for failure, reason in (
        (None, Reason.CERTIFICATE_NOT_FOUND),
        (Reason.DIRECTORY_UNAVAILABLE, Reason.DIRECTORY_UNAVAILABLE),
    ):
        seen = evidence(failure=failure)
        decision = decide(ADDRESS, seen, [], purpose=Purpose.ENCRYPT, now=NOW)
        assert decision.reason is reason


def test_purpose_decides_about_fitness() -> None:
    assert judged(SIGN_ONLY, level=Level.MESSAGE, purpose=Purpose.SIGN).reason is None


def test_intermediates_and_anchors_that_are_intermediates() -> None:
    assert judged(BY_MIDDLE, intermediates=[MIDDLE.certificate]).reason is None
    assert judged(BY_MIDDLE, anchors=[MIDDLE.certificate]).reason is None


def test_hard_fail_refuses_what_soft_fail_lets_pass() -> None:
    hard = CertificatePolicy(revocation=RevocationMode.HARD_FAIL)
    assert judged(REVOKED, policy=hard).reason is Reason.REVOCATION_UNKNOWN
    assert judged(VALID, policy=hard).reason is None
    soft = judged(REVOKED)
    assert soft.reason is None
    assert soft.verdicts[0].revocation is Status.UNKNOWN


def test_cached_verdict_follows_anchors_policy_and_revocation() -> None:
    cache = VerdictCache()
    assert judged(REVOKED, cache=cache).reason is None
    assert judged(REVOKED, cache=cache).reason is None
    revoked = judged(REVOKED, cache=cache, revocation=REVOCATION)
    assert revoked.reason is Reason.CERTIFICATE_REVOKED
    untrusted = judged(REVOKED, cache=cache, anchors=[OTHER.certificate])
    assert untrusted.reason is Reason.NOT_TRUSTED
    hard = CertificatePolicy(revocation=RevocationMode.HARD_FAIL)
    assert judged(REVOKED, cache=cache, policy=hard).reason is Reason.REVOCATION_UNKNOWN


def test_what_was_judged_is_told_from_what_was_not() -> None:
    cache = VerdictCache()

    def known(*certificates: x509.Certificate, policy: CertificatePolicy = POLICY) -> bool:
        return is_judged(
            evidence(*certificates),
            Anchors([ROOT.certificate]),
            purpose=Purpose.ENCRYPT,
            now=NOW,
            policy=policy,
            cache=cache,
        )

    assert known()
    assert not known(VALID)
    judged(VALID, cache=cache)
    assert known(VALID)
    assert not known(VALID, SIGN_ONLY)
    assert not known(VALID, policy=CertificatePolicy(revocation=RevocationMode.HARD_FAIL))


def test_cached_verdict_does_not_outlive_the_certificate() -> None:
    cache = VerdictCache()
    brief = ROOT.issue(address=str(ADDRESS), not_after=NOW + timedelta(minutes=5)).certificate
    assert judged(brief, cache=cache).reason is None
    later = decide(
        ADDRESS,
        evidence(brief),
        [ROOT.certificate],
        purpose=Purpose.ENCRYPT,
        now=NOW + timedelta(minutes=6),
        cache=cache,
    )
    assert later.reason is Reason.CERTIFICATE_EXPIRED
