"""How each peer is sent to: what is configured, what was seen, how large it may be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from certs.cms.algorithms import ContentEncryption, Digest, KeyTransport
from gateway.peers import Peer, Peers, octets_at_most
from gateway.seal_options import SealOptions
from tests.helpers.sealed import MESSAGE, identity, seal

CBC, GCM = ContentEncryption.AES256_CBC, ContentEncryption.AES256_GCM
READS_GCM = frozenset({CBC, GCM})
READS_CBC = frozenset({CBC})
NOTHING: frozenset[ContentEncryption] = frozenset()


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param([], CBC, id="nobody"),
        pytest.param([NOTHING], CBC, id="unknown"),
        pytest.param([READS_CBC], CBC, id="only-cbc"),
        pytest.param([READS_GCM], GCM, id="gcm"),
        pytest.param([READS_GCM, READS_GCM], GCM, id="both-gcm"),
        pytest.param([READS_GCM, NOTHING], CBC, id="one-unknown"),
        # a peer's wish for less than our default counts nothing.
        pytest.param([frozenset({ContentEncryption.AES128_CBC})], CBC, id="weaker"),
        pytest.param([frozenset({ContentEncryption.DES_EDE3_CBC})], CBC, id="3des"),
    ],
)
def test_gcm_where_everybody_was_seen_to_read_it(
    seen: list[frozenset[ContentEncryption]], expected: ContentEncryption
) -> None:
    options = Peers().options_for("a.example", seen)
    assert options == SealOptions(content_encryption=expected)


def test_what_is_configured_wins_over_what_was_seen() -> None:
    configured = {
        "old.example": Peer(
            key_transport=KeyTransport.RSA_PKCS1,
            content_encryption=ContentEncryption.AES128_CBC,
            digest=Digest.SHA512,
            pss=True,
        ),
        "*": Peer(content_encryption=CBC),
    }
    peers = Peers(configured)
    assert peers.options_for("old.example", [READS_GCM]) == SealOptions(
        Digest.SHA512, ContentEncryption.AES128_CBC, KeyTransport.RSA_PKCS1, True
    )
    assert peers.options_for("other.example", [READS_GCM]) == SealOptions()


def test_what_is_not_configured_of_a_peer_is_still_seen() -> None:
    peers = Peers({"old.example": Peer(key_transport=KeyTransport.RSA_PKCS1)})
    options = peers.options_for("old.example", [READS_GCM])
    assert (options.key_transport, options.content_encryption) == (KeyTransport.RSA_PKCS1, GCM)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"content_encryption": "des-ede3-cbc"}, id="3des"),
        pytest.param({"digest": "sha1"}, id="sha1"),
        pytest.param({"key_transport": "rsa"}, id="unknown"),
        pytest.param({"size_octets": 65535}, id="too-small"),
        pytest.param({"cipher": "aes256-cbc"}, id="unknown-field"),
    ],
)
def test_what_nobody_is_to_be_sent_cannot_be_configured(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Peer.model_validate(wrong)


def test_sizes_are_the_peers_else_everybodys_else_ours() -> None:
    peers = Peers({"small.example": Peer(size_octets=70_000)}, size_octets=90_000)
    assert peers.size_octets("small.example") == 70_000
    assert peers.size_octets("other.example") == 90_000
    everybody = Peers({"small.example": Peer(), "*": Peer(size_octets=80_000)}, size_octets=90_000)
    assert everybody.size_octets("small.example") == 90_000
    assert everybody.size_octets("other.example") == 80_000


def test_it_fits_where_one_domain_takes_it() -> None:
    size = 100_000
    needed = octets_at_most(size, 1)
    peers = Peers({"b.example": Peer(size_octets=needed)}, size_octets=needed - 1)
    assert not peers.fits(size, {"a.example": 1})
    assert peers.fits(size, {"b.example": 1})
    assert peers.fits(size, {"a.example": 1, "b.example": 1})
    assert not peers.fits(size, {"b.example": 2})


@pytest.mark.parametrize("limit", [65_536, 1_000_000, 50 * 1024 * 1024])
def test_the_largest_clear_message_fits_and_one_octet_more_does_not(limit: int) -> None:
    largest = Peers(size_octets=limit).clear_octets(1)
    assert Peers(size_octets=limit).fits(largest, {"a.example": 1})
    assert octets_at_most(largest + 1, 1) > limit


def test_the_largest_clear_message_fits_for_many_recipients_and_the_peer_that_takes_most() -> None:
    peers = Peers({"small.example": Peer(size_octets=65_536)}, size_octets=50 * 1024 * 1024)
    largest = peers.clear_octets(100)
    assert peers.fits(largest, {"a.example": 100})
    assert not peers.fits(largest + 1, {"a.example": 100})
    # About three quarters, as base64 has it.
    assert 0.72 < largest / peers.size_octets("a.example") < 0.73
    big = Peers({"big.example": Peer(size_octets=80_000_000)}, size_octets=90_000)
    assert big.fits(big.clear_octets(100), {"big.example": 100})
    every = Peers({"*": Peer(size_octets=80_000_000)}, size_octets=90_000)
    assert every.clear_octets(1) == big.clear_octets(1)


def test_where_little_is_taken_recipients_do_not_take_it_all() -> None:
    peers = Peers(size_octets=65_536)
    assert peers.clear_octets(100) == peers.clear_octets(1) // 2 > 10_000


@pytest.mark.parametrize("recipients", [1, 3, 30])
@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "p384", "x25519"])
def test_a_sealed_message_is_never_larger_and_not_much_smaller(kind: str, recipients: int) -> None:
    reader = identity(kind, "bob").certificate
    for size in (len(MESSAGE), 5_000, 200_000):
        content = MESSAGE.ljust(size, b"x")
        sealed = seal(content, signers=[identity("rsa3072")], recipients=[reader] * recipients)
        bound = octets_at_most(len(content), recipients)
        assert len(sealed) <= bound <= len(sealed) + 40_000 + recipients * 3_000
