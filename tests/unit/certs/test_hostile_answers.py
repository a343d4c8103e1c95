"""Lists and answers that parse only in part: they say nothing, and are never an error of ours."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from certs.crl import read_crl
from certs.errors import DirectError
from certs.evidence import Revocation
from certs.identity import Identity
from certs.issue import Locations
from certs.ocsp import Status, fresh_until, read_answer
from certs.path import find_path
from certs.policy import CertificatePolicy
from certs.revocation import authentic, statuses_of
from tests.helpers.pki import NOW, Ca, reissue

POLICY = CertificatePolicy()
ROOT = Ca.create("Root")
MIDDLE = Ca.create("Middle", parent=ROOT)
URL = "http://ca.example.org/crl"
LEAF = MIDDLE.issue(domain="d.example.org", locations=Locations(crls=(URL,))).certificate
PATH = find_path(LEAF, [MIDDLE.certificate], [ROOT.certificate], now=NOW, policy=POLICY)
POINT = x509.IssuingDistributionPoint(
    full_name=[x509.UniformResourceIdentifier(URL)],
    relative_name=None,
    only_contains_user_certs=False,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)
MUTANTS = 3000


def lists() -> Sequence[bytes]:
    delta = [(POINT, True), (x509.DeltaCRLIndicator(1), True)]
    crls = (MIDDLE.crl([LEAF, 5, 6]), MIDDLE.crl([7], extensions=delta))
    return [crl.public_bytes(Encoding.DER) for crl in crls]


def answers() -> Sequence[bytes]:
    plain = MIDDLE.issue(domain="ocsp.example.org")
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.OCSP_SIGNING])
    delegate = reissue(plain.certificate, MIDDLE, extensions={x509.ExtendedKeyUsage: usage})
    revoked = ocsp.OCSPCertStatus.REVOKED
    made = (
        MIDDLE.ocsp(LEAF, revoked),
        MIDDLE.ocsp(LEAF, revoked, responder=Identity(delegate, (), plain.key)),
    )
    return [answer.public_bytes(Encoding.DER) for answer in made]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["lists", "answers"])
def test_mutants_are_judged_and_clear_nobody(kind: str) -> None:
    """Those of here revoke the leaf; a changed one is no word of the CA's, nor may it be "good"."""
    dice = random.Random(1)
    originals = lists() if kind == "lists" else answers()
    for _ in range(MUTANTS):
        encoded = bytearray(dice.choice(originals))
        for _ in range(dice.choice([1, 1, 2])):
            encoded[dice.randrange(len(encoded))] = dice.randrange(256)
        try:
            revocation = read(kind, bytes(encoded))
        except DirectError:
            continue
        statuses = statuses_of(PATH, revocation, now=NOW, policy=POLICY)
        assert statuses[0] is not Status.GOOD
        kept = authentic(revocation, [PATH], NOW)
        assert len(kept.crls) + len(kept.ocsp_responses) <= 1


def read(kind: str, data: bytes) -> Revocation:
    if kind == "lists":
        crl = read_crl(data)
        assert crl.fresh_at(NOW) in (True, False)
        assert isinstance(crl.reasons_for(LEAF), frozenset)
        return Revocation(crls=(crl,))
    answer = read_answer(data)
    fresh_until(answer)
    return Revocation(ocsp_responses=(answer,))
