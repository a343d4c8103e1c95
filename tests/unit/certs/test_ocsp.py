from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from certs.identity import Identity
from certs.ocsp import Status, fresh_until, request_for, status_in
from tests.helpers.pki import NOW, Ca, private_key_of, reissue

ROOT = Ca.create("Root")
LEAF = ROOT.issue(domain="d.example.org").certificate
GOOD, REVOKED, UNKNOWN = (
    ocsp.OCSPCertStatus.GOOD,
    ocsp.OCSPCertStatus.REVOKED,
    ocsp.OCSPCertStatus.UNKNOWN,
)
HOUR = timedelta(hours=1)


def status(answer: ocsp.OCSPResponse, now: datetime = NOW) -> Status:
    return status_in(answer, LEAF, ROOT.certificate, now)


def responder(*, purpose: x509.ObjectIdentifier = Eku.OCSP_SIGNING, ca: Ca = ROOT) -> Identity:
    plain = ca.issue(domain="ocsp.example.org")
    certificate = reissue(
        plain.certificate,
        ca,
        extensions={x509.ExtendedKeyUsage: x509.ExtendedKeyUsage([purpose])},
    )
    return Identity(certificate, (), plain.key)


@pytest.mark.parametrize(
    ("said", "expected"),
    [(GOOD, Status.GOOD), (REVOKED, Status.REVOKED), (UNKNOWN, Status.UNKNOWN)],
)
@pytest.mark.parametrize("key", ["p256", "rsa2048", "p384"])
def test_issuer_answers_itself(said: ocsp.OCSPCertStatus, expected: Status, key: str) -> None:
    ca = Ca.create("Ca", key=key, label=f"ca {key}")
    leaf = ca.issue(domain="d.example.org").certificate
    assert status_in(ca.ocsp(leaf, said), leaf, ca.certificate, NOW) is expected


def test_delegate_of_the_issuer_answers() -> None:
    """RFC6960 4.2.2.2."""
    assert status(ROOT.ocsp(LEAF, responder=responder())) is Status.GOOD


@pytest.mark.parametrize(
    "delegate",
    [
        pytest.param(responder(purpose=Eku.EMAIL_PROTECTION), id="without-purpose"),
        pytest.param(responder(ca=Ca.create("Root", label="forger")), id="other-ca"),
        pytest.param(ROOT.issue(domain="ocsp.example.org"), id="usual-certificate"),
    ],
)
def test_others_may_not_answer(delegate: Identity) -> None:
    assert status(ROOT.ocsp(LEAF, REVOKED, responder=delegate)) is Status.UNKNOWN


def test_answer_signed_by_another_key_counts_for_nothing() -> None:
    answer = ROOT.ocsp(LEAF, REVOKED).public_bytes(Encoding.DER)
    forged = answer[:-1] + bytes([answer[-1] ^ 1])
    assert status(ocsp.load_der_ocsp_response(forged)) is Status.UNKNOWN


def test_answer_about_another_certificate_says_nothing() -> None:
    other = ROOT.issue(domain="other.example.org").certificate
    assert status(ROOT.ocsp(other)) is Status.UNKNOWN


@pytest.mark.parametrize(
    ("this_update", "next_update", "expected"),
    [
        pytest.param(NOW - HOUR, NOW + HOUR, Status.GOOD, id="fresh"),
        pytest.param(NOW - 2 * HOUR, NOW - HOUR, Status.UNKNOWN, id="stale"),
        pytest.param(NOW + HOUR, NOW + 2 * HOUR, Status.UNKNOWN, id="future"),
        pytest.param(NOW - HOUR, None, Status.GOOD, id="no-end"),
        pytest.param(NOW - 48 * HOUR, None, Status.UNKNOWN, id="no-end-old"),
    ],
)
def test_good_only_while_fresh(
    this_update: datetime, next_update: datetime | None, expected: Status
) -> None:
    answer = ROOT.ocsp(LEAF, this_update=this_update, next_update=next_update)
    assert status(answer) is expected


def test_revoked_stays_revoked() -> None:
    """AS-088."""
    answer = ROOT.ocsp(LEAF, REVOKED)
    assert status(answer, NOW + timedelta(days=365)) is Status.REVOKED


def test_answer_that_is_an_error_says_nothing() -> None:
    later = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    assert status(later) is Status.UNKNOWN
    assert fresh_until(later) is None


def test_end_of_an_answer() -> None:
    assert fresh_until(ROOT.ocsp(LEAF, next_update=NOW + HOUR)) == NOW + HOUR
    assert fresh_until(ROOT.ocsp(LEAF, next_update=None)) is None


def test_identifiers_by_other_digests_are_understood() -> None:
    answer = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=LEAF,
            issuer=ROOT.certificate,
            algorithm=hashes.SHA256(),
            cert_status=GOOD,
            this_update=NOW,
            next_update=NOW + HOUR,
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.NAME, ROOT.certificate)
        .sign(ROOT.key, hashes.SHA256())
    )
    assert status(answer) is Status.GOOD


def test_request_names_the_certificate() -> None:
    request = ocsp.load_der_ocsp_request(request_for(LEAF, ROOT.certificate))
    assert request.serial_number == LEAF.serial_number
    assert len(request.extensions) == 0


def test_private_key_of_a_delegate_is_its_own() -> None:
    delegate = responder()
    assert delegate.certificate.public_key() == private_key_of(delegate).public_key()
