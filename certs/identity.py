"""A private key with the certificate that names it.

Pure. `PrivateKey` is the one seam between CMS and wherever keys lie: in memory (`SoftwareKey`,
here) or in an HSM.

Standards:
    RFC5652 sections 5 and 6
    RFC8017 sections 7 and 8 (RSA)
    RFC5753 (ECDH), RFC8418 (X25519)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519

from certs.errors import DirectError, Reason

__all__ = ["Identity", "PrivateKey", "SoftwareKey", "SupportedPrivateKey"]

SupportedPrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | x25519.X25519PrivateKey
)


class PrivateKey(Protocol):
    """What CMS asks of a private key."""

    def sign(self, message: bytes, digest: hashes.HashAlgorithm, *, pss: bool = False) -> bytes:
        """Return the signature over `message`; Ed25519 ignores `digest`."""
        ...

    def unwrap(self, encrypted_key: bytes, oaep: padding.OAEP | None) -> bytes:
        """Return the RSA-transported key; `oaep` None means PKCS#1 v1.5.

        Raises:
            ValueError: it does not unwrap. The caller goes on with a random key (R-026).
        """
        ...

    def derive(self, ephemeral: ec.EllipticCurvePublicKey | x25519.X25519PublicKey) -> bytes:
        """Return the ECDH shared secret.

        Raises:
            ValueError: the point does not fit the key.
        """
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate of ours, the intermediates above it (leaf's issuer first), and its key."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey


class SoftwareKey:
    """A private key in this process's memory."""

    def __init__(self, key: SupportedPrivateKey) -> None:
        self._key = key

    def sign(self, message: bytes, digest: hashes.HashAlgorithm, *, pss: bool = False) -> bytes:
        """Return the signature over `message`."""
        match self._key:
            case rsa.RSAPrivateKey() as key:
                if not pss:
                    return key.sign(message, padding.PKCS1v15(), digest)
                salt = padding.PSS.DIGEST_LENGTH
                return key.sign(message, padding.PSS(padding.MGF1(digest), salt), digest)
            case ec.EllipticCurvePrivateKey() as key:
                return key.sign(message, ec.ECDSA(digest))
            case ed25519.Ed25519PrivateKey() as key:
                return key.sign(message)
            case _:
                raise DirectError(Reason.CERTIFICATE_UNFIT, "an X25519 key cannot sign")

    def unwrap(self, encrypted_key: bytes, oaep: padding.OAEP | None) -> bytes:
        """Return the RSA-transported key."""
        match self._key:
            case rsa.RSAPrivateKey() as key:
                return key.decrypt(encrypted_key, oaep or padding.PKCS1v15())
            case _:
                raise ValueError("not an RSA key")

    def derive(self, ephemeral: ec.EllipticCurvePublicKey | x25519.X25519PublicKey) -> bytes:
        """Return the ECDH shared secret."""
        match self._key, ephemeral:
            case ec.EllipticCurvePrivateKey() as key, ec.EllipticCurvePublicKey() as peer:
                return key.exchange(ec.ECDH(), peer)
            case x25519.X25519PrivateKey() as key, x25519.X25519PublicKey() as peer:
                return key.exchange(peer)
            case _:
                raise ValueError("key and ephemeral point are of different kinds")
