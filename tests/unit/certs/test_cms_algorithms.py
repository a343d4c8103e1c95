"""Every algorithm by its name and number, as asn1crypto and the standards have them.

What we write we read back with the same table, which would hide a wrong number in it.
"""

from __future__ import annotations

from typing import Any

import pytest
from asn1crypto import algos as asn1_algos  # type: ignore[import-untyped]  # ships no types
from asn1crypto import cms as asn1_cms
from asn1crypto import core as asn1_core

from certs.cms import agreement, anatomy, der
from certs.cms.algorithms import ContentEncryption, Digest, KeyTransport
from certs.cms.enveloped import Envelope
from certs.cms.signed import digests_for, sign
from certs.policy import CIPHERS, DIGESTS
from tests.helpers.pki import NOW
from tests.helpers.sealed import identity

CBC = ContentEncryption.AES256_CBC
NAMES = {
    ContentEncryption.DES_EDE3_CBC: "tripledes_3key",
    **{c: c.value.replace("-", "_") for c in ContentEncryption if "aes" in c.value},
}


def envelope(
    kind: str,
    cipher: ContentEncryption = CBC,
    transport: KeyTransport = KeyTransport.RSA_OAEP_SHA256,
) -> Any:
    """What asn1crypto reads of an envelope for one recipient with a key of `kind`."""
    reader = identity(kind, "bob").certificate
    made = Envelope(1, recipients=[reader], cipher=cipher, transport=transport)
    encoded = b"".join(bytes(piece) for piece in made.encrypt([b"x"]))
    return asn1_cms.ContentInfo.load(encoded, strict=True)


@pytest.mark.parametrize("cipher", ContentEncryption, ids=lambda c: c.value)
def test_ciphers_have_their_numbers(cipher: ContentEncryption) -> None:
    assert asn1_algos.EncryptionAlgorithmId.load(cipher.oid).native == NAMES[cipher]


@pytest.mark.parametrize("digest", Digest, ids=lambda d: d.value)
def test_digests_have_their_numbers(digest: Digest) -> None:
    assert asn1_algos.DigestAlgorithmId.load(digest.oid).native == digest.value


def test_policies_name_the_algorithms_that_there_are() -> None:
    assert {c.value for c in ContentEncryption} == CIPHERS | {"des-ede3-cbc"}
    assert {d.value for d in Digest} == DIGESTS | {"sha1"}


@pytest.mark.parametrize(
    ("cipher", "key_octets", "block_octets"),
    [
        (ContentEncryption.AES128_CBC, 16, 16),
        (ContentEncryption.AES192_GCM, 24, 16),
        (ContentEncryption.AES256_CBC, 32, 16),
        (ContentEncryption.DES_EDE3_CBC, 24, 8),
    ],
)
def test_lengths_of_keys_and_blocks(
    cipher: ContentEncryption, key_octets: int, block_octets: int
) -> None:
    assert (cipher.key_octets, cipher.block_octets) == (key_octets, block_octets)


@pytest.mark.parametrize(
    "cipher",
    [c for c in ContentEncryption if c is not ContentEncryption.DES_EDE3_CBC],
    ids=lambda c: c.value,
)
def test_envelopes_say_what_they_are(cipher: ContentEncryption) -> None:
    info = envelope("p256", cipher)
    content = info["content"]
    if cipher.authenticated:
        assert info["content_type"].native == "authenticated_enveloped_data"
        encrypted = content["auth_encrypted_content_info"]
    else:
        assert info["content_type"].native == "enveloped_data"
        encrypted = content["encrypted_content_info"]
    assert encrypted["content_type"].native == "data"
    assert encrypted["content_encryption_algorithm"]["algorithm"].native == NAMES[cipher]


@pytest.mark.parametrize("transport", KeyTransport, ids=lambda t: t.value)
def test_key_transport_as_asn1crypto_reads_it(transport: KeyTransport) -> None:
    (recipient,) = envelope("rsa2048", transport=transport)["content"]["recipient_infos"]
    algorithm = recipient.chosen["key_encryption_algorithm"]
    if transport is KeyTransport.RSA_PKCS1:
        assert algorithm.native == {"algorithm": "rsaes_pkcs1v15", "parameters": None}
        return
    digest = transport.value.removeprefix("rsa-oaep-")
    assert algorithm["algorithm"].native == "rsaes_oaep"
    parameters = algorithm["parameters"].native
    assert parameters["hash_algorithm"]["algorithm"] == digest
    assert parameters["mask_gen_algorithm"]["algorithm"] == "mgf1"
    assert parameters["mask_gen_algorithm"]["parameters"]["algorithm"] == digest
    assert parameters["p_source_algorithm"]["parameters"] == b""


