"""Take the padding of RSA-OAEP off a block that was decrypted elsewhere.

Pure. Many tokens do OAEP with SHA-1 only, or not at all, and decrypt raw RSA blocks for the rest.
What is wrong with a block is not told apart, and every step is done whatever the one before it
gave: whoever times the answer learns no more than from the answer (Manger 2001).

Standards:
    RFC8017 section 7.1.2, step 3
"""

from __future__ import annotations

import hashlib
import hmac

__all__ = ["mask", "unpad_oaep"]


def unpad_oaep(block: bytes, *, digest: str, mask_digest: str, label: bytes = b"") -> bytes:
    """Return the message in an encoded block as long as the modulus; digests by `hashlib` name.

    Raises:
        ValueError: the block is not of this padding.
    """
    size = hashlib.new(digest).digest_size
    if len(block) < 2 * size + 2:
        raise ValueError("too short for the digest")
    # Step 3b: EM = Y || maskedSeed || maskedDB
    masked_seed, masked_db = block[1 : 1 + size], block[1 + size :]
    seed = _xor(masked_seed, mask(masked_db, size, mask_digest))
    db = _xor(masked_db, mask(seed, len(masked_db), mask_digest))
    # Step 3g: DB = lHash' || PS || 0x01 || M
    wanted = hashlib.new(digest, label).digest()
    wrong = block[0] | (not hmac.compare_digest(db[:size], wanted))
    searching, start = 1, 0
    for at in range(size, len(db)):
        is_one, is_zero = int(db[at] == 1), int(db[at] == 0)
        start += searching * is_one * (at + 1)
        wrong |= searching * (1 - is_one) * (1 - is_zero)
        searching *= 1 - is_one
    if wrong | searching:
        raise ValueError("decryption error")
    return db[start:]


def mask(seed: bytes, size: int, digest: str) -> bytes:
    """Return `size` octets of MGF1 over `seed` (RFC8017 B.2.1)."""
    count = -(-size // hashlib.new(digest).digest_size)
    blocks = (hashlib.new(digest, seed + number.to_bytes(4)).digest() for number in range(count))
    return b"".join(blocks)[:size]


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))
