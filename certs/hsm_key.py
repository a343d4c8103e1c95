"""A private key in a PKCS#11 token, as CMS asks for one.

Talks to the token through the function it is handed.

What does not unwrap is a ValueError, as with a key in memory, so that the caller goes on with a
random key and a peer learns nothing (R-026). Only what says that the token itself is away becomes
an error of ours, for which the message waits.

Standards:
    PKCS11  OASIS PKCS #11 v2.40, sections 2.1 (RSA) and 2.3 (elliptic curves)
    RFC8017 sections 7 and 8, RFC5753
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import KDF, MGF, Attribute, KeyType, Mechanism, PKCS11Error

from certs.errors import DirectError, Reason
from certs.oaep import unpad_oaep

__all__ = ["TokenKey", "TokenPublicKey", "Use", "away"]

TokenPublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
# Runs work on the private key in the token's own thread.
Use: TypeAlias = Callable[[Callable[[Any], bytes]], bytes]

_RSA_SIGNS: Final = {
    "sha256": (Mechanism.SHA256_RSA_PKCS, Mechanism.SHA256_RSA_PKCS_PSS),
    "sha384": (Mechanism.SHA384_RSA_PKCS, Mechanism.SHA384_RSA_PKCS_PSS),
    "sha512": (Mechanism.SHA512_RSA_PKCS, Mechanism.SHA512_RSA_PKCS_PSS),
}
_DIGESTS: Final = {
    "sha1": (Mechanism.SHA_1, MGF.SHA1, 20),
    "sha256": (Mechanism.SHA256, MGF.SHA256, 32),
    "sha384": (Mechanism.SHA384, MGF.SHA384, 48),
    "sha512": (Mechanism.SHA512, MGF.SHA512, 64),
}


class TokenKey:
    """A private key in a token. Implements `certs.identity.PrivateKey`.

    `raw`: the token decrypts raw RSA blocks, and OAEP is taken off here. Few tokens do OAEP with
    SHA-256 themselves; those that keep raw blocks to themselves do.
    """

    def __init__(self, use: Use, public: TokenPublicKey, *, raw: bool = True) -> None:
        self._use = use
        self._public = public
        self._raw = raw

    def public_key(self) -> TokenPublicKey:
        """Return the public half."""
        return self._public

    def sign(self, message: bytes, digest: hashes.HashAlgorithm, *, pss: bool = False) -> bytes:
        """Return the signature over `message`.

        Raises:
            DirectError: INTERNAL; the token is away or fails.
        """
        try:
            if isinstance(self._public, ec.EllipticCurvePublicKey):
                return self._sign_ec(message, digest)
            mechanism, of_pss = _RSA_SIGNS[digest.name]
            if not pss:
                return self._use(lambda key: key.sign(message, mechanism=mechanism))
            parameters = _DIGESTS[digest.name]
            return self._use(
                lambda key: key.sign(message, mechanism=of_pss, mechanism_param=parameters)
            )
        except (PKCS11Error, KeyError) as error:
            raise away(error) from None

    def unwrap(self, encrypted_key: bytes, oaep: padding.OAEP | None) -> bytes:
        """Return the RSA-transported key.

        Raises:
            ValueError: it does not unwrap. DirectError: INTERNAL; the token is away.
        """
        match self._public:
            case rsa.RSAPublicKey(key_size=bits) if len(encrypted_key) == bits // 8:
                size = bits // 8
            case _:
                raise ValueError("not an RSA key, or not as long as its modulus")
        try:
            if oaep is None:
                return self._decrypt(encrypted_key, Mechanism.RSA_PKCS, None)
            hashed, masked, label = _parts(oaep)
            if not self._raw:
                parameters = (_DIGESTS[hashed][0], _DIGESTS[masked][1], label or None)
                return self._decrypt(encrypted_key, Mechanism.RSA_PKCS_OAEP, parameters)
            block = self._decrypt(encrypted_key, Mechanism.RSA_X_509, None)
        except PKCS11Error as error:
            raise ValueError(f"decryption error: {type(error).__name__}") from None
        return unpad_oaep(block.rjust(size, b"\0"), digest=hashed, mask_digest=masked, label=label)

    def derive(self, ephemeral: ec.EllipticCurvePublicKey | x25519.X25519PublicKey) -> bytes:
        """Return the ECDH shared secret.

        Raises:
            ValueError: the point does not fit the key. DirectError: INTERNAL; the token is away.
        """
        match self._public, ephemeral:
            case ec.EllipticCurvePublicKey() as ours, ec.EllipticCurvePublicKey() as peer if (
                ours.curve.name == peer.curve.name
            ):
                bits = ours.curve.key_size
                point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            case _:
                raise ValueError("key and ephemeral point are of different kinds")
        try:
            return self._use(lambda key: _agreed(key, point, bits))
        except PKCS11Error as error:
            raise ValueError(f"derivation error: {type(error).__name__}") from None

    def _sign_ec(self, message: bytes, digest: hashes.HashAlgorithm) -> bytes:
        hasher = hashes.Hash(digest)
        hasher.update(message)
        hashed = hasher.finalize()
        # PKCS11 2.3.1: r and s, each as long as the order, one after the other.
        both = self._use(lambda key: key.sign(hashed, mechanism=Mechanism.ECDSA))
        half = len(both) // 2
        return utils.encode_dss_signature(int.from_bytes(both[:half]), int.from_bytes(both[half:]))

    def _decrypt(self, encrypted: bytes, mechanism: Mechanism, parameters: object) -> bytes:
        return self._use(
            lambda key: key.decrypt(encrypted, mechanism=mechanism, mechanism_param=parameters)
        )


def away(error: Exception) -> DirectError:
    """Return the error that makes a message wait for the token."""
    return DirectError(Reason.INTERNAL, f"the token is away: {type(error).__name__}")


def _agreed(key: Any, point: bytes, bits: int) -> bytes:
    secret = key.derive_key(
        KeyType.GENERIC_SECRET,
        -(-bits // 8) * 8,
        mechanism_param=(KDF.NULL, None, point),
        template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True},
    )
    try:
        return bytes(secret[Attribute.VALUE])
    finally:
        secret.destroy()


def _parts(oaep: padding.OAEP) -> tuple[str, str, bytes]:
    """Return digest, mask digest and label: `cryptography` keeps the last two to itself."""
    mask_digest: str = oaep.mgf._algorithm.name
    return oaep.algorithm.name, mask_digest, oaep._label or b""
