"""Certificates that parse only in part: judged, refused, and never an error of ours."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import pytest
from asn1crypto import x509 as asn1_x509  # type: ignore[import-untyped]  # ships no types
from cryptography import x509

from certs.address import parse_address
from certs.binding import binding_of
from certs.cert_files import certificate_from, certificates_in
from certs.cms.der import sequence
from certs.dns_cert import certificates_from
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Found, Level
from certs.issue import Locations
from certs.issuers import IssuerIndex
from certs.locations import crl_urls, issuer_urls, ocsp_urls
from certs.path import find_path
from certs.policy import CertificatePolicy, Profile
from tests.helpers.pki import NOW, Ca, der
from trust_bundles.decision import decide
from trust_bundles.policy import Purpose

ADDRESS = parse_address("drjones@direct.example.org")
ROOT = Ca.create("Root")
WHERE = Locations(crls=("http://a/b",), ocsp=("http://a/c",), issuers=("http://a/d",))
MIDDLE = Ca.create("Middle", parent=ROOT, locations=WHERE).certificate
LEAF = (
    Ca.create("Middle", parent=ROOT, locations=WHERE)
    .issue(address=str(ADDRESS), locations=WHERE)
    .certificate
)
MUTANTS = 1500


def unreadable_name(part: str, certificate: x509.Certificate = LEAF) -> bytes:
    """A name whose text is no UTF-8: the library says so when it is asked for the name."""
    parsed = asn1_x509.Certificate.load(der(certificate))
    name = parsed["tbs_certificate"][part].dump()
    at = name.index(b"\x0c") + 2  # UTF8String, length, text
    broken = name[:at] + b"\xff" + name[at + 1 :]
    return der(certificate).replace(name, broken, 1)


def unreadable_san() -> bytes:
    """An x400Address, which the library does not process."""
    return der(LEAF).replace(b"\x81\x1adrjones@", b"\xa3\x1adrjones@", 1)


@pytest.mark.parametrize("part", ["subject", "issuer"])
def test_certificate_whose_name_does_not_parse_is_none(part: str) -> None:
    broken = unreadable_name(part)
    x509.load_der_x509_certificate(broken)  # the library takes it
    with pytest.raises(ValueError, match="parsing"):
        certificate_from(broken)
    assert certificates_from([broken, der(LEAF)]) == [LEAF]
    with pytest.raises(DirectError) as caught:
        certificates_in(broken)
    assert caught.value.reason is Reason.CERTIFICATE_UNFIT


@pytest.mark.parametrize("lost", ["not_before", "not_after"])
def test_certificate_without_a_date_is_none(lost: str) -> None:
    """AS-009: the official tool sends such."""
    parsed = asn1_x509.Certificate.load(der(LEAF))
    validity = parsed["tbs_certificate"]["validity"]
    left = validity["not_after" if lost == "not_before" else "not_before"].dump()
    body = parsed["tbs_certificate"]
    fields = [body[number].dump() for number in range(len(body))]
    fields[4] = sequence(left)
    broken = sequence(
        sequence(*fields),
        parsed["signature_algorithm"].dump(),
        parsed["signature_value"].dump(),
    )
    with pytest.raises(ValueError, match="pars"):
        certificate_from(broken)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda: unreadable_name("subject"), id="subject"),
        pytest.param(lambda: unreadable_name("issuer"), id="issuer"),
        pytest.param(unreadable_san, id="subject-alt-name"),
    ],
)
def test_judgement_of_one_that_came_all_the_same_is_a_refusal(broken: Callable[[], bytes]) -> None:
    leaf = x509.load_der_x509_certificate(broken())
    with pytest.raises(DirectError) as caught:
        find_path(leaf, [MIDDLE], [ROOT.certificate], now=NOW, policy=CertificatePolicy())
    assert caught.value.reason is Reason.CERTIFICATE_UNFIT
    assert IssuerIndex([leaf]).issuers_of(leaf) == []
    assert judged(leaf, Profile.AS_1_2) is not None


def test_alternative_name_that_does_not_parse_binds_nobody() -> None:
    with pytest.raises(DirectError) as caught:
        binding_of(x509.load_der_x509_certificate(unreadable_san()), ADDRESS)
    assert caught.value.reason is Reason.CERTIFICATE_NOT_BOUND


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("seed", range(2))
def test_mutants_are_judged_and_nothing_is_raised(seed: int) -> None:
    """As leaf, as intermediate and as anchor; one that is changed is accepted as an anchor only."""
    dice = random.Random(seed)
    for _ in range(MUTANTS):
        encoded = bytearray(der(dice.choice([LEAF, MIDDLE])))
        for _ in range(dice.choice([1, 1, 2])):
            encoded[dice.randrange(len(encoded))] = dice.randrange(256)
        try:
            mutant = x509.load_der_x509_certificate(bytes(encoded))
        except (ValueError, x509.InvalidVersion):
            continue
        for profile in Profile:
            changed = mutant not in (LEAF, MIDDLE)
            assert judged(mutant, profile) is not None or not changed
            judged(LEAF, profile, mutant)
            judged(LEAF, profile, anchor=mutant)
        assert len(crl_urls(mutant) + ocsp_urls(mutant) + issuer_urls(mutant)) <= 12


def judged(
    leaf: x509.Certificate,
    profile: Profile,
    intermediate: x509.Certificate = MIDDLE,
    anchor: x509.Certificate = ROOT.certificate,
) -> Reason | None:
    evidence = Evidence(ADDRESS, (Found(leaf, Level.MESSAGE),), intermediates=(intermediate,))
    policy = CertificatePolicy(profile=profile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decide(
            ADDRESS, evidence, [anchor], purpose=Purpose.SIGN, now=NOW, policy=policy
        ).reason
