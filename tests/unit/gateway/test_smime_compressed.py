"""Compressed messages: refused by default; where a policy allows them, read within bounds."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from certs.policy import CertificatePolicy, loosest
from gateway import smime
from gateway.judgement import check_for_each, open_message
from gateway.layers import layers_of
from gateway.ports import Envelope
from tests.helpers import cms_builder as cms
from tests.helpers.sealed import MESSAGE, identity, unseal

WRAPPER = b"Content-Type: message/rfc822\r\n\r\n"
ENTITY = WRAPPER + MESSAGE
ALICE = identity("rsa2048")
BOB = identity("rsa2048", "bob")
ALLOWED = CertificatePolicy(inflated_octets=64 * 1024 * 1024)
TYPE = "application/pkcs7-mime; smime-type=compressed-data; name=smime.p7z"
TOO_LARGE = (Reason.MESSAGE_TOO_BIG, "the compressed content grows too large")


def compressed(content: bytes, content_type: str = TYPE) -> bytes:
    """A MIME entity with `content` in a CompressedData."""
    return cms.mime(cms.compressed_data(content), content_type)


def refused(plaintext: bytes, policy: CertificatePolicy = ALLOWED) -> tuple[Reason, str]:
    with pytest.raises(DirectError) as caught:
        unseal(cms.sealed(plaintext, BOB), [BOB], policy)
    return caught.value.reason, caught.value.detail


SIGNED = cms.detached(ENTITY, ALICE)


def test_off_by_default() -> None:
    assert CertificatePolicy().inflated_octets == 0
    reason = refused(compressed(SIGNED), CertificatePolicy())
    assert reason == (Reason.ALGORITHM_REFUSED, "the message is compressed")


@pytest.mark.parametrize(
    "plaintext",
    [
        pytest.param(compressed(SIGNED), id="detached-signature"),
        pytest.param(compressed(cms.opaque(ENTITY, ALICE)), id="opaque-signature"),
        pytest.param(
            compressed(SIGNED, "Application/X-PKCS7-mime; SMIME-Type=Compressed-Data"),
            id="other-spelling",
        ),
    ],
)
def test_read_between_encryption_and_signature_where_allowed(plaintext: bytes) -> None:
    opened = unseal(cms.sealed(plaintext, BOB), [BOB], ALLOWED)
    assert opened.content == MESSAGE
    assert opened.unsealed.wrapped


@pytest.mark.parametrize(
    ("plaintext", "reason"),
    [
        pytest.param(compressed(compressed(SIGNED)), Reason.ALGORITHM_REFUSED, id="twice"),
        pytest.param(
            cms.detached(compressed(ENTITY), ALICE), Reason.MESSAGE_MALFORMED, id="in-the-signature"
        ),
        pytest.param(compressed(ENTITY), Reason.NOT_SECURED, id="unsigned"),
        pytest.param(compressed(cms.sealed(SIGNED, BOB)), Reason.NOT_SECURED, id="encrypted-twice"),
        pytest.param(
            compressed(SIGNED, "application/pkcs7-mime"), Reason.ALGORITHM_REFUSED, id="not-named"
        ),
    ],
)
def test_refused_elsewhere_even_where_allowed(plaintext: bytes, reason: Reason) -> None:
    assert refused(plaintext)[0] is reason


def test_refused_outside_of_the_encryption_even_where_allowed() -> None:
    message = cms.message(cms.compressed_data(SIGNED))
    with pytest.raises(DirectError) as caught:
        unseal(message, [BOB], ALLOWED)
    assert caught.value.reason is Reason.NOT_SECURED


def test_bomb_is_cut_off_by_its_ratio() -> None:
    # Validly signed, and 50 MB of nothing, within the limit of size.
    assert refused(compressed(cms.detached(ENTITY + bytes(50_000_000), ALICE))) == TOO_LARGE


def test_bomb_is_cut_off_by_its_size() -> None:
    tight = CertificatePolicy(inflated_octets=len(SIGNED) - 1)
    assert refused(compressed(SIGNED), tight) == TOO_LARGE
    exact = CertificatePolicy(inflated_octets=len(SIGNED))
    assert unseal(cms.sealed(compressed(SIGNED), BOB), [BOB], exact).content == MESSAGE


def test_bomb_writes_no_more_than_it_may_before_it_is_cut_off() -> None:
    bomb = compressed(cms.detached(ENTITY + bytes(50_000_000), ALICE))
    out = io.BytesIO()
    with pytest.raises(DirectError):
        smime.unseal(io.BytesIO(cms.sealed(bomb, BOB)), out, identities=[BOB], policy=ALLOWED)
    assert len(out.getvalue()) < 6_000_000


def test_changed_content_is_refused_as_any_other() -> None:
    changed = compressed(SIGNED.replace(b"patient", b"PATIENT"))
    assert refused(changed) == (Reason.SIGNATURE_INVALID, "the content is not what was signed")


def test_broken_compression_is_nobodys_message() -> None:
    broken = cms.mime(cms.compressed_data(b"", packed=b"not zlib"), TYPE)
    assert refused(broken) == (
        Reason.SIGNATURE_INVALID,
        "the compressed content does not inflate",
    )


def test_constant_memory(tmp_path: Path) -> None:
    line = b"".join(b"%08x" % (n * 2654435761 % 2**32) for n in range(8)) + b"\r\n"
    content = MESSAGE + line * (16 * 1024 * 1024 // len(line))
    numbered = b"".join(b"%015d\r\n" % n for n in range(len(content) // 17))
    sealed = tmp_path / "sealed"
    plaintext = compressed(cms.detached(WRAPPER + MESSAGE + numbered, ALICE))
    sealed.write_bytes(cms.sealed(plaintext, BOB))
    with sealed.open("rb") as message, (tmp_path / "opened").open("wb") as out:
        tracemalloc.start()
        try:
            smime.unseal(message, out, identities=[BOB], policy=ALLOWED)
            assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
        finally:
            tracemalloc.stop()
    assert (tmp_path / "opened").stat().st_size == len(MESSAGE + numbered)


def test_each_recipient_is_held_to_its_own_policy() -> None:
    # Opened once by what either of them allows, it goes only to the one that allows it.
    one, other = parse_address("one@b.example"), parse_address("other@b.example")
    to_both = MESSAGE.replace(b"To: bob@b.example", f"To: {one}, {other}".encode())
    plaintext = compressed(cms.detached(WRAPPER + to_both, ALICE))
    policies = {one: ALLOWED, other: CertificatePolicy()}
    opened = open_message(
        io.BytesIO(cms.sealed(plaintext, BOB)),
        io.BytesIO(),
        identities=[BOB],
        policy=loosest(policies.values()),
    )
    envelope = Envelope(opened.facts.author, (one, other))
    refusals = check_for_each(opened, envelope, policies)
    assert list(refusals) == [other]
    assert refusals[other].reason is Reason.ALGORITHM_REFUSED


@pytest.mark.parametrize("policy", [ALLOWED, CertificatePolicy()], ids=["allowed", "refused"])
def test_inspection_shows_the_layer(policy: CertificatePolicy) -> None:
    layers = layers_of(
        io.BytesIO(cms.sealed(compressed(SIGNED), BOB)),
        plain=io.BytesIO(),
        inner=io.BytesIO(),
        identities=[BOB],
        policy=policy,
    )
    assert layers.compressed
    assert (layers.stopped is None) == (policy is ALLOWED)
    assert (layers.inside is not None) == (policy is ALLOWED)
