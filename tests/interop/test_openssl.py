"""OpenSSL reads what we send, and we read what it makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certs.cms.algorithms import ContentEncryption, Digest, KeyTransport
from gateway.seal_options import SealOptions
from tests.helpers.sealed import MESSAGE, ca, identity, seal, unseal
from tests.interop.openssl import OpenSsl

WRAPPED = b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE
OAEP = ("-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256")


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSsl:
    return OpenSsl(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(SealOptions(), id="defaults"),
        pytest.param(SealOptions(digest=Digest.SHA384), id="sha384"),
        pytest.param(SealOptions(digest=Digest.SHA512), id="sha512"),
        pytest.param(SealOptions(pss=True), id="pss"),
        pytest.param(SealOptions(key_transport=KeyTransport.RSA_PKCS1), id="pkcs1v15"),
        pytest.param(SealOptions(key_transport=KeyTransport.RSA_OAEP_SHA1), id="oaep-sha1"),
        pytest.param(SealOptions(key_transport=KeyTransport.RSA_OAEP_SHA512), id="oaep-sha512"),
        pytest.param(SealOptions(content_encryption=ContentEncryption.AES128_CBC), id="aes128"),
        pytest.param(SealOptions(content_encryption=ContentEncryption.AES192_CBC), id="aes192"),
        pytest.param(SealOptions(content_encryption=ContentEncryption.AES256_GCM), id="gcm256"),
        pytest.param(SealOptions(content_encryption=ContentEncryption.AES128_GCM), id="gcm128"),
    ],
)
@pytest.mark.parametrize("recipient", ["rsa2048", "p256", "p384"])
@pytest.mark.parametrize("signer", ["rsa2048", "p256", "p384"])
def test_openssl_reads_ours(
    openssl: OpenSsl, signer: str, recipient: str, options: SealOptions
) -> None:
    bob = identity(recipient, "bob")
    sealed = seal(signers=[identity(signer)], recipients=[bob.certificate], options=options)
    entity = openssl.opened(sealed, bob)
    anchor = ca().certificate.public_bytes(Encoding.PEM)
    assert openssl.verified(entity, anchor) == WRAPPED


SIGNING = {
    "detached": ("-binary", "-crlfeol"),
    "detached-lf": (),
    "opaque": ("-nodetach", "-binary"),
    "opaque-stream": ("-nodetach", "-binary", "-stream"),
    "keyid": ("-binary", "-crlfeol", "-keyid"),
    "sha512": ("-binary", "-crlfeol", "-md", "sha512"),
}


@pytest.mark.parametrize("style", SIGNING)
@pytest.mark.parametrize("signer", ["rsa2048", "p256", "p384"])
def test_we_read_its_signatures(openssl: OpenSsl, signer: str, style: str) -> None:
    alice, bob = identity(signer), identity("rsa2048", "bob")
    entity = openssl.signed(WRAPPED, alice, *SIGNING[style])
    opened = unseal(openssl.encrypted(entity, bob, "-aes256", *OAEP), [bob])
    assert opened.content == MESSAGE
    assert opened.unsealed.signers[0].certificate == alice.certificate
    assert opened.unsealed.wrapped


@pytest.mark.parametrize("salt", ["digest", "max", "20"])
def test_we_read_its_pss_with_any_salt(openssl: OpenSsl, salt: str) -> None:
    alice, bob = identity("rsa2048"), identity("rsa2048", "bob")
    pss = ("-keyopt", "rsa_padding_mode:pss", "-keyopt", f"rsa_pss_saltlen:{salt}")
    entity = openssl.signed(WRAPPED, alice, "-binary", "-crlfeol", *pss)
    opened = unseal(openssl.encrypted(entity, bob, "-aes256"), [bob])
    assert opened.unsealed.algorithms.signature == "rsa-pss"


ENCRYPTING = {
    "pkcs1v15": ("-aes256",),
    "oaep-sha256": ("-aes256", *OAEP),
    "oaep-sha1": ("-aes256", "-keyopt", "rsa_padding_mode:oaep"),
    "oaep-sha512": (
        "-aes256",
        "-keyopt",
        "rsa_padding_mode:oaep",
        "-keyopt",
        "rsa_oaep_md:sha512",
    ),
    "oaep-sha256-mgf1-sha1": ("-aes256", *OAEP, "-keyopt", "rsa_mgf1_md:sha1"),
    "oaep-label": ("-aes256", *OAEP, "-keyopt", "rsa_oaep_label:cafe"),
    "aes128": ("-aes128",),
    "aes192": ("-aes192",),
    "gcm": ("-aes-256-gcm",),
    "gcm128": ("-aes-128-gcm",),
    "stream": ("-aes256", "-stream"),
    "keyid": ("-aes256", "-keyid"),
}
AGREEING = {
    "default": ("-aes256",),
    "sha256": ("-aes256", "-aes256-wrap", "-keyopt", "ecdh_kdf_md:sha256"),
    "sha384": ("-aes128", "-aes128-wrap", "-keyopt", "ecdh_kdf_md:sha384"),
    "cofactor": ("-aes256", "-keyopt", "ecdh_cofactor_mode:1"),
    "keyid": ("-aes256", "-keyid"),
    "gcm": ("-aes-256-gcm", "-stream"),
}


def check_encryption(openssl: OpenSsl, kind: str, options: tuple[str, ...]) -> None:
    alice, bob = identity("p256"), identity(kind, "bob")
    entity = openssl.signed(WRAPPED, alice, "-binary", "-crlfeol")
    opened = unseal(openssl.encrypted(entity, bob, *options), [bob])
    assert opened.content == MESSAGE
    assert opened.unsealed.recipient == bob.certificate


@pytest.mark.parametrize("style", ENCRYPTING)
@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072"])
def test_we_read_its_envelopes(openssl: OpenSsl, kind: str, style: str) -> None:
    check_encryption(openssl, kind, ENCRYPTING[style])


@pytest.mark.parametrize("style", AGREEING)
@pytest.mark.parametrize("kind", ["p256", "p384"])
def test_we_read_its_key_agreements(openssl: OpenSsl, kind: str, style: str) -> None:
    check_encryption(openssl, kind, AGREEING[style])


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_we_read_its_streams_of_any_size(openssl: OpenSsl, size: int) -> None:
    alice, bob = identity("p256"), identity("rsa2048", "bob")
    content = MESSAGE + b"x" * 70 + b"\r\n" + b"Y" * size
    wrapped = b"Content-Type: message/rfc822\r\n\r\n" + content
    entity = openssl.signed(wrapped, alice, "-nodetach", "-binary", "-stream")
    opened = unseal(openssl.encrypted(entity, bob, "-aes256", "-stream"), [bob])
    assert opened.content == content
