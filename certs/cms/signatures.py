"""Signature algorithms of SignerInfo: what to write for a key, and how to check what was written.

Pure.

Standards:
    RFC5652 section 5.3; RFC8933 (one hash per signature)
    RFC3370 section 3.2 and RFC5754 section 3 (RSA, ECDSA); RFC4056 (RSASSA-PSS)
    RFC8419 section 3 (Ed25519 with SHA-512)
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certs.cms import der
from certs.cms.algorithms import MGF1, Algorithm, Digest, known_digest, mask_digest, refused
from certs.cms.ber import Element, children, malformed
from certs.errors import DirectError, Reason

__all__ = ["Scheme", "Signature", "digest_for", "encode_scheme", "scheme_of"]

_RSA: Final = der.oid("1.2.840.113549.1.1.1")
_PSS: Final = der.oid("1.2.840.113549.1.1.10")
_ED25519: Final = der.oid("1.3.101.112")
_RSA_WITH: Final = {
    der.oid("1.2.840.113549.1.1.5"): Digest.SHA1,
    der.oid("1.2.840.113549.1.1.11"): Digest.SHA256,
    der.oid("1.2.840.113549.1.1.12"): Digest.SHA384,
    der.oid("1.2.840.113549.1.1.13"): Digest.SHA512,
}
_ECDSA_WITH: Final = {
    der.oid("1.2.840.10045.4.1"): Digest.SHA1,
    der.oid("1.2.840.10045.4.3.2"): Digest.SHA256,
    der.oid("1.2.840.10045.4.3.3"): Digest.SHA384,
    der.oid("1.2.840.10045.4.3.4"): Digest.SHA512,
}
_ECDSA_OIDS: Final = {digest: oid for oid, digest in _ECDSA_WITH.items()}
# RFC8017 A.2.3: the default salt is 20 octets. No digest of ours allows more than the modulus.
_DEFAULT_SALT: Final = 20
_LONGEST_SALT: Final = 2048


class Signature(Enum):
    """The kinds of signature; the value is the name people see."""

    RSA = "rsa"
    RSA_PSS = "rsa-pss"
    ECDSA = "ecdsa"
    ED25519 = "ed25519"


class Scheme(NamedTuple):
    """One signature algorithm with everything that determines it."""

    kind: Signature
    digest: Digest
    pss: padding.PSS | None = None

    def verifies(self, certificate: x509.Certificate, signature: bytes, message: bytes) -> bool:
        """Say whether `signature` over `message` was made with the key of `certificate`.

        Raises:
            DirectError: SIGNATURE_INVALID; the key is of another kind than the algorithm.
        """
        try:
            self._check(certificate, signature, message)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            return False
        return True

    def _check(self, certificate: x509.Certificate, signature: bytes, message: bytes) -> None:
        match self.kind, certificate.public_key():
            case Signature.RSA, rsa.RSAPublicKey() as key:
                key.verify(signature, message, padding.PKCS1v15(), self.digest.hash)
            case Signature.RSA_PSS, rsa.RSAPublicKey() as key if self.pss is not None:
                key.verify(signature, message, self.pss, self.digest.hash)
            case Signature.ECDSA, ec.EllipticCurvePublicKey() as key:
                key.verify(signature, message, ec.ECDSA(self.digest.hash))
            case Signature.ED25519, ed25519.Ed25519PublicKey() as key:
                key.verify(signature, message)
            case _:
                raise _invalid("the signature algorithm is not one for the signer's key")


def digest_for(certificate: x509.Certificate, wanted: Digest) -> Digest:
    """Return the digest to sign with under `certificate`, whose owner would like `wanted`."""
    # RFC8419 3.1: with signed attributes, Ed25519 goes with SHA-512.
    is_ed25519 = isinstance(certificate.public_key(), ed25519.Ed25519PublicKey)
    return Digest.SHA512 if is_ed25519 else wanted


def encode_scheme(
    certificate: x509.Certificate, digest: Digest, *, pss: bool
) -> tuple[Signature, bytes]:
    """Return the kind of signature the key of `certificate` makes, and its AlgorithmIdentifier.

    Raises:
        DirectError: CERTIFICATE_UNFIT; the key cannot sign.
    """
    match certificate.public_key():
        case rsa.RSAPublicKey() if pss:
            return Signature.RSA_PSS, _encode_pss(digest)
        case rsa.RSAPublicKey():
            # RFC3370 3.2: rsaEncryption is what every reader knows; the digest stands beside it.
            return Signature.RSA, der.sequence(_RSA, der.NULL)
        case ec.EllipticCurvePublicKey():
            return Signature.ECDSA, der.sequence(_ECDSA_OIDS[digest])
        case ed25519.Ed25519PublicKey():
            return Signature.ED25519, der.sequence(_ED25519)
        case _:
            raise DirectError(Reason.CERTIFICATE_UNFIT, "the certificate's key cannot sign")


def scheme_of(algorithm: Algorithm, digest: Digest) -> Scheme:
    """Return the scheme that `algorithm` names beside digestAlgorithm `digest`.

    Raises:
        DirectError: ALGORITHM_REFUSED where we do not know it; SIGNATURE_INVALID where it hashes
            with something else than `digest` (RFC8933 3).
    """
    if algorithm.oid == _RSA:
        return Scheme(Signature.RSA, digest)
    if algorithm.oid in _RSA_WITH:
        return Scheme(Signature.RSA, _same(_RSA_WITH[algorithm.oid], digest))
    if algorithm.oid in _ECDSA_WITH:
        return Scheme(Signature.ECDSA, _same(_ECDSA_WITH[algorithm.oid], digest))
    if algorithm.oid == _PSS:
        return _decode_pss(algorithm.parameters, digest)
    if algorithm.oid == _ED25519:
        return Scheme(Signature.ED25519, _same(Digest.SHA512, digest))
    raise refused("the signature algorithm is not one of ours")


def _encode_pss(digest: Digest) -> bytes:
    # RFC4055 2.1 spells digests inside RSA parameters with NULL. The salt is as long as the digest.
    hashed = der.sequence(digest.oid, der.NULL)
    salt = der.integer(digest.hash.digest_size)
    parameters = der.sequence(
        der.tlv(der.context(0), hashed),
        der.tlv(der.context(1), der.sequence(MGF1, hashed)),
        der.tlv(der.context(2), salt),
    )
    return der.sequence(_PSS, parameters)


def _decode_pss(parameters: Element | None, digest: Digest) -> Scheme:
    # RFC4056 3: in CMS the parameters are present; RFC8017 A.2.3 has the defaults.
    if parameters is None or parameters.tag != der.SEQUENCE:
        raise malformed("the parameters of a PSS signature are missing")
    hashed, mask, salt = Digest.SHA1, Digest.SHA1, _DEFAULT_SALT
    for field in children(parameters.content, limit=4):
        (value,) = children(field.content, limit=1) or [field]
        if field.tag == der.context(0):
            hashed = known_digest(value)
        elif field.tag == der.context(1):
            mask = mask_digest(value)
        elif field.tag == der.context(2):
            salt = int.from_bytes(value.content, "big")
        elif field.tag != der.context(3) or value.content != b"\x01":
            raise refused("the parameters of a PSS signature are not ones we know")
    if salt > _LONGEST_SALT:
        raise refused("the salt of a PSS signature is longer than any modulus")
    scheme = padding.PSS(padding.MGF1(mask.hash), salt)
    return Scheme(Signature.RSA_PSS, _same(hashed, digest), scheme)


def _same(used: Digest, declared: Digest) -> Digest:
    # RFC8933 3: the hash of the signature is the digestAlgorithm.
    if used is not declared:
        raise _invalid("the signature hashes with another algorithm than digestAlgorithm names")
    return used


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.SIGNATURE_INVALID, detail)
