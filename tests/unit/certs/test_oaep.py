"""certs.oaep, against `cryptography`'s padding and its raw RSA."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from certs.oaep import mask, unpad_oaep
from tests.helpers.pki import session_key

SHA1, SHA256, SHA512 = hashes.SHA1(), hashes.SHA256(), hashes.SHA512()


def padded(
    message: bytes, digest: hashes.HashAlgorithm, masked: hashes.HashAlgorithm, label: bytes
) -> bytes:
    """The encoded block, by raw RSA over what `cryptography` encrypted."""
    key = session_key("rsa2048", "oaep")
    assert isinstance(key, rsa.RSAPrivateKey)
    oaep = padding.OAEP(padding.MGF1(masked), digest, label or None)
    encrypted = key.public_key().encrypt(message, oaep)
    numbers = key.private_numbers()
    block = pow(int.from_bytes(encrypted), numbers.d, numbers.public_numbers.n)
    return block.to_bytes(256)


@pytest.mark.parametrize("message", [b"", b"\x01", b"k" * 32, b"\x00" * 16], ids=len)
@pytest.mark.parametrize(
    ("digest", "masked", "label"),
    [(SHA1, SHA1, b""), (SHA256, SHA256, b""), (SHA256, SHA1, b"label"), (SHA512, SHA256, b"")],
)
def test_message_comes_out(
    message: bytes, digest: hashes.HashAlgorithm, masked: hashes.HashAlgorithm, label: bytes
) -> None:
    block = padded(message, digest, masked, label)
    assert unpad_oaep(block, digest=digest.name, mask_digest=masked.name, label=label) == message


def test_block_that_is_wrong_anywhere_is_refused() -> None:
    block = padded(b"key", SHA256, SHA256, b"")
    for at in (0, 1, 32, 33, 64, 200, 255):
        wrong = bytearray(block)
        wrong[at] ^= 1
        with pytest.raises(ValueError, match="decryption error"):
            unpad_oaep(bytes(wrong), digest="sha256", mask_digest="sha256")
    with pytest.raises(ValueError, match="decryption error"):
        unpad_oaep(block, digest="sha256", mask_digest="sha256", label=b"other")
    with pytest.raises(ValueError, match="decryption error"):
        unpad_oaep(os.urandom(256), digest="sha256", mask_digest="sha256")
    with pytest.raises(ValueError, match="too short"):
        unpad_oaep(block[:60], digest="sha256", mask_digest="sha256")


def test_block_without_the_separator_is_refused() -> None:
    """PS runs to the end: there is no message, not an empty one."""
    db = hashlib.sha256(b"").digest() + bytes(256 - 2 * 32 - 1)
    seed = os.urandom(32)
    masked_db = bytes(a ^ b for a, b in zip(db, mask(seed, len(db), "sha256"), strict=True))
    masked_seed = bytes(a ^ b for a, b in zip(seed, mask(masked_db, 32, "sha256"), strict=True))
    with pytest.raises(ValueError, match="decryption error"):
        unpad_oaep(b"\0" + masked_seed + masked_db, digest="sha256", mask_digest="sha256")