def test_the_defaults_of_oaep_are_left_out() -> None:
    # RFC4055 4.1 and X690 11.5
    transport = KeyTransport.RSA_OAEP_SHA1
    (recipient,) = envelope("rsa2048", transport=transport)["content"]["recipient_infos"]
    algorithm = recipient.chosen["key_encryption_algorithm"]
    assert algorithm.dump() == der.sequence(der.oid("1.2.840.113549.1.1.7"), der.sequence())


@pytest.mark.parametrize(
    ("kind", "scheme", "key"),
    [
        # RFC5753 7.1.4: dhSinglePass-stdDH-sha256kdf and -sha384kdf
        ("p256", "1.3.132.1.11.1", "1.2.840.10045.2.1"),
        ("p384", "1.3.132.1.11.2", "1.2.840.10045.2.1"),
        ("x25519", "1.3.132.1.11.1", "1.3.101.110"),
    ],
)
@pytest.mark.parametrize(
    ("cipher", "wrap"),
    [
        (ContentEncryption.AES128_CBC, "aes128_wrap"),
        (ContentEncryption.AES192_CBC, "aes192_wrap"),
        (ContentEncryption.AES256_CBC, "aes256_wrap"),
    ],
)
def test_key_agreement_as_asn1crypto_reads_it(
    kind: str, scheme: str, key: str, cipher: ContentEncryption, wrap: str
) -> None:
    (recipient,) = envelope(kind, cipher)["content"]["recipient_infos"]
    chosen = recipient.chosen
    algorithm = chosen["key_encryption_algorithm"]
    assert algorithm["algorithm"].dotted == scheme
    wrapping = asn1_cms.KeyEncryptionAlgorithm.load(algorithm["parameters"].dump())
    assert wrapping["algorithm"].native == wrap
    originator = chosen["originator"].chosen
    assert originator["algorithm"]["algorithm"].dotted == key


@pytest.mark.parametrize(
    ("kind", "wanted", "pss", "digest", "algorithm"),
    [
        ("rsa2048", Digest.SHA256, False, "sha256", "rsassa_pkcs1v15"),
        ("rsa2048", Digest.SHA512, False, "sha512", "rsassa_pkcs1v15"),
        ("rsa2048", Digest.SHA384, True, "sha384", "rsassa_pss"),
        ("p256", Digest.SHA256, False, "sha256", "sha256_ecdsa"),
        ("p384", Digest.SHA384, False, "sha384", "sha384_ecdsa"),
        ("p256", Digest.SHA512, False, "sha512", "sha512_ecdsa"),
        ("ed25519", Digest.SHA256, False, "sha512", "ed25519"),
    ],
)
def test_signatures_as_asn1crypto_reads_them(
    kind: str, wanted: Digest, pss: bool, digest: str, algorithm: str
) -> None:
    signer = identity(kind)
    digests = {d: bytes(d.hash.digest_size) for d in digests_for([signer], wanted)}
    made = sign(digests, [signer], wanted=wanted, pss=pss, now=NOW)
    content = asn1_cms.ContentInfo.load(made.encoded, strict=True)["content"]
    assert content["version"].native == "v1"
    assert [d["algorithm"].native for d in content["digest_algorithms"]] == [digest]
    (info,) = content["signer_infos"]
    assert info["digest_algorithm"]["algorithm"].native == digest
    assert info["signature_algorithm"]["algorithm"].native == algorithm
    attributes = {a["type"].native: a["values"].native for a in info["signed_attrs"]}
    assert attributes["content_type"] == ["data"]
    assert attributes["message_digest"] == [bytes(len(next(iter(digests.values()))))]
    assert attributes["signing_time"] == [NOW]
    if pss:
        parameters = info["signature_algorithm"]["parameters"].native
        assert parameters["hash_algorithm"]["algorithm"] == digest
        assert parameters["mask_gen_algorithm"]["parameters"]["algorithm"] == digest
        assert parameters["salt_length"] == 48


def test_every_agreement_that_is_read_has_a_name_for_people() -> None:
    named = {der.oid(dotted) for dotted in anatomy._AGREEMENTS}
    assert named == {*agreement._X963, *agreement._HKDF}
    assert asn1_core.ObjectIdentifier.load(next(iter(named))).dotted in anatomy._AGREEMENTS
