"""What fails while a message is decrypted fails in one way only (issue 3, point 4; R-026)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519

from certs.cms import der
from certs.cms.algorithms import ContentEncryption
from certs.cms.names import issuer_and_serial
from certs.errors import DirectError, Reason
from certs.identity import Identity, PrivateKey
from gateway import smime
from gateway.seal_options import SealOptions
from tests.helpers import cms_builder as cms
from tests.helpers.sealed import MESSAGE, identity, seal, unseal

ENTITY = b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE
ALICE = identity("p256")
BOB = identity("rsa2048", "bob")
KEY = os.urandom(32)
PLAINTEXT = cms.detached(ENTITY, ALICE)
OAEP = der.oid("1.2.840.113549.1.1.7")

ONE_ANSWER = (Reason.DECRYPTION_FAILED, "the content does not decrypt")


class CountingKey:
    """A private key that counts what it is asked; an HSM raises where OpenSSL would not."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.asked = 0

    def sign(self, message: bytes, digest: hashes.HashAlgorithm, *, pss: bool = False) -> bytes:
        return self._key.sign(message, digest, pss=pss)

    def unwrap(self, encrypted_key: bytes, oaep: padding.OAEP | None) -> bytes:
        self.asked += 1
        return self._key.unwrap(encrypted_key, oaep)

    def derive(self, ephemeral: ec.EllipticCurvePublicKey | x25519.X25519PublicKey) -> bytes:
        self.asked += 1
        return self._key.derive(ephemeral)


def outcome(message: bytes, ours: Identity = BOB) -> tuple[Reason, str, int, int]:
    """Reason and detail, how far the message was read, and how often the private key was used."""
    file, key = io.BytesIO(message), CountingKey(ours.key)
    with pytest.raises(DirectError) as caught:
        smime.unseal(file, io.BytesIO(), identities=[replace(ours, key=key)])
    return caught.value.reason, caught.value.detail, file.tell(), key.asked


def public_key() -> rsa.RSAPublicKey:
    public = BOB.certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    return public


def v15(key: bytes) -> bytes:
    return public_key().encrypt(key, padding.PKCS1v15())


def raw(block: bytes) -> bytes:
    """`block` in textbook RSA, with whatever padding it holds."""
    numbers = public_key().public_numbers()
    value = pow(int.from_bytes(block, "big"), numbers.e, numbers.n)
    return value.to_bytes(256, "big")


WRAPPED_KEYS = {
    "another-key": v15(os.urandom(32)),
    "no-padding": raw(b"\x01" + bytes(range(1, 255)) + b"\x01"),
    "no-separator": raw(b"\x00\x02" + b"\xaa" * 254),
    "block-type-1": raw(b"\x00\x01" + b"\xff" * 221 + b"\x00" + KEY),
    "short-padding": raw(b"\x00\x02" + b"\xaa" * 7 + b"\x00" + bytes(246)),
    "key-too-short": v15(os.urandom(16)),
    "key-too-long": v15(os.urandom(33)),
    "key-empty": v15(b""),
    "random": b"\x01" + os.urandom(255),
    "zero": bytes(256),
    "above-the-modulus": b"\xff" * 256,
    "too-short": os.urandom(255),
    "too-long": os.urandom(257),
    "empty": b"",
}


@pytest.mark.parametrize("how", WRAPPED_KEYS)
def test_every_failure_to_unwrap_a_key_looks_like_a_wrong_key(how: str) -> None:
    info = cms.key_transport(KEY, BOB, encrypted=WRAPPED_KEYS[how].ljust(1))
    reference = cms.key_transport(KEY, BOB, encrypted=v15(os.urandom(32)))
    envelope = cms.message(cms.enveloped(PLAINTEXT, [info], KEY))
    other = cms.message(cms.enveloped(PLAINTEXT, [reference], KEY))
    reason, detail, octets, asked = outcome(envelope)
    assert (reason, detail) == ONE_ANSWER
    assert octets == len(envelope)
    assert asked == 1
    assert outcome(other)[:2] == ONE_ANSWER


def test_oaep_failures_look_the_same() -> None:
    for encrypted in (os.urandom(256), b"\x00" * 256, v15(KEY)):
        info = cms.key_transport(
            KEY, BOB, algorithm=der.sequence(OAEP, der.sequence()), encrypted=encrypted
        )
        found = outcome(cms.message(cms.enveloped(PLAINTEXT, [info], KEY)))
        assert found[:2] == ONE_ANSWER
        assert found[3] == 1


