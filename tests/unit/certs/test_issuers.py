from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.x509.oid import NameOID

from certs.issuers import IssuerIndex, name_key, same_authority, sha256_of, signed_by
from tests.helpers.pki import Ca, private_key_of, reissue, session_key

ROOT = Ca.create("Root")
LEAF = ROOT.issue(domain="d.example.org").certificate


def name(*values: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value) for value in values])


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("Example  CA", "example ca", True),
        (" Example CA ", "EXAMPLE CA", True),
        ("Example CA", "Example CB", False),
    ],
)
def test_names_are_compared_without_case_and_surplus_spaces(
    one: str, other: str, equal: bool
) -> None:
    """RFC5280 7.1."""
    assert (name_key(name(one)) == name_key(name(other))) is equal


def test_order_of_a_name_matters() -> None:
    assert name_key(name("a", "b")) != name_key(name("b", "a"))


def test_likely_issuer_comes_first() -> None:
    others = [Ca.create("Root", label=f"other {n}").certificate for n in range(3)]
    found = IssuerIndex([*others, ROOT.certificate]).issuers_of(LEAF)
    assert found[0] == ROOT.certificate
    assert len(found) == 4


def test_issuers_are_those_that_may_issue() -> None:
    not_ca = reissue(
        ROOT.certificate,
        ROOT,
        extensions={x509.BasicConstraints: x509.BasicConstraints(False, None)},
    )
    no_constraints = reissue(ROOT.certificate, ROOT, extensions={x509.BasicConstraints: None})
    index = IssuerIndex([not_ca, no_constraints])
    assert index.issuers_of(LEAF) == []
    assert set(index.named_as_issuer_of(LEAF)) == {not_ca, no_constraints}
    assert not_ca in index


def test_key_of_a_monstrous_size_is_no_candidate() -> None:
    """A verification with it would cost more than all other bounds allow."""
    numbers = rsa.RSAPublicNumbers(65537, (1 << 9000) + 1)
    huge = reissue(ROOT.certificate, ROOT, public_key=_Public(numbers.public_key()))
    assert IssuerIndex([huge]).named_as_issuer_of(LEAF) == []


def test_same_authority_is_name_and_key() -> None:
    again = reissue(ROOT.certificate, Ca.create("Cross"), public_key=ROOT.key)
    assert same_authority(ROOT.certificate, again)
    assert not same_authority(ROOT.certificate, Ca.create("Root", label="other").certificate)
    assert not same_authority(ROOT.certificate, LEAF)


@pytest.mark.parametrize("key", ["rsa2048", "p256", "p384", "ed25519"])
def test_signature_is_verified_with_every_usual_key(key: str) -> None:
    ca = Ca.create("Ca", key=key, label=f"ca {key}")
    leaf = ca.issue(domain="d.example.org").certificate
    assert signed_by(leaf, ca.certificate)
    assert not signed_by(leaf, ROOT.certificate)
    assert not signed_by(LEAF, ca.certificate)


def signed(
    key: rsa.RSAPrivateKey | dsa.DSAPrivateKey | ec.EllipticCurvePrivateKey,
    pss: padding.PSS | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("self"))
        .issuer_name(name("self"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(LEAF.not_valid_before_utc)
        .not_valid_after(LEAF.not_valid_after_utc)
    )
    return builder.sign(key, hashes.SHA256(), rsa_padding=pss)


def test_signature_with_pss_and_with_dsa() -> None:
    key = session_key("rsa2048", "pss")
    assert isinstance(key, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    for cert in (signed(key, pss), signed(dsa.generate_private_key(2048))):
        assert signed_by(cert, cert)


def test_certificate_is_known_by_its_digest() -> None:
    assert sha256_of(LEAF) == LEAF.fingerprint(hashes.SHA256())
    assert private_key_of(ROOT.issue(domain="d.example.org")).public_key() == LEAF.public_key()


class _Public:
    """Stands where `reissue` wants a private key, and has only the public one."""

    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self._key = key

    def public_key(self) -> rsa.RSAPublicKey:
        return self._key
