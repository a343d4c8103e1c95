from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.pkcs12 import FILE_OCTETS, KeyBundle, load_pkcs12, write_pkcs12
from tests.helpers.pki import Ca, pkcs12_of, private_key_of, session_key

ROOT = Ca.create("Root")
MIDDLE = Ca.create("Middle", parent=ROOT)
LOWER = Ca.create("Lower", parent=MIDDLE)
OWN = LOWER.issue(address="a@d.example.org")


def refused(data: bytes, password: str | None = None) -> str:
    with pytest.raises(DirectError) as caught:
        load_pkcs12(data, password)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    return caught.value.detail


@pytest.mark.parametrize("key", ["rsa2048", "p256", "ed25519"])
@pytest.mark.parametrize("password", ["secret", None])
def test_file_is_read_with_its_chain(key: str, password: str | None) -> None:
    own = LOWER.issue(address="a@d.example.org", key=key)
    bundle = load_pkcs12(pkcs12_of(own, password), password)
    assert bundle.certificate == own.certificate
    assert bundle.key.public_key() == own.certificate.public_key()
    assert bundle.chain == (LOWER.certificate, MIDDLE.certificate)


def test_chain_is_put_in_order_and_the_root_left_out() -> None:
    mixed = (ROOT.certificate, MIDDLE.certificate, LOWER.certificate)
    data = pkcs12_of(Identity(OWN.certificate, mixed, OWN.key))
    assert load_pkcs12(data).chain == (LOWER.certificate, MIDDLE.certificate)


def test_written_file_is_read_again() -> None:
    bundle = KeyBundle(private_key_of(OWN), OWN.certificate, OWN.chain)
    data = write_pkcs12(bundle, password="secret", name="a")
    assert load_pkcs12(data, "secret").certificate == OWN.certificate


def test_x25519_key_has_no_place_in_the_file() -> None:
    bundle = KeyBundle(session_key("x25519", "x"), OWN.certificate, ())
    with pytest.raises(DirectError) as caught:
        write_pkcs12(bundle, password="secret", name="a")
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


def test_wrong_password_is_said_so() -> None:
    assert "password" in refused(pkcs12_of(OWN, "secret"), "wrong")
    assert "password" in refused(pkcs12_of(OWN, "secret"))


@pytest.mark.parametrize("data", [b"", b"not a file", b"\x30\x03\x02\x01\x03"])
def test_what_is_no_file_is_said_so(data: bytes) -> None:
    assert "not a PKCS#12 file" in refused(data)


def test_big_file_is_not_looked_into() -> None:
    assert "1 MiB" in refused(b"\0" * (FILE_OCTETS + 1))


def test_file_without_a_key_is_said_so() -> None:
    data = pkcs12.serialize_key_and_certificates(
        b"a", None, None, [OWN.certificate], NoEncryption()
    )
    assert "lacks" in refused(data)


def test_file_that_asks_for_years_of_work_is_refused() -> None:
    key = private_key_of(OWN)
    costly = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(6_000_000).hmac_hash(SHA256())
    data = pkcs12.serialize_key_and_certificates(
        b"a",
        key,  # type: ignore[arg-type]  # an EC key
        OWN.certificate,
        None,
        costly.build(b"secret"),
    )
    assert "6000000 iterations" in refused(data, "secret")


def test_key_of_another_kind_is_refused() -> None:
    key = dsa.generate_private_key(1024)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(OWN.certificate.not_valid_before_utc)
        .not_valid_after(OWN.certificate.not_valid_after_utc)
        .sign(key, SHA256())
    )
    data = pkcs12.serialize_key_and_certificates(b"a", key, certificate, None, NoEncryption())
    assert "unknown kind" in refused(data)
