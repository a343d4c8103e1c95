"""Does this key verify the signature on a certificate, a CRL or an OCSP answer?

Pure.

Standards:
    RFC5280 section 4.1.1 (signature algorithms)
    RFC4055 (RSASSA-PSS), RFC5758 (ECDSA), RFC8410 (EdDSA)
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa

__all__ = ["Parameters", "verifies"]

Parameters = padding.PKCS1v15 | padding.PSS | ec.ECDSA | None


def verifies(
    issuer: x509.Certificate,
    *,
    signature: bytes,
    signed: bytes,
    digest: hashes.HashAlgorithm | None,
    parameters: Parameters,
) -> bool:
    """Say whether the issuer's key made `signature` over `signed`, whatever the names are."""
    try:
        match issuer.public_key(), parameters:
            case (rsa.RSAPublicKey() as key, padding.PKCS1v15() | padding.PSS()) if digest:
                key.verify(signature, signed, parameters, digest)
            case ec.EllipticCurvePublicKey() as key, ec.ECDSA():
                key.verify(signature, signed, parameters)
            case (dsa.DSAPublicKey() as key, _) if digest:
                key.verify(signature, signed, digest)
            case (ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey() as key, _) if digest is None:
                key.verify(signature, signed)
            case _:
                return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
