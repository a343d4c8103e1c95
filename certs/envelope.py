"""Private keys at rest: PKCS#8 sealed under a key-encryption key.

Pure but for the randomness of nonces and data keys.

Standards:
    NIST SP 800-38D (AES-GCM)
    RFC5649 (AES key wrap with padding)
    RFC5958 (PKCS#8)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from certs.errors import DirectError, Reason
from certs.identity import SupportedPrivateKey

__all__ = ["KEK_OCTETS", "open_any", "open_envelope", "rewrap", "seal_envelope"]

# Layout: version (1), wrapped data key (40), nonce (12), ciphertext and tag.
KEK_OCTETS: Final = 32
_VERSION: Final = b"\x01"
_WRAPPED: Final = slice(1, 41)
_NONCE: Final = slice(41, 53)
_SEALED: Final = slice(53, None)


def seal_envelope(key: SupportedPrivateKey, *, kek: bytes, context: bytes) -> bytes:
    """Return the sealed key. `context` is bound to it: the envelope opens nowhere else."""
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    data_key, nonce = AESGCM.generate_key(256), os.urandom(12)
    sealed = AESGCM(data_key).encrypt(nonce, plain, _VERSION + context)
    return _VERSION + aes_key_wrap_with_padding(kek, data_key) + nonce + sealed


def open_envelope(envelope: bytes, *, kek: bytes, context: bytes) -> SupportedPrivateKey:
    """Return the key inside.

    An RSA key was checked when it was imported and the envelope is authentic, so the 36 ms of
    checking it again are spared.

    Raises:
        DirectError: CONFIGURATION_INVALID; wrong key-encryption key, or the envelope was changed.
    """
    try:
        data_key = aes_key_unwrap_with_padding(kek, envelope[_WRAPPED])
        plain = AESGCM(data_key).decrypt(
            envelope[_NONCE], envelope[_SEALED], envelope[:1] + context
        )
        key = load_der_private_key(plain, None, unsafe_skip_rsa_key_validation=True)
    except (InvalidUnwrap, InvalidTag, ValueError):
        raise DirectError(
            Reason.CONFIGURATION_INVALID, "the key-encryption key does not open this private key"
        ) from None
    if not isinstance(key, SupportedPrivateKey):
        raise DirectError(Reason.CONFIGURATION_INVALID, "private key is of an unknown kind")
    return key


def open_any(envelope: bytes, keks: Sequence[bytes], *, context: bytes) -> SupportedPrivateKey:
    """Return the key inside, whichever of `keks` it was sealed under.

    Raises:
        DirectError: CONFIGURATION_INVALID; under none of them, or the envelope was changed.
    """
    failure = DirectError(Reason.CONFIGURATION_INVALID, "there is no key-encryption key")
    for kek in keks:
        try:
            return open_envelope(envelope, kek=kek, context=context)
        except DirectError as error:
            failure = error
    raise failure


def rewrap(envelope: bytes, *, old_kek: bytes, new_kek: bytes) -> bytes:
    """Return the envelope under another key-encryption key; the private key stays sealed.

    Raises:
        DirectError: CONFIGURATION_INVALID; `old_kek` is not what it was sealed under.
    """
    try:
        data_key = aes_key_unwrap_with_padding(old_kek, envelope[_WRAPPED])
    except (InvalidUnwrap, ValueError):
        raise DirectError(
            Reason.CONFIGURATION_INVALID, "the old key-encryption key does not open this key"
        ) from None
    return _VERSION + aes_key_wrap_with_padding(new_kek, data_key) + envelope[_NONCE.start :]
