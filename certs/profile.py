"""Is this end-entity certificate within its dates, and fit to sign or to encrypt Direct mail?

Pure: no I/O, no clock. Names are judged in `certs.binding`, the chain in `certs.path`.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, sections 1.4 and 2.8
    RFC5280 sections 4.1.2.5 (validity) and 4.2 (critical extensions)
    RFC8550 sections 4.4.2 (keyUsage) and 4.4.4 (extKeyUsage)
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.errors import DirectError, Reason
from certs.policy import CertificatePolicy
from certs.unreadable import UNREADABLE

__all__ = ["extensions_of", "fit_to_encrypt", "fit_to_sign", "known_where_critical", "valid_at"]

T = TypeVar("T", bound=x509.ExtensionType)

MAXIMUM_RSA_BITS: Final = 8192  # Larger keys cost a verifier more than they protect.
CURVES: Final = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}
LEGACY_DIGEST: Final = "sha1"


def valid_at(cert: x509.Certificate, now: datetime) -> None:
    """Return where `now` is inside the certificate's validity, both ends included.

    Raises:
        DirectError: CERTIFICATE_EXPIRED, also where it is not yet valid (AS-009);
            CERTIFICATE_UNFIT where its dates do not parse.
    """
    try:
        not_before, not_after = cert.not_valid_before_utc, cert.not_valid_after_utc
    except UNREADABLE:
        raise _unfit("validity does not parse") from None
    if now < not_before:
        raise DirectError(Reason.CERTIFICATE_EXPIRED, f"not valid before {not_before:%Y-%m-%d}")
    if now > not_after:
        raise DirectError(Reason.CERTIFICATE_EXPIRED, f"expired on {not_after:%Y-%m-%d}")


def fit_to_sign(cert: x509.Certificate, policy: CertificatePolicy) -> None:
    """Return where a signature made with this certificate's key may be accepted.

    Raises:
        DirectError: CERTIFICATE_UNFIT; extension, key, digest or usage forbids it.
    """
    usage = _fit(cert, policy)
    # RFC8550 4.4.2: either bit makes a signature acceptable.
    if usage and not (usage.digital_signature or usage.content_commitment):
        raise _unfit("keyUsage lacks digitalSignature")
    if isinstance(cert.public_key(), x25519.X25519PublicKey):
        raise _unfit("an X25519 key does not sign")


def fit_to_encrypt(cert: x509.Certificate, policy: CertificatePolicy) -> None:
    """Return where content may be encrypted to this certificate's key (AS-013, AS-014).

    Raises:
        DirectError: CERTIFICATE_UNFIT; extension, key, digest or usage forbids it.
    """
    usage = _fit(cert, policy)
    key = cert.public_key()
    if isinstance(key, ed25519.Ed25519PublicKey):
        raise _unfit("an Ed25519 key cannot be encrypted to")
    if usage is None:
        return
    # RFC8550 4.4.2: RSA keys encipher the content key, elliptic curve keys agree on one.
    if isinstance(key, rsa.RSAPublicKey) and not usage.key_encipherment:
        raise _unfit("keyUsage lacks keyEncipherment")
    if not isinstance(key, rsa.RSAPublicKey) and not usage.key_agreement:
        raise _unfit("keyUsage lacks keyAgreement")


def extensions_of(cert: x509.Certificate) -> x509.Extensions:
    """Return the parsed extensions.

    Raises:
        DirectError: CERTIFICATE_UNFIT; one does not parse or is there twice (RFC5280 4.2).
    """
    try:
        return cert.extensions
    except UNREADABLE as error:
        raise _unfit(f"extensions do not parse: {type(error).__name__}") from None


def known_where_critical(extensions: x509.Extensions) -> None:
    """Return where every critical extension is one that we, or the path validator, process.

    Raises:
        DirectError: CERTIFICATE_UNFIT (RFC5280 4.2).
    """
    for extension in extensions:
        known = isinstance(extension.value, _PROCESSED) or extension.oid == _POLICY_MAPPINGS
        if extension.critical and not known:
            raise _unfit(f"unknown critical extension {extension.oid.dotted_string}")


def _fit(cert: x509.Certificate, policy: CertificatePolicy) -> x509.KeyUsage | None:
    """Judge what signing and encrypting have in common; return the key usage, if any."""
    if cert.version is not x509.Version.v3:
        raise _unfit("not an X.509 v3 certificate")
    extensions = extensions_of(cert)
    known_where_critical(extensions)
    _key_allowed(cert, policy)
    _digest_allowed(cert, policy)
    _mail_allowed(extensions)
    usage = _value(extensions, x509.KeyUsage)
    enciphers = usage is None or usage.key_encipherment or usage.key_agreement
    if policy.require_key_separation and enciphers and (not usage or usage.digital_signature):
        raise _unfit("one key for both signing and encrypting (AS-012)")
    return usage


def _key_allowed(cert: x509.Certificate, policy: CertificatePolicy) -> None:
    try:
        key = cert.public_key()
    except UNREADABLE:
        raise _unfit("public key does not parse or is of an unknown kind") from None
    match key:
        case rsa.RSAPublicKey() if "rsa" in policy.keys:
            # AS-010
            if not policy.minimum_rsa_bits <= key.key_size <= MAXIMUM_RSA_BITS:
                raise _unfit(f"RSA key of {key.key_size} bits")
        case ec.EllipticCurvePublicKey():
            if CURVES.get(key.curve.name) not in policy.keys:
                raise _unfit(f"elliptic curve {key.curve.name}")
        case ed25519.Ed25519PublicKey() if "ed25519" in policy.keys:
            pass
        case x25519.X25519PublicKey() if "x25519" in policy.keys:
            pass
        case _:
            raise _unfit("public key of an unknown kind, or of one not allowed")


def _digest_allowed(cert: x509.Certificate, policy: CertificatePolicy) -> None:
    try:
        digest = cert.signature_hash_algorithm
    except UNREADABLE:
        raise _unfit("signature algorithm is unknown") from None
    # Ed25519 has its digest built in: there is none to name.
    if digest is None or digest.name in policy.digests:  # AS-011
        return
    if digest.name == LEGACY_DIGEST and policy.allow_sha1:
        return
    raise _unfit(f"certificate is signed over {digest.name} (AS-011)")


def _mail_allowed(extensions: x509.Extensions) -> None:
    # AS-015 and RFC8550 4.4.4
    purposes = _value(extensions, x509.ExtendedKeyUsage)
    if purposes is not None and not _MAIL.intersection(purposes):
        raise _unfit("extKeyUsage lacks emailProtection")


def _value(extensions: x509.Extensions, kind: type[T]) -> T | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


_MAIL: Final = frozenset(
    {ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
)
_POLICY_MAPPINGS: Final = x509.ObjectIdentifier("2.5.29.33")  # the library has no class for it
_PROCESSED: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
    x509.PolicyConstraints,
    x509.InhibitAnyPolicy,
    x509.NameConstraints,
    x509.CRLDistributionPoints,
    x509.FreshestCRL,
    x509.AuthorityInformationAccess,
    x509.AuthorityKeyIdentifier,
    x509.SubjectKeyIdentifier,
)


def _unfit(detail: str) -> DirectError:
    return DirectError(Reason.CERTIFICATE_UNFIT, detail)
