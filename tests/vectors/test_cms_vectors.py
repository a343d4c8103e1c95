"""Published CMS and S/MIME: each with what we make of it.

Sources: NIST PKITS messages and CMS samples in `cryptography-vectors` (public domain, Apache-2.0),
CMS samples in `asn1crypto-tests` (MIT). Both come from PyPI; nothing of them is in this tree.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import asn1crypto_tests  # type: ignore[import-untyped]  # ships no types
import cryptography_vectors
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certs.cms.compressed import inflated
from certs.cms.enveloped import decrypt
from certs.cms.signed import SignedData, Signer
from certs.errors import DirectError
from certs.identity import Identity, SoftwareKey
from certs.policy import CertificatePolicy
from tests.helpers import cms_builder as cms
from tests.helpers.sealed import identity, unseal

PYCA = Path(cryptography_vectors.__file__).parent
PKITS = sorted((PYCA / "x509" / "PKITS_data" / "smime").glob("*.eml"))
ASN1CRYPTO = Path(asn1crypto_tests.__file__).parent / "fixtures"
LEGACY = CertificatePolicy(allow_sha1=True, allow_3des=True)
BOB = identity("rsa2048", "bob")

# The only PKITS messages that are not signed with RSA.
DSA = {
    "SignedInvalidDSASignatureTest6.eml",
    "SignedValidDSAParameterInheritanceTest5.eml",
    "SignedValidDSASignaturesTest4.eml",
}


def test_pkits_is_whole() -> None:
    assert len(PKITS) == 224


@pytest.mark.parametrize("path", PKITS, ids=lambda path: path.stem)
def test_pkits_message(path: Path) -> None:
    # A signed message of PKITS in an envelope of ours; what is tested of its path is elsewhere.
    header, _, body = path.read_bytes().partition(b"\n\n")
    content_type = next(line for line in header.split(b"\n") if line.startswith(b"Content-Type"))
    message = cms.sealed(content_type + b"\n\n" + body, BOB)
    if path.name in DSA:
        with pytest.raises(DirectError, match="signature algorithm is not one of ours"):
            unseal(message, [BOB], LEGACY)
        return
    opened = unseal(message, [BOB])
    assert b"This is a sample signed message." in opened.content
    assert len(opened.unsealed.signers) == 1
    assert opened.unsealed.algorithms.digest == "sha256"


def verified(data: bytes, policy: CertificatePolicy, content: bytes | None) -> str:
    """The algorithms of the first signer of a SignedData, or what it is refused with."""
    try:
        signed = SignedData([data])
        if signed.enclosed:
            content = b"".join(bytes(piece) for piece in signed.content())
        assert content is not None, "say what a detached signature is over"
        certificates, signers = signed.finish()
        return "; ".join(_verified(s, content, certificates, policy) for s in signers)
    except DirectError as error:
        return error.detail


def _verified(
    signer: Signer | DirectError,
    content: bytes,
    certificates: Sequence[x509.Certificate],
    policy: CertificatePolicy,
) -> str:
    if isinstance(signer, DirectError):
        return signer.detail
    digests = {d: cms.digest_of(content, d.hash) for d in [signer.digest] if d is not None}
    found = signer.verify(digests, certificates, policy)
    return f"{found.signature.value} {found.digest.value}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cms-signed.der", "rsa sha256"),
        # Names in its content were made unreadable for publication; OpenSSL says the same.
        ("cms-signed-indefinite-length.der", "the content is not what was signed"),
        ("pkcs7-signed.der", "rsa sha256"),
        ("cms-signed-digested.der", "the signed content is not of type id-data"),
        ("pkcs7-signed-digested.der", "the signed content is not of type id-data"),
        ("cms-compressed.der", "the message is compressed"),
        ("cms-encrypted.der", "the signature is not a CMS SignedData"),
        ("cms-digested.der", "the signature is not a CMS SignedData"),
        ("cms-enveloped.der", "there is a second layer of encryption"),
    ],
)
def test_signed_data_of_asn1crypto(name: str, expected: str) -> None:
    assert verified((ASN1CRYPTO / name).read_bytes(), LEGACY, None) == expected


def test_compressed_data_of_asn1crypto() -> None:
    compressed = (ASN1CRYPTO / "cms-compressed.der").read_bytes()
    content = (ASN1CRYPTO / "message.txt").read_bytes()
    assert b"".join(inflated([compressed], 10_000)) == content


@pytest.mark.parametrize(
    ("name", "policy", "expected"),
    [
        (
            "mozilla-generated-by-openssl.pkcs7.der",
            CertificatePolicy(),
            "the signature is over a SHA-1 digest",
        ),
        (
            "mozilla-generated-by-openssl.pkcs7.der",
            LEGACY,
            "the content is not what was signed",
        ),
        (
            "smime-signature-generated-by-thunderbird.p7s",
            CertificatePolicy(),
            "the content is not what was signed",
        ),
    ],
)
def test_detached_signatures_of_asn1crypto(
    name: str, policy: CertificatePolicy, expected: str
) -> None:
    # Their contents are not published; we get as far as comparing digests.
    assert verified((ASN1CRYPTO / name).read_bytes(), policy, b"something else") == expected


def opened(data: bytes, ours: Identity, policy: CertificatePolicy) -> bytes | str:
    try:
        content = decrypt([data], [ours], policy).content
        return b"".join(bytes(piece) for piece in content)
    except DirectError as error:
        return error.detail


def unpem(data: bytes) -> bytes:
    lines = (line for line in data.split(b"\n") if not line.startswith(b"-----"))
    return base64.b64decode(b"".join(lines))


def owner(certificate: Path, key: Path) -> Identity:
    loaded = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return Identity(
        x509.load_pem_x509_certificate(certificate.read_bytes()), (), SoftwareKey(loaded)
    )


@pytest.mark.parametrize(
    ("name", "policy", "expected"),
    [
        ("enveloped-rsa-oaep.pem", CertificatePolicy(), b"Hello, world!"),
        ("enveloped-triple-des.pem", LEGACY, b"Hello, World!\r\n"),
        (
            "enveloped-triple-des.pem",
            CertificatePolicy(),
            "the content is encrypted with triple DES",
        ),
        ("enveloped-no-content.der", LEGACY, "the envelope has no content"),
        ("enveloped.pem", LEGACY, "the message is encrypted for somebody else"),
    ],
)
def test_envelopes_of_cryptography(
    name: str, policy: CertificatePolicy, expected: bytes | str
) -> None:
    data = (PYCA / "pkcs7" / name).read_bytes()
    ca = PYCA / "x509" / "custom" / "ca"
    ours = owner(ca / "rsa_ca.pem", ca / "rsa_key.pem")
    assert opened(data if name.endswith("der") else unpem(data), ours, policy) == expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (LEGACY, b"This is the message to encapsulate in PKCS#7/CMS\n"),
        (CertificatePolicy(), "the content is encrypted with triple DES"),
    ],
)
def test_envelope_of_asn1crypto(policy: CertificatePolicy, expected: bytes | str) -> None:
    data = (ASN1CRYPTO / "cms-enveloped.der").read_bytes()
    ours = owner(ASN1CRYPTO / "keys" / "test.crt", ASN1CRYPTO / "keys" / "test.key")
    assert opened(data, ours, policy) == expected


@pytest.mark.parametrize("name", ["authenticode.der", "amazon-roots.der"])
def test_signed_data_of_cryptography(name: str) -> None:
    expected = {
        "authenticode.der": "the signed content is not of type id-data",
        "amazon-roots.der": "the signed data has no signer",
    }
    assert verified((PYCA / "pkcs7" / name).read_bytes(), LEGACY, b"") == expected[name]
