from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import parse_address
from certs.crl import read_crl
from certs.errors import Reason
from certs.evidence import Evidence, Revocation
from certs.ocsp import Status
from certs.path import Path
from certs.policy import CertificatePolicy
from tests.helpers.pki import NOW, Ca
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Purpose
from trust_bundles.verdicts import Judged, Key, VerdictCache, key_of

ROOT = Ca.create("Root")
ADDRESS = parse_address("a@d.example.org")
LEAF = ROOT.issue(address=str(ADDRESS)).certificate
PATH = Path((LEAF,), ROOT.certificate)
GOOD = Judged(PATH, Status.GOOD, None, None, Revocation())
HOUR = timedelta(hours=1)


@cache
def key(number: int = 0) -> Key:
    anchors = Anchors([Ca.create(f"Anchor {number}").certificate])
    return key_of(LEAF, Evidence(ADDRESS, ()), anchors, Purpose.SIGN, CertificatePolicy())


def crl(until: datetime) -> Revocation:
    listed = ROOT.crl(next_update=until).public_bytes(Encoding.DER)
    return Revocation((read_crl(listed),))


@pytest.mark.parametrize(
    ("judged", "until"),
    [
        pytest.param(GOOD, NOW + HOUR, id="one-hour"),
        pytest.param(
            Judged(PATH, Status.GOOD, None, None, crl(NOW + HOUR / 2)), NOW + HOUR / 2, id="list"
        ),
        pytest.param(
            Judged(PATH, Status.UNKNOWN, None, None, crl(NOW - HOUR / 2)), NOW + HOUR, id="old-list"
        ),
        pytest.param(
            Judged(
                PATH,
                Status.GOOD,
                None,
                None,
                Revocation((), (ROOT.ocsp(LEAF, next_update=NOW + HOUR / 4),)),
            ),
            NOW + HOUR / 4,
            id="responder",
        ),
        pytest.param(
            Judged(None, None, Reason.NOT_TRUSTED, "no path", Revocation()),
            NOW + timedelta(minutes=1),
            id="failure",
        ),
    ],
)
def test_judgement_holds_as_long_as_what_it_rests_on(judged: Judged, until: datetime) -> None:
    assert judged.good_until(NOW) == until


def test_judgement_does_not_outlive_a_certificate() -> None:
    short = ROOT.issue(address=str(ADDRESS), not_after=NOW + HOUR / 3).certificate
    judged = Judged(Path((short,), ROOT.certificate), Status.GOOD, None, None, Revocation())
    assert judged.good_until(NOW) == NOW + HOUR / 3


def test_kept_until_its_end_and_not_before_its_time() -> None:
    kept = VerdictCache()
    kept.put(key(), GOOD, NOW)
    assert kept.get(key(), NOW) is GOOD
    assert kept.get(key(), NOW + HOUR) is None
    assert kept.get(key(), NOW - HOUR) is None


def test_oldest_goes_first() -> None:
    kept = VerdictCache(size=2)
    for number in (1, 2, 1, 3):
        kept.put(key(number), GOOD, NOW)
    assert [n for n in (1, 2, 3) if kept.get(key(n), NOW)] == [1, 3]


def test_cleared_cache_is_empty() -> None:
    kept = VerdictCache()
    kept.put(key(), GOOD, NOW)
    kept.clear()
    assert kept.get(key(), NOW) is None


def test_key_tells_everything_apart_that_matters() -> None:
    def of(
        cert: x509.Certificate = LEAF,
        revocation: Revocation = GOOD.revocation,
        intermediates: tuple[x509.Certificate, ...] = (),
        purpose: Purpose = Purpose.SIGN,
        minimum_rsa_bits: int = 2048,
    ) -> Key:
        evidence = Evidence(ADDRESS, (), intermediates=intermediates, revocation=revocation)
        policy = CertificatePolicy(minimum_rsa_bits=minimum_rsa_bits)
        return key_of(cert, evidence, Anchors([ROOT.certificate]), purpose, policy)

    answer = Revocation((), (ROOT.ocsp(LEAF),))
    different = {
        of(),
        of(ROOT.certificate),
        of(revocation=crl(NOW + HOUR)),
        of(revocation=answer),
        of(intermediates=(ROOT.certificate,)),
        of(purpose=Purpose.ENCRYPT),
        of(minimum_rsa_bits=3072),
        key(),
    }
    assert len(different) == 8
    assert of() == of()
