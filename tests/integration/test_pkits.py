"""NIST PKITS (public domain, from PyPI's cryptography-vectors) against our path and revocation.

The name of an end-entity certificate says whether its path is valid. The cases whose outcome hangs
on the inputs of RFC5280 6.1.1 (chapters 4.8, 4.10 and 4.12 of the suite) are in `VARIANTS`.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path as Folder

import cryptography_vectors
import pytest
from cryptography import x509

from certs.crl import Crl, read_crl
from certs.errors import DirectError
from certs.evidence import Revocation
from certs.issuers import NameKey, name_key
from certs.ocsp import Status
from certs.path import Initial, find_path
from certs.policy import CertificatePolicy
from certs.revocation import statuses_of

DATA = Folder(cryptography_vectors.__file__).parent / "x509" / "PKITS_data"
NOW = datetime(2022, 5, 1, tzinfo=UTC)
POLICY = CertificatePolicy()


def nist(*numbers: int) -> frozenset[str]:
    return frozenset(f"2.16.840.1.101.3.2.1.48.{number}" for number in numbers)


EXPLICIT = Initial(explicit=True)


def explicit(*numbers: int) -> Initial:
    return Initial(policies=nist(*numbers), explicit=True)


def user(*numbers: int) -> Initial:
    return Initial(policies=nist(*numbers))


DEFAULT = Initial()

# End-entity certificate: inputs and outcome of each of its cases, as chapters 4.8 to 4.12 tell.
VARIANTS: dict[str, list[tuple[Initial, bool]]] = {
    "ValidCertificatePathTest1": [
        (DEFAULT, True),  # 4.1.1
        (EXPLICIT, True),  # 4.8.1
        (explicit(1), True),
        (explicit(2), False),
        (explicit(1, 2), True),
    ],
    "AllCertificatesNoPoliciesTest2": [(DEFAULT, True), (EXPLICIT, False)],
    "DifferentPoliciesTest3": [(DEFAULT, True), (EXPLICIT, False), (explicit(1, 2), False)],
    "DifferentPoliciesTest4": [(DEFAULT, False)],
    "DifferentPoliciesTest5": [(DEFAULT, False)],
    "OverlappingPoliciesTest6": [(DEFAULT, True), (user(1), True), (user(2), False)],
    "DifferentPoliciesTest7": [(DEFAULT, False)],
    "DifferentPoliciesTest8": [(DEFAULT, False)],
    "DifferentPoliciesTest9": [(DEFAULT, False)],
    "AllCertificatesSamePoliciesTest10": [(DEFAULT, True), (user(1), True), (user(2), True)],
    "AllCertificatesanyPolicyTest11": [(DEFAULT, True), (user(1), True)],
    "DifferentPoliciesTest12": [(DEFAULT, False)],
    "AllCertificatesSamePoliciesTest13": [(user(1), True), (user(2), True), (user(3), True)],
    "AnyPolicyTest14": [(user(1), True), (user(2), False)],
    "UserNoticeQualifierTest15": [(DEFAULT, True)],
    "UserNoticeQualifierTest16": [(DEFAULT, True)],
    "UserNoticeQualifierTest17": [(DEFAULT, True)],
    "UserNoticeQualifierTest18": [(user(1), True), (user(2), True)],
    "UserNoticeQualifierTest19": [(DEFAULT, True)],
    "CPSPointerQualifierTest20": [(DEFAULT, True)],
    "ValidPolicyMappingTest1": [
        (user(1), True),
        (user(2), False),
        (Initial(inhibit_mapping=True), False),
    ],
    "InvalidPolicyMappingTest2": [(DEFAULT, False), (Initial(inhibit_mapping=True), False)],
    "ValidPolicyMappingTest3": [(user(1), False), (user(2), True)],
    "ValidPolicyMappingTest5": [(user(1), True), (user(6), False)],
    "ValidPolicyMappingTest6": [(user(1), True), (user(6), False)],
    "ValidPolicyMappingTest12": [(user(1), True), (user(2), True)],
    "inhibitAnyPolicyTest3": [(DEFAULT, True), (Initial(inhibit_any=True), False)],
}

# What we leave out on purpose, and so reject. Nothing is accepted that should not be.
LEFT_OUT = {
    "ValidDSASignaturesTest4": "DSA keys of 1,024 bits",
    "ValidDSAParameterInheritanceTest5": "DSA with inherited parameters",
    "ValidIDPwithindirectCRLTest24": "lists of another issuer",
    "ValidIDPwithindirectCRLTest25": "lists of another issuer",
    "ValidcRLIssuerTest28": "lists of another issuer",
    "ValidcRLIssuerTest29": "lists of another issuer",
    "ValidcRLIssuerTest30": "lists of another issuer",
    "ValidcRLIssuerTest33": "lists of another issuer",
}


@dataclass(frozen=True)
class PkitsCase:
    """One end-entity certificate with one set of inputs."""

    name: str
    number: int
    initial: Initial
    valid: bool


def cases() -> list[PkitsCase]:
    names = sorted(f.name.removesuffix("EE.crt") for f in (DATA / "certs").glob("*EE.crt"))
    return [
        PkitsCase(name, number, initial, valid)
        for name in names
        for number, (initial, valid) in enumerate(
            VARIANTS.get(name, [(DEFAULT, not name.startswith("Invalid"))]), 1
        )
    ]


CASES = cases()


@cache
def authorities() -> dict[NameKey, list[x509.Certificate]]:
    found = defaultdict(list)
    for file in sorted((DATA / "certs").glob("*.crt")):
        if not file.name.endswith("EE.crt"):
            try:
                cert = read(file.stem)
                found[name_key(cert.subject)].append(cert)
            except ValueError:
                continue
    return found


@cache
def lists() -> dict[NameKey, list[Crl]]:
    found = defaultdict(list)
    for file in sorted((DATA / "crls").glob("*.crl")):
        try:
            crl = read_crl(file.read_bytes())
            found[crl.issuer].append(crl)
        except DirectError:
            continue
    return found


def read(name: str) -> x509.Certificate:
    with warnings.catch_warnings():
        # Two cases have negative serial numbers on purpose, of which the library complains.
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate((DATA / "certs" / f"{name}.crt").read_bytes())


def accepted(case: PkitsCase) -> bool:
    """Whether the path is valid and every certificate on it is known to be good."""
    try:
        leaf = read(f"{case.name}EE")
    except ValueError:
        return False
    intermediates = _above(leaf)
    crls = [crl for cert in (leaf, *intermediates) for crl in lists()[name_key(cert.issuer)]]
    try:
        path = find_path(
            leaf, intermediates, [_root()], now=NOW, policy=POLICY, initial=case.initial
        )
        known = statuses_of(
            path,
            Revocation(tuple({crl.digest: crl for crl in crls}.values())),
            now=NOW,
            policy=POLICY,
            intermediates=intermediates,
        )
    except DirectError:
        return False
    return all(status is Status.GOOD for status in known)


def _root() -> x509.Certificate:
    return read("TrustAnchorRootCertificate")


def _above(leaf: x509.Certificate) -> list[x509.Certificate]:
    above: list[x509.Certificate] = []
    names = [name_key(leaf.issuer)]
    while names:
        for cert in authorities()[names.pop()]:
            if cert not in above and cert != _root():
                above.append(cert)
                names.append(name_key(cert.issuer))
    return above


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.name}-{case.number}") for case in CASES]
)
def test_pkits(case: PkitsCase) -> None:
    expected = case.valid and case.name not in LEFT_OUT
    assert accepted(case) is expected


def test_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    wrongly = [case for case in CASES if accepted(case) is not case.valid]
    assert [case.name for case in wrongly if not case.valid] == []
    lines = [f"PKITS: {len(CASES) - len(wrongly)} of {len(CASES)} as expected"]
    lines += [f"  rejected on purpose: {case.name} ({LEFT_OUT[case.name]})" for case in wrongly]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


def test_suite_is_whole_and_what_is_left_out_is_little() -> None:
    assert len(CASES) >= 246
    assert len(CASES) - len(LEFT_OUT) >= 238
    assert LEFT_OUT.keys() <= {case.name for case in CASES if case.valid}
