"""Every path tried is told, with why it failed; and the clause of the policy that forbids."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import parse_address
from certs.crl import Crl
from certs.evidence import Evidence, Found, Level, Revocation
from certs.issue import Locations
from certs.policy import CertificatePolicy
from tests.helpers.pki import NOW, Ca
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, decide
from trust_bundles.explain import Try, clauses_against, revocation_shown, tries_for
from trust_bundles.policy import Purpose

ADDRESS = parse_address("dr.chen@direct.lakeview.example")
CRL_AT = Locations(crls=("http://crl.example.org/ca.crl",))
ROOT = Ca.create("Root")
MIDDLE = Ca.create("Middle", parent=ROOT)
LEAF = MIDDLE.issue(address=str(ADDRESS), locations=CRL_AT).certificate
POLICY = CertificatePolicy()


def evidence(*intermediates: Ca, leaf: x509.Certificate = LEAF) -> Evidence:
    found = (Found(leaf, Level.DNS_ADDRESS),)
    return Evidence(ADDRESS, found, intermediates=tuple(ca.certificate for ca in intermediates))


def decided(
    found: Evidence, *anchors: x509.Certificate, policy: CertificatePolicy = POLICY
) -> Decision:
    return decide(ADDRESS, found, Anchors(anchors), purpose=Purpose.ENCRYPT, now=NOW, policy=policy)


def tried(found: Evidence, *anchors: x509.Certificate) -> tuple[Try, ...]:
    [verdict] = decided(found, *anchors).verdicts
    return tries_for(verdict, found, Anchors(anchors), now=NOW, policy=POLICY)


def test_path_that_holds() -> None:
    [only] = tried(evidence(MIDDLE), ROOT.certificate)
    assert only == Try((LEAF, MIDDLE.certificate), ROOT.certificate, None)


def test_each_path_that_fails_says_why() -> None:
    gone = Ca.create("Root", not_after=NOW - timedelta(days=1)).certificate
    [first, second] = tried(evidence(MIDDLE), gone, ROOT.certificate)
    assert first.anchor == gone
    assert "expired" in (first.failure or "") or "not valid" in (first.failure or "")
    assert second.failure is None


def test_where_no_path_leads_the_chain_is_shown_with_what_is_missing() -> None:
    other = Ca.create("Other").certificate
    [short] = tried(evidence(), other)
    assert (short.certificates, short.anchor) == ((LEAF,), None)
    assert "Middle" in (short.failure or "")
    [longer] = tried(evidence(MIDDLE), other)
    assert longer.certificates == (LEAF, MIDDLE.certificate)
    assert "Root" in (longer.failure or "")
    [whole] = tried(evidence(MIDDLE, ROOT), other)
    assert whole.failure == "ends in a root that is no anchor"
    impostor = Ca.create("Root", label="impostor").certificate
    [fooled] = tried(evidence(MIDDLE), impostor)
    assert "did not sign it" in (fooled.failure or "")


def test_leaf_that_is_an_anchor_is_its_own_path() -> None:
    assert tried(evidence(), LEAF) == (Try((LEAF,), LEAF, None),)


def test_clause_that_forbids_is_named_and_no_other() -> None:
    policy = replace(POLICY, keys=frozenset({"rsa"}), minimum_rsa_bits=4096)
    found = evidence(MIDDLE)

    def against(policy: CertificatePolicy, *anchors: x509.Certificate) -> tuple[str, ...]:
        [verdict] = decided(found, *anchors, policy=policy).verdicts
        return clauses_against(verdict, policy, lambda p: decided(found, *anchors, policy=p))

    assert against(policy, ROOT.certificate) == ("keys",)
    assert against(POLICY, ROOT.certificate) == ()  # trusted
    assert against(policy) == ()  # no clause alone would help
    demanding = replace(POLICY, required_policies=frozenset({"1.2.3"}))
    assert against(demanding, ROOT.certificate) == ("required_policies",)


def test_revocation_is_shown_with_its_source_and_age() -> None:
    crl = Crl(MIDDLE.crl().public_bytes(Encoding.DER))
    found = replace(evidence(MIDDLE), revocation=Revocation(crls=(crl,), fetched_at=NOW))
    [good] = decided(found, ROOT.certificate).verdicts
    shown = revocation_shown(good, found.revocation, NOW)
    assert (shown.status, shown.source, shown.age_s) == ("good", CRL_AT.crls[0], 3600)
    revoking = Crl(MIDDLE.crl([LEAF]).public_bytes(Encoding.DER))
    found = replace(found, revocation=Revocation(crls=(revoking,), fetched_at=NOW))
    [revoked] = decided(found, ROOT.certificate).verdicts
    assert revocation_shown(revoked, found.revocation, NOW).status == "revoked"
    nothing = Revocation(unreachable=(CRL_AT.crls[0],))
    [unknown] = decided(evidence(MIDDLE), ROOT.certificate).verdicts
    shown = revocation_shown(unknown, nothing, NOW)
    assert (shown.status, shown.source, shown.unreachable) == ("unknown", None, CRL_AT.crls)
    [untrusted] = decided(evidence(MIDDLE)).verdicts
    assert revocation_shown(untrusted, nothing, NOW).status == "not-checked"
    plain = MIDDLE.issue(address=str(ADDRESS)).certificate
    [silent] = decided(evidence(MIDDLE, leaf=plain), ROOT.certificate).verdicts
    assert revocation_shown(silent, Revocation(), NOW).status == "not-published"
