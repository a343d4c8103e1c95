from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from certs.crl import Crl, read_crl
from certs.crl_scope import ALL_REASONS
from certs.errors import DirectError, Reason
from certs.evidence import Revocation
from certs.issue import Locations
from certs.ocsp import Status
from certs.path import Path, find_path
from certs.policy import CertificatePolicy, RevocationMode
from certs.revocation import judge
from tests.helpers.pki import NOW, Ca, reissue

POLICY = CertificatePolicy()
HARD = CertificatePolicy(revocation=RevocationMode.HARD_FAIL)
WHERE = Locations(crls=("http://ca.example.org/crl",), ocsp=("http://ca.example.org/ocsp",))
ROOT = Ca.create("Root")
MIDDLE = Ca.create("Middle", parent=ROOT, locations=WHERE)
LEAF = MIDDLE.issue(domain="d.example.org", locations=WHERE).certificate
PLAIN = ROOT.issue(domain="d.example.org").certificate
REVOKED = ocsp.OCSPCertStatus.REVOKED


def path(leaf: x509.Certificate = LEAF) -> Path:
    return find_path(leaf, [MIDDLE.certificate], [ROOT.certificate], now=NOW, policy=POLICY)


def crl(
    ca: Ca,
    *revoked: x509.Certificate,
    of: datetime = NOW - timedelta(hours=1),
    until: datetime = NOW + timedelta(days=1),
) -> Crl:
    listed = ca.crl(revoked, this_update=of, next_update=until)
    return read_crl(listed.public_bytes(Encoding.DER))


def status(
    *crls: Crl,
    answers: tuple[ocsp.OCSPResponse, ...] = (),
    policy: CertificatePolicy = POLICY,
    now: datetime = NOW,
    leaf: x509.Certificate = LEAF,
    intermediates: tuple[x509.Certificate, ...] = (),
) -> Status | Reason:
    revocation = Revocation(crls, answers)
    try:
        return judge(path(leaf), revocation, now=now, policy=policy, intermediates=intermediates)
    except DirectError as error:
        return error.reason


CLEAN = (crl(MIDDLE), crl(ROOT))


def test_all_certificates_known_good() -> None:
    assert status(*CLEAN, policy=HARD) is Status.GOOD


def test_revoked_leaf_and_revoked_intermediate() -> None:
    """AS-085."""
    assert status(crl(MIDDLE, LEAF), crl(ROOT)) is Reason.CERTIFICATE_REVOKED
    assert status(crl(MIDDLE), crl(ROOT, MIDDLE.certificate)) is Reason.CERTIFICATE_REVOKED


def test_no_answer_is_for_the_policy_to_decide() -> None:
    """K-06."""
    assert status() is Status.UNKNOWN
    assert status(policy=HARD) is Reason.REVOCATION_UNKNOWN
    assert status(crl(MIDDLE), policy=HARD) is Reason.REVOCATION_UNKNOWN


def test_certificate_that_names_no_list_needs_none() -> None:
    """AS-087."""
    assert status(leaf=PLAIN, policy=HARD) is Status.GOOD


def test_list_is_believed_only_from_the_issuer() -> None:
    forger = Ca.create("Middle", label="forger")
    assert status(crl(forger, LEAF), crl(ROOT)) is Status.UNKNOWN
    assert status(crl(ROOT, LEAF)) is Status.UNKNOWN


def test_old_list_revokes_still_but_clears_nobody() -> None:
    """AS-088."""
    of, until = NOW - timedelta(days=9), NOW - timedelta(days=2)
    revoked = crl(MIDDLE, LEAF, of=of, until=until)
    assert status(revoked, crl(ROOT)) is Reason.CERTIFICATE_REVOKED
    assert status(crl(MIDDLE, of=of, until=until), crl(ROOT)) is Status.UNKNOWN


def test_list_of_the_future_says_nothing() -> None:
    ahead = crl(MIDDLE, LEAF, of=NOW + timedelta(hours=1), until=NOW + timedelta(days=2))
    assert status(ahead, crl(ROOT)) is Status.UNKNOWN


def test_responder_and_list_complement_each_other() -> None:
    assert status(crl(ROOT), answers=(MIDDLE.ocsp(LEAF),), policy=HARD) is Status.GOOD
    both = status(*CLEAN, answers=(MIDDLE.ocsp(LEAF, REVOKED),))
    assert both is Reason.CERTIFICATE_REVOKED


