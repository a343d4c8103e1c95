from __future__ import annotations

import os

import pytest

from certs.envelope import open_envelope, rewrap, seal_envelope
from certs.errors import DirectError, Reason
from tests.helpers.pki import session_key

KEK, OTHER = os.urandom(32), os.urandom(32)


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "ed25519", "x25519"])
def test_sealed_key_is_opened(kind: str) -> None:
    key = session_key(kind, "envelope")
    sealed = seal_envelope(key, kek=KEK, context=b"id")
    assert open_envelope(sealed, kek=KEK, context=b"id").public_key() == key.public_key()


def refused(sealed: bytes, kek: bytes = KEK, context: bytes = b"id") -> None:
    with pytest.raises(DirectError) as caught:
        open_envelope(sealed, kek=kek, context=context)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


def test_envelope_opens_only_with_its_key_and_in_its_place() -> None:
    sealed = seal_envelope(session_key("p256", "envelope"), kek=KEK, context=b"id")
    refused(sealed, kek=OTHER)
    refused(sealed, context=b"other")
    refused(b"")


@pytest.mark.parametrize("position", [0, 1, 41, 60, -1])
def test_changed_envelope_does_not_open(position: int) -> None:
    sealed = bytearray(seal_envelope(session_key("p256", "envelope"), kek=KEK, context=b"id"))
    sealed[position] ^= 1
    refused(bytes(sealed))


def test_rewrapped_envelope_opens_with_the_new_key_only() -> None:
    key = session_key("p256", "envelope")
    old = seal_envelope(key, kek=KEK, context=b"id")
    new = rewrap(old, old_kek=KEK, new_kek=OTHER)
    assert open_envelope(new, kek=OTHER, context=b"id").public_key() == key.public_key()
    refused(new)
    with pytest.raises(DirectError):
        rewrap(old, old_kek=OTHER, new_kek=KEK)


def test_key_is_not_to_be_seen() -> None:
    key = session_key("p256", "envelope")
    number = key.private_numbers().private_value  # type: ignore[union-attr]  # an EC key
    assert number.to_bytes(32) not in seal_envelope(key, kek=KEK, context=b"id")
