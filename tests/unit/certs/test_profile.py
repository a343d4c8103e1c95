from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.issue import Use
from certs.policy import CertificatePolicy
from certs.profile import fit_to_encrypt, fit_to_sign, valid_at
from tests.helpers.pki import NOW, Ca, private_key_of, reissue, resign_sha1, session_key

POLICY = CertificatePolicy()
ROOT = Ca.create("Root", key="rsa2048")
ADDRESS = "a@d.example.org"
SIGN, ENCRYPT = frozenset({Use.SIGN}), frozenset({Use.ENCRYPT})

Fit = Callable[[x509.Certificate, CertificatePolicy], None]


def issued(key: str = "p256", uses: frozenset[Use] = SIGN | ENCRYPT) -> x509.Certificate:
    return ROOT.issue(address=ADDRESS, key=key, uses=uses).certificate


def with_extension(value: x509.ExtensionType, *, critical: bool = False) -> x509.Certificate:
    return reissue(issued(), ROOT, extensions={type(value): value}, critical=critical)


def refused(fit: Fit, cert: x509.Certificate, policy: CertificatePolicy = POLICY) -> str:
    with pytest.raises(DirectError) as caught:
        fit(cert, policy)
    assert caught.value.reason is Reason.CERTIFICATE_UNFIT
    return caught.value.detail


@pytest.mark.parametrize("key", ["rsa2048", "rsa3072", "rsa4096", "p256", "p384"])
def test_usual_keys_sign_and_encrypt(key: str) -> None:
    fit_to_sign(issued(key), POLICY)
    fit_to_encrypt(issued(key), POLICY)


@pytest.mark.parametrize("fit", [fit_to_sign, fit_to_encrypt])
def test_short_rsa_key_is_unfit(fit: Fit) -> None:
    """AS-010."""
    assert "1024" in refused(fit, issued("rsa1024"))


@pytest.mark.parametrize("fit", [fit_to_sign, fit_to_encrypt])
def test_sha1_is_unfit_unless_allowed(fit: Fit) -> None:
    """AS-011."""
    assert isinstance(ROOT.key, rsa.RSAPrivateKey)
    old = resign_sha1(issued(), ROOT.key)
    assert "sha1" in refused(fit, old)
    fit(old, CertificatePolicy(allow_sha1=True))


def test_key_usage_is_obeyed() -> None:
    """AS-013."""
    for key in ("rsa2048", "p256"):
        fit_to_sign(issued(key, SIGN), POLICY)
        fit_to_encrypt(issued(key, ENCRYPT), POLICY)
        refused(fit_to_encrypt, issued(key, SIGN))
        refused(fit_to_sign, issued(key, ENCRYPT))


def test_without_key_usage_a_key_does_both() -> None:
    free = reissue(issued(), ROOT, extensions={x509.KeyUsage: None})
    fit_to_sign(free, POLICY)
    fit_to_encrypt(free, POLICY)


@pytest.mark.parametrize(
    ("purposes", "fits"),
    [
        ([Eku.EMAIL_PROTECTION, Eku.CLIENT_AUTH], True),
        ([Eku.ANY_EXTENDED_KEY_USAGE], True),
        ([Eku.SERVER_AUTH], False),
        (None, True),
    ],
)
def test_extended_key_usage_must_include_mail(
    purposes: list[x509.ObjectIdentifier] | None, fits: bool
) -> None:
    """AS-015."""
    value = x509.ExtendedKeyUsage(purposes) if purposes else None
    cert = reissue(issued(), ROOT, extensions={x509.ExtendedKeyUsage: value})
    if fits:
        fit_to_sign(cert, POLICY)
    else:
        refused(fit_to_sign, cert)


def test_unknown_extension_matters_only_where_critical() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    fit_to_sign(with_extension(unknown), POLICY)
    assert "1.2.3.4" in refused(fit_to_sign, with_extension(unknown, critical=True))


def test_ed25519_signs_and_x25519_is_encrypted_to() -> None:
    signs, opens = issued("ed25519", SIGN), issued("x25519", ENCRYPT)
    fit_to_sign(signs, POLICY)
    fit_to_encrypt(opens, POLICY)
    refused(fit_to_encrypt, reissue(signs, ROOT, extensions={x509.KeyUsage: None}))
    refused(fit_to_sign, reissue(opens, ROOT, extensions={x509.KeyUsage: None}))


def test_separate_keys_may_be_demanded() -> None:
    """AS-012."""
    strict = CertificatePolicy(require_key_separation=True)
    fit_to_sign(issued(uses=SIGN), strict)
    fit_to_encrypt(issued(uses=ENCRYPT), strict)
    refused(fit_to_sign, issued(), strict)
    refused(fit_to_sign, reissue(issued(), ROOT, extensions={x509.KeyUsage: None}), strict)


def test_unusual_curve_is_unfit() -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    assert "secp256k1" in refused(fit_to_sign, reissue(issued(), ROOT, public_key=key))


def test_key_of_another_kind_is_unfit() -> None:
    key = dsa.generate_private_key(2048)
    assert "unknown kind" in refused(fit_to_sign, reissue(issued(), ROOT, public_key=key))


def test_extensions_that_do_not_parse_are_unfit() -> None:
    broken = x509.UnrecognizedExtension(x509.OID_SUBJECT_ALTERNATIVE_NAME, b"\x30\x05")
    plain = reissue(issued(), ROOT, extensions={x509.SubjectAlternativeName: None})
    cert = reissue(plain, ROOT, extensions={x509.UnrecognizedExtension: broken})
    assert "do not parse" in refused(fit_to_sign, cert)


@pytest.mark.parametrize("seconds", [0, 60])
def test_validity_includes_both_ends(seconds: int) -> None:
    """AS-009."""
    cert = ROOT.issue(
        address=ADDRESS, not_before=NOW, not_after=NOW + timedelta(seconds=60)
    ).certificate
    valid_at(cert, NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [-1, 61])
def test_outside_its_dates_a_certificate_is_expired(seconds: int) -> None:
    cert = ROOT.issue(
        address=ADDRESS, not_before=NOW, not_after=NOW + timedelta(seconds=60)
    ).certificate
    with pytest.raises(DirectError) as caught:
        valid_at(cert, NOW + timedelta(seconds=seconds))
    assert caught.value.reason is Reason.CERTIFICATE_EXPIRED


def test_session_keys_are_shared() -> None:
    identity: Identity = ROOT.issue(address=ADDRESS)
    assert private_key_of(identity) is session_key("p256", ADDRESS)