def test_leaf_that_is_the_anchor_cannot_be_revoked() -> None:
    own = find_path(LEAF, [], [LEAF], now=NOW, policy=POLICY)
    assert judge(own, Revocation((crl(MIDDLE, LEAF),)), now=NOW, policy=HARD) is Status.GOOD


def crl_signer(parent: Ca, *, crl_sign: bool = True) -> Ca:
    """A certificate of MIDDLE's name over another key, which signs CRLs and nothing else."""
    key = Ca.create("Middle", label="crl key").key
    usage = x509.KeyUsage(
        digital_signature=not crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = reissue(
        MIDDLE.certificate, parent, extensions={x509.KeyUsage: usage}, public_key=key
    )
    return Ca(certificate, key)


def test_another_key_of_the_ca_may_sign_its_lists() -> None:
    """RFC5280 6.3.3 (f)."""
    signer = crl_signer(ROOT)
    listed = crl(signer, LEAF)
    with_signer = (signer.certificate,)
    assert status(listed, intermediates=with_signer) is Reason.CERTIFICATE_REVOKED
    assert status(listed) is Status.UNKNOWN


@pytest.mark.parametrize(
    "signer",
    [
        pytest.param(crl_signer(Ca.create("Root", label="forger")), id="not-of-our-anchor"),
        pytest.param(crl_signer(ROOT, crl_sign=False), id="may-not-sign-lists"),
    ],
)
def test_not_any_key_may_sign_its_lists(signer: Ca) -> None:
    intermediates = (signer.certificate,)
    assert status(crl(signer, LEAF), crl(ROOT), intermediates=intermediates) is Status.UNKNOWN


def test_revoked_key_signs_no_lists() -> None:
    signer = crl_signer(ROOT)
    listed = (crl(signer, LEAF), crl(ROOT, signer.certificate))
    assert status(*listed, intermediates=(signer.certificate,)) is Status.UNKNOWN


def delta(*revoked: x509.Certificate, base: int = 1, number: int = 2) -> Crl:
    """A delta list of MIDDLE over list number `base`."""
    listed = MIDDLE.crl(revoked, number=number, extensions=[(x509.DeltaCRLIndicator(base), True)])
    return read_crl(listed.public_bytes(Encoding.DER))


def removal(base: int = 1) -> Crl:
    listed = MIDDLE.crl(
        [LEAF],
        number=2,
        reason=x509.ReasonFlags.remove_from_crl,
        extensions=[(x509.DeltaCRLIndicator(base), True)],
    )
    return read_crl(listed.public_bytes(Encoding.DER))


def test_delta_list_adds_to_the_complete_one() -> None:
    """RFC5280 6.3.3 (c)."""
    assert status(*CLEAN, delta(LEAF)) is Reason.CERTIFICATE_REVOKED
    assert status(*CLEAN, delta()) is Status.GOOD


def test_delta_list_takes_back_what_was_on_hold() -> None:
    assert status(crl(MIDDLE, LEAF), crl(ROOT), removal()) is Status.GOOD


@pytest.mark.parametrize("other", [delta(LEAF, base=5, number=6), delta(LEAF, base=0, number=0)])
def test_delta_list_over_another_list_says_nothing(other: Crl) -> None:
    assert status(*CLEAN, other) is Status.GOOD
    assert status(other, crl(ROOT)) is Status.UNKNOWN


def test_lists_of_some_reasons_count_together() -> None:
    reasons = sorted(ALL_REASONS, key=lambda reason: reason.value)
    parts = [
        read_crl(
            MIDDLE.crl(
                extensions=[
                    (
                        x509.IssuingDistributionPoint(
                            full_name=None,
                            relative_name=None,
                            only_contains_user_certs=False,
                            only_contains_ca_certs=False,
                            only_some_reasons=frozenset(some),
                            indirect_crl=False,
                            only_contains_attribute_certs=False,
                        ),
                        True,
                    )
                ]
            ).public_bytes(Encoding.DER)
        )
        for some in (reasons[:4], reasons[4:])
    ]
    assert status(*parts, crl(ROOT), policy=HARD) is Status.GOOD
    assert status(parts[0], crl(ROOT), policy=HARD) is Reason.REVOCATION_UNKNOWN
