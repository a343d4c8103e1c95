"""Keys, CA certificates, end-entity certificates and certificate requests of our own making.

Pure but for the randomness of keys and serial numbers: the sandbox, a small deployment's own CA
and the tests are its callers; a public CA answers `signing_request`.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, sections 1.4 and 2.8
    RFC5280 section 4.2 (extensions)
    RFC8550 section 4.4 (key usage of mail certificates)
    RFC2986 (certificate requests)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.x509.oid import AuthorityInformationAccessOID as AccessOID
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.address import DirectAddress
from certs.errors import DirectError, Reason

__all__ = [
    "Issuer",
    "KeyKind",
    "Locations",
    "Use",
    "Validity",
    "ca_certificate",
    "end_entity_certificate",
    "generate_key",
    "signing_request",
]

RSA_EXPONENT: Final = 65537
COMMON_NAME_CHARACTERS: Final = 64  # RFC5280 appendix A: ub-common-name

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = (
    rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | x25519.X25519PublicKey
)


class KeyKind(Enum):
    """The kinds of key we make. RSA-2048 is what every Direct peer can read."""

    RSA_2048 = "rsa2048"
    RSA_3072 = "rsa3072"
    RSA_4096 = "rsa4096"
    P256 = "p256"
    P384 = "p384"
    ED25519 = "ed25519"


class Use(Enum):
    """What an end-entity key is for; both, or one of them where keys are separate (AS-012)."""

    SIGN = "sign"
    ENCRYPT = "encrypt"


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when, both inclusive and whole seconds (RFC5280 4.1.2.5)."""

    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Locations:
    """Where the relying party finds the issuer's CRL, OCSP responder and certificate."""

    crls: tuple[str, ...] = ()
    ocsp: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA: its certificate and its key."""

    certificate: x509.Certificate
    key: SigningKey


def generate_key(kind: KeyKind) -> SigningKey:
    """Return a new private key."""
    match kind:
        case KeyKind.RSA_2048 | KeyKind.RSA_3072 | KeyKind.RSA_4096:
            return rsa.generate_private_key(RSA_EXPONENT, int(kind.value.removeprefix("rsa")))
        case KeyKind.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyKind.ED25519:
            return ed25519.Ed25519PrivateKey.generate()


def ca_certificate(
    key: SigningKey,
    *,
    name: str,
    validity: Validity,
    issuer: Issuer | None = None,
    path_length: int | None = None,
    locations: Locations = Locations(),
) -> x509.Certificate:
    """Return a CA certificate over `key`, signed by `issuer` or, without one, by itself."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, name[:COMMON_NAME_CHARACTERS]),
            x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_CHARACTERS]),
        ]
    )
    builder = _builder(subject, key.public_key(), validity, issuer, locations)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    signer = issuer.key if issuer else key
    return builder.sign(signer, _digest(signer))


def end_entity_certificate(
    public_key: PublicKey,
    subject: DirectAddress | str,
    *,
    issuer: Issuer,
    validity: Validity,
    uses: frozenset[Use] = frozenset(Use),
    locations: Locations = Locations(),
) -> x509.Certificate:
    """Return a certificate bound to `subject`: a Direct address, or a health domain as text."""
    builder = _builder(_subject_name(subject), public_key, validity, issuer, locations)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_end_entity_usage(public_key, uses), critical=True)
        # AS-015: a Direct certificate that has the extension must say emailProtection.
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
        .add_extension(_alternative_name(subject), critical=False)
    )
    return builder.sign(issuer.key, _digest(issuer.key))


def signing_request(
    key: SigningKey, subject: DirectAddress | str
) -> x509.CertificateSigningRequest:
    """Return a PKCS#10 request for a certificate bound to `subject`, for a CA of one's choice."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject_name(subject))
        .add_extension(_alternative_name(subject), critical=False)
        .sign(key, _digest(key))
    )


def _builder(
    subject: x509.Name,
    public_key: PublicKey,
    validity: Validity,
    issuer: Issuer | None,
    locations: Locations,
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if issuer:
        builder = builder.add_extension(_authority_key_identifier(issuer), critical=False)
    return _with_locations(builder, locations)


def _with_locations(
    builder: x509.CertificateBuilder, locations: Locations
) -> x509.CertificateBuilder:
    if locations.crls:
        points = [
            x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
            for url in locations.crls
        ]
        builder = builder.add_extension(x509.CRLDistributionPoints(points), critical=False)
    accesses = [*_accesses(AccessOID.OCSP, locations.ocsp)]
    accesses += _accesses(AccessOID.CA_ISSUERS, locations.issuers)
    if accesses:
        builder = builder.add_extension(x509.AuthorityInformationAccess(accesses), critical=False)
    return builder


def _accesses(method: x509.ObjectIdentifier, urls: Sequence[str]) -> list[x509.AccessDescription]:
    return [x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for url in urls]


def _authority_key_identifier(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    # RFC5280 4.2.1.1: the value is the issuer's own subjectKeyIdentifier, where it has one.
    try:
        own = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _subject_name(subject: DirectAddress | str) -> x509.Name:
    # AS-006: no emailAddress in the subject; what binds is the subjectAltName.
    name = str(subject)[:COMMON_NAME_CHARACTERS]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative_name(subject: DirectAddress | str) -> x509.SubjectAlternativeName:
    # AS-003, AS-004 and AS-007: exactly one identity.
    if isinstance(subject, DirectAddress):
        return x509.SubjectAlternativeName([x509.RFC822Name(str(subject))])
    return x509.SubjectAlternativeName([x509.DNSName(subject)])


def _end_entity_usage(public_key: PublicKey, uses: frozenset[Use]) -> x509.KeyUsage:
    # RFC8550 4.4.2: an RSA key enciphers keys, an elliptic curve key agrees on them.
    encrypts = Use.ENCRYPT in uses
    transports = isinstance(public_key, rsa.RSAPublicKey)
    agrees = isinstance(public_key, ec.EllipticCurvePublicKey | x25519.X25519PublicKey)
    if encrypts and not (transports or agrees):
        raise DirectError(Reason.CERTIFICATE_UNFIT, "an Ed25519 key cannot be encrypted to")
    return _key_usage(
        digital_signature=Use.SIGN in uses,
        key_encipherment=encrypts and transports,
        key_agreement=encrypts and agrees,
    )


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_agreement: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=key_agreement,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _digest(key: SigningKey) -> hashes.SHA256 | hashes.SHA384 | None:
    # AS-011: SHA-256, or SHA-384 under a P-384 key; Ed25519 has its own digest.
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size == 384:
        return hashes.SHA384()
    return hashes.SHA256()
