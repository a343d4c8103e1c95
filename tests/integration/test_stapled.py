"""Revocation answers that come inside a message: used when a CA of the path signed them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from certs.address import parse_address
from certs.cms import der
from certs.cms.signed import SignedData
from certs.directory import open_directory
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Found, Level, Revocation
from certs.issue import Locations
from certs.policy import CertificatePolicy, RevocationMode
from gateway.judgement import open_message, signer_evidence
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW, Ca
from tests.helpers.servers import free_port
from trust_bundles.decision import Decision, decide
from trust_bundles.policy import Purpose

ADDRESS = parse_address("drjones@direct.example.org")
ROOT = Ca.create("Root")
DEAD = f"http://127.0.0.1:{free_port()}"
SIGNER = ROOT.issue(
    address=str(ADDRESS), locations=Locations(crls=(f"{DEAD}/crl",), ocsp=(f"{DEAD}/ocsp",))
)
FORGER = Ca.create("Root", label="forger")
OTHER = ROOT.issue(address="nurse@direct.example.org").certificate
HARD = CertificatePolicy(revocation=RevocationMode.HARD_FAIL)
REVOKED = ocsp.OCSPCertStatus.REVOKED
OCSP_RESPONSE = der.oid("1.3.6.1.5.5.7.16.2")
STALE = {"this_update": NOW - timedelta(days=9), "next_update": NOW - timedelta(days=2)}


def crl(ca: Ca, *revoked: object, **dates: object) -> bytes:
    return ca.crl(revoked, **dates).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def answer(response: ocsp.OCSPResponse, kind: bytes = OCSP_RESPONSE) -> bytes:
    return der.tlv(der.context(1), kind, response.public_bytes(Encoding.DER))


def stapled(choices: Sequence[bytes]) -> Revocation:
    data = SignedData([signed(choices)])
    for _ in data.content():
        pass
    data.finish()
    return data.stapled


def signed(choices: Sequence[bytes]) -> bytes:
    info = cms.signer_info(SIGNER, b"x")
    return cms.signed_data([info], [SIGNER.certificate], content=b"x", revocation=choices)


async def decided(revocation: Revocation, policy: CertificatePolicy) -> tuple[Decision, Evidence]:
    """Complete and decide as for a message that came in; whoever should be asked is away."""
    found = (Found(SIGNER.certificate, Level.MESSAGE),)
    evidence = Evidence(ADDRESS, found, revocation=revocation)
    anchors = [ROOT.certificate]
    async with open_directory(resolver=("127.0.0.1", 1), allow_private=True) as directory:
        evidence = await directory.complete(evidence, anchors, now=NOW, policy=policy)
    decision = decide(ADDRESS, evidence, anchors, purpose=Purpose.SIGN, now=NOW, policy=policy)
    return decision, evidence


CASES: dict[str, tuple[Callable[[], Sequence[bytes]], Reason | None]] = {
    "nothing": (lambda: [], Reason.REVOCATION_UNKNOWN),
    "good-list": (lambda: [crl(ROOT)], None),
    "good-answer": (lambda: [answer(ROOT.ocsp(SIGNER.certificate))], None),
    "list-that-revokes": (lambda: [crl(ROOT, SIGNER.certificate)], Reason.CERTIFICATE_REVOKED),
    "answer-that-revokes": (
        lambda: [answer(ROOT.ocsp(SIGNER.certificate, REVOKED))],
        Reason.CERTIFICATE_REVOKED,
    ),
    "list-that-revokes-beside-a-good-answer": (
        lambda: [answer(ROOT.ocsp(SIGNER.certificate)), crl(ROOT, SIGNER.certificate)],
        Reason.CERTIFICATE_REVOKED,
    ),
    "stale-list": (lambda: [crl(ROOT, **STALE)], Reason.REVOCATION_UNKNOWN),
    "stale-list-that-revokes": (
        lambda: [crl(ROOT, SIGNER.certificate, **STALE)],
        Reason.CERTIFICATE_REVOKED,
    ),
    "stale-answer": (
        lambda: [answer(ROOT.ocsp(SIGNER.certificate, **STALE))],  # type: ignore[arg-type]
        Reason.REVOCATION_UNKNOWN,
    ),
    "list-of-another-key": (lambda: [crl(FORGER)], Reason.REVOCATION_UNKNOWN),
    "answer-of-another-key": (
        lambda: [answer(FORGER.ocsp(SIGNER.certificate))],
        Reason.REVOCATION_UNKNOWN,
    ),
    "answer-about-another": (lambda: [answer(ROOT.ocsp(OTHER))], Reason.REVOCATION_UNKNOWN),
    "answer-of-another-format": (
        lambda: [answer(ROOT.ocsp(SIGNER.certificate), der.oid("1.3.6.1.5.5.7.16.4"))],
        Reason.REVOCATION_UNKNOWN,
    ),
    "rubbish-beside-a-good-list": (
        lambda: [der.sequence(der.integer(1)), der.tlv(der.context(1)), crl(ROOT)],
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_stapled_answer(name: str) -> None:
    """RFC5652 10.2.1 and RFC5940, where the domain demands an answer."""
    choices, reason = CASES[name]
    decision, _ = await decided(stapled(choices()), HARD)
    assert decision.reason is reason, decision.detail


async def test_answers_that_no_ca_of_the_path_signed_are_dropped() -> None:
    """They would fill the caches of verdicts."""
    kept = crl(ROOT)
    answers = stapled([crl(FORGER), kept, answer(FORGER.ocsp(OTHER)), answer(ROOT.ocsp(OTHER))])
    assert (len(answers.crls), len(answers.ocsp_responses)) == (2, 2)
    _, evidence = await decided(answers, CertificatePolicy())
    assert len(evidence.revocation.crls) == 1
    assert evidence.revocation.ocsp_responses == ()


async def test_good_answer_spares_nobody_the_question() -> None:
    """It may be from before the revocation, and its sender may be who lost the key."""
    _, evidence = await decided(stapled([crl(ROOT)]), HARD)
    assert evidence.revocation.unreachable == (f"{DEAD}/crl", f"{DEAD}/ocsp")


def test_many_answers_are_not_all_read() -> None:
    many = stapled([crl(FORGER)] * 20 + [answer(FORGER.ocsp(OTHER))] * 20)
    assert (len(many.crls), len(many.ocsp_responses)) == (8, 16)


def test_more_than_64_answers_are_malformed() -> None:
    """An empty choice of another kind each: nothing to read, but something to walk over."""
    other = der.tlv(der.context(1))
    assert stapled([other] * 64) == Revocation()
    with pytest.raises(DirectError) as refused:
        stapled([other] * 65)
    assert refused.value.reason is Reason.MESSAGE_MALFORMED


def test_answers_of_a_received_message_are_evidence_about_its_signer() -> None:
    recipient = ROOT.issue(address="desk@direct.example.net", key="rsa2048")
    inner = b"From: drjones@direct.example.org\r\nTo: desk@direct.example.net\r\n\r\nHello\r\n"
    data = cms.signed_data(
        [cms.signer_info(SIGNER, inner)], [SIGNER.certificate], revocation=[crl(ROOT)]
    )
    sealed = cms.sealed(cms.multipart_signed(inner, data), recipient)
    opened = open_message(
        io.BytesIO(sealed), io.BytesIO(), identities=[recipient], policy=CertificatePolicy()
    )
    (found,) = signer_evidence(opened).revocation.crls
    assert found.signed_by(ROOT.certificate)