EC_KEY = der.sequence(der.oid("1.2.840.10045.2.1"))
X963_SHA256 = der.oid("1.3.132.1.11.1")
WRAP256 = der.sequence(der.oid("2.16.840.1.101.3.4.1.45"))


def agreement(ours: Identity, point: bytes, encrypted: bytes) -> bytes:
    key = der.tlv(der.context(1), EC_KEY, der.tlv(der.BIT_STRING, b"\x00", point))
    entry = der.sequence(issuer_and_serial(ours.certificate), der.octet_string(encrypted))
    return der.tlv(
        der.context(1),
        der.integer(3),
        der.tlv(der.context(0), key),
        der.sequence(X963_SHA256, WRAP256),
        der.sequence(entry),
    )


P256_POINT = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


@pytest.mark.parametrize(
    ("kind", "point"),
    [
        pytest.param("p256", P256_POINT, id="key-does-not-unwrap"),
        pytest.param("p256", P256_POINT[:-1] + b"\x00", id="not-on-the-curve"),
        pytest.param("p256", b"", id="no-point"),
        pytest.param("p256", b"\x00", id="infinity"),
        pytest.param("p384", P256_POINT, id="another-curve"),
        pytest.param("x25519", bytes(32), id="small-order"),
        pytest.param("x25519", P256_POINT, id="not-of-x25519"),
    ],
)
@pytest.mark.parametrize("encrypted", [bytes(40), bytes(39), b""], ids=["40", "39", "0"])
def test_failures_of_key_agreement_look_the_same(kind: str, point: bytes, encrypted: bytes) -> None:
    ours = identity(kind, "bob")
    info = agreement(ours, point, encrypted)
    envelope = cms.message(cms.enveloped(PLAINTEXT, [info], KEY))
    reason, detail, octets, _asked = outcome(envelope, ours)
    assert (reason, detail) == ONE_ANSWER
    assert octets == len(envelope)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: {"padded": bytes(16 - len(PLAINTEXT) % 16)}, id="padding-of-zeros"),
        pytest.param(lambda: {"padded": b"\x11" * (16 - len(PLAINTEXT) % 16)}, id="padding-of-17"),
    ],
)
def test_wrong_padding_looks_the_same(make: Callable[[], dict[str, bytes]]) -> None:
    info = cms.key_transport(KEY, BOB)
    envelope = cms.message(cms.enveloped(PLAINTEXT, [info], KEY, **make()))
    assert outcome(envelope) == (*ONE_ANSWER, len(envelope), 1)


def test_wrong_padding_says_no_more_where_the_text_is_bad_too() -> None:
    # The padding is wrong, and so is the signature: only the first may be told.
    plaintext = cms.detached(ENTITY, ALICE, cms.signer_info(ALICE, b"other"))
    info = cms.key_transport(KEY, BOB)
    padded = bytes(16 - len(plaintext) % 16)
    envelope = cms.message(cms.enveloped(plaintext, [info], KEY, padded=padded))
    assert outcome(envelope)[:2] == ONE_ANSWER


def test_plaintext_that_is_no_entity_looks_the_same() -> None:
    info = cms.key_transport(KEY, BOB)
    for plaintext in (b"", b"x", os.urandom(3000), b"\r\n" * 40_000, b"A" * 70_000):
        envelope = cms.message(cms.enveloped(plaintext, [info], KEY))
        found = outcome(envelope)
        assert found[:2] in (ONE_ANSWER, (Reason.NOT_SECURED, _UNSIGNED))
        assert found[2] == len(envelope)


_UNSIGNED = "the message is encrypted but not signed"


@pytest.mark.parametrize(
    "cipher", [ContentEncryption.AES256_CBC, ContentEncryption.AES256_GCM], ids=["cbc", "gcm"]
)
@pytest.mark.parametrize("size", [0, 300_000])
def test_the_whole_message_is_read_before_a_refusal(cipher: ContentEncryption, size: int) -> None:
    ours = identity("p256", "bob")
    sealed = seal(MESSAGE + b"x" * size, options=SealOptions(content_encryption=cipher))
    at = sealed.index(b"\r\n\r\n") + 1500
    damaged = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
    _reason, _detail, octets, _asked = outcome(damaged, ours)
    assert octets >= len(sealed)


def test_a_good_message_uses_the_key_once() -> None:
    key = CountingKey(BOB.key)
    opened = unseal(
        cms.message(cms.enveloped(PLAINTEXT, [cms.key_transport(KEY, BOB)], KEY)),
        [replace(BOB, key=key)],
    )
    assert opened.content == MESSAGE
    assert key.asked == 1
