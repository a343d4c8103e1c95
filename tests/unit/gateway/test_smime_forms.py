"""The many lawful forms of a Direct message that are read (issue 3, point 2)."""

from __future__ import annotations

import base64
import quopri
from io import BytesIO

import pytest
from cryptography.hazmat.primitives import hashes

from certs.cms import der
from certs.cms.algorithms import Digest
from certs.errors import DirectError
from gateway.seal_options import SealOptions
from gateway.smime import seal
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW
from tests.helpers.sealed import BOUNDARY, MESSAGE, OUTER, Opened, identity, unseal

ALICE = identity("p256")
BOB = identity("rsa2048", "bob")
ENTITY = b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE
SHA512 = der.sequence(der.oid("2.16.840.1.101.3.4.2.3"))
ECDSA_SHA512 = der.sequence(der.oid("1.2.840.10045.4.3.4"))


def opened(plaintext: bytes) -> Opened:
    return unseal(cms.sealed(plaintext, BOB), [BOB])


def signed(entity: bytes, **how: str) -> bytes:
    return cms.detached(entity, ALICE, None, **how)


# The envelope.


def envelope(plaintext: bytes = signed(ENTITY)) -> bytes:
    key = bytes(range(32))
    return cms.enveloped(plaintext, [cms.key_transport(key, BOB)], key)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("base64", base64.encodebytes(envelope())),
        ("BASE64", base64.b64encode(envelope())),
        ("base64 (comment)", base64.b64encode(envelope()) + b"\r\n\r\n"),
        ("binary", envelope()),
        ("8bit", envelope()),
        ("quoted-printable", quopri.encodestring(envelope().replace(b"\r", b"\r"))),
    ],
)
def test_transfer_encodings_of_the_envelope(encoding: str, body: bytes) -> None:
    if encoding == "quoted-printable":
        # quopri leaves line ends as they are; binary needs every one encoded.
        body = b"".join(b"=%02X" % octet for octet in envelope())
        body = b"=\r\n".join(body[at : at + 75] for at in range(0, len(body), 75))
    head = (
        "Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    assert unseal(OUTER + head.encode() + body, [BOB]).content == MESSAGE


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-pkcs7-mime; smime-type=enveloped-data; name=smime.p7m",
        "application/pkcs7-mime",
        'APPLICATION/PKCS7-MIME; SMIME-TYPE="enveloped-data"; NAME="smime.p7m";',
        "application/pkcs7-mime; name=smime.p7m (a comment; with a semicolon)",
        "application/pkcs7-mime;\r\n\tsmime-type=enveloped-data",
        "application/pkcs7-mime; smime-type=signed-data",
    ],
)
def test_content_types_of_the_envelope(content_type: str) -> None:
    # AS-042. What is inside counts, not what smime-type says.
    message = OUTER + cms.mime(envelope(), content_type)
    assert unseal(message, [BOB]).content == MESSAGE


def test_line_feeds_alone_outside() -> None:
    message = cms.message(envelope()).replace(b"\r\n", b"\n")
    assert unseal(message, [BOB]).content == MESSAGE


def test_base64_in_lines_of_any_length() -> None:
    text = base64.b64encode(envelope())
    for width in (1, 7, 61, 64, 1000):
        body = b"\r\n".join(text[at : at + width] for at in range(0, len(text), width))
        head = b"Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        assert unseal(OUTER + head + body, [BOB]).content == MESSAGE


# The signature.


@pytest.mark.parametrize(
    "micalg", ["sha-256", "sha256", "SHA256", '"sha-256"', "unknown", "sha-1", "sha-512", '""']
)
def test_micalg_is_a_hint(micalg: str) -> None:
    # AS-046, T-17
    found = opened(signed(ENTITY, micalg=micalg))
    assert found.content == MESSAGE
    assert found.unsealed.algorithms.digest == "sha256"


def test_a_wrong_micalg_is_noted() -> None:
    assert opened(signed(ENTITY, micalg="sha-512")).unsealed.tolerated == (
        "micalg names another digest than the signature",
    )
    assert opened(signed(ENTITY)).unsealed.tolerated == ()


def test_no_micalg_at_all() -> None:
    plaintext = signed(ENTITY).replace(b" micalg=sha-256;", b"", 1)
    assert opened(plaintext).content == MESSAGE


@pytest.mark.parametrize("kind", ["application/pkcs7-signature", "application/x-pkcs7-signature"])
def test_spellings_of_the_signature_part(kind: str) -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate])
    plaintext = cms.multipart_signed(ENTITY, data, signature_type=kind)
    assert opened(plaintext).content == MESSAGE


@pytest.mark.parametrize("encoding", ["base64", "binary"])
def test_opaque_signatures(encoding: str) -> None:
    # AS-043
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate], content=ENTITY)
    for kind in ("application/pkcs7-mime; smime-type=signed-data", "application/x-pkcs7-mime"):
        assert opened(cms.mime(data, kind, encoding)).content == MESSAGE


def test_a_detached_signature_is_kept_as_it_came_and_an_opaque_one_is_not() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate])
    assert opened(cms.multipart_signed(ENTITY, data)).unsealed.signature == data
    assert opened(cms.opaque(ENTITY, ALICE)).unsealed.signature is None


def test_opaque_signature_over_another_digest_than_announced() -> None:
    info = cms.signer_info(
        ALICE, ENTITY, digest=SHA512, algorithm=ECDSA_SHA512, hash_=hashes.SHA512()
    )
    data = cms.signed_data([info], [ALICE.certificate], content=ENTITY)  # announces SHA-256
    assert opened(cms.mime(data, "application/pkcs7-mime")).unsealed.algorithms.digest == "sha512"


def test_an_empty_opaque_content_is_content() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, b"")], [ALICE.certificate], content=b"")
    # It has no header, and so is no entity; but it is not taken for a detached signature.
    with pytest.raises(DirectError, match="has no end"):
        opened(cms.mime(data, "application/pkcs7-mime; smime-type=signed-data"))


# The wrapper.


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("7bit", MESSAGE),
        ("8bit", MESSAGE),
        ("binary", MESSAGE),
        ("base64", base64.encodebytes(MESSAGE).replace(b"\n", b"\r\n")),
        ("quoted-printable", quopri.encodestring(MESSAGE.replace(b"\r\n", b"\n"))),
    ],
)
def test_transfer_encodings_of_the_wrapper(encoding: str, body: bytes) -> None:
    # AS-028, T-11
    head = f"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    found = opened(signed(head.encode() + body))
    assert found.content.replace(b"\r\n", b"\n") == MESSAGE.replace(b"\r\n", b"\n")
    assert found.unsealed.wrapped
    assert found.unsealed.size == len(found.content)


def test_a_wrapper_with_parameters_and_other_fields() -> None:
    head = (
        b"X-Mailer: peer\r\nContent-Disposition: attachment; filename=m.eml\r\n"
        b'Content-Type: MESSAGE/RFC822; name="m.eml"\r\n\r\n'
    )
    assert opened(signed(head + MESSAGE)).content == MESSAGE


PLAIN = b"Content-Type: text/plain; charset=utf-8\r\n\r\nPlease see the patient.\r\n"


def test_an_unwrapped_message_gets_the_outer_header() -> None:
    # AS-022
    outer = (
        b"From: alice@a.example\r\nTo: bob@b.example\r\nSubject: Referral\r\n"
        b"Content-Description: not this\r\nMIME-Version: 1.0\r\n"
    )
    message = cms.sealed(signed(PLAIN), BOB).replace(OUTER, outer)
    found = unseal(message, [BOB])
    assert not found.unsealed.wrapped
    assert found.content == (
        b"From: alice@a.example\r\nTo: bob@b.example\r\nSubject: Referral\r\n"
        b"MIME-Version: 1.0\r\n" + PLAIN
    )


@pytest.mark.parametrize(
    "kind", ["application/pdf", "image/png", "multipart/mixed; boundary=x", "video/mp4", "audio/x"]
)
def test_an_unwrapped_message_may_be_of_any_type(kind: str) -> None:
    # AS-020
    entity = f"Content-Type: {kind}\r\n\r\nanything\r\n".encode()
    assert opened(signed(entity)).content.endswith(entity)


def test_what_is_signed_stands_before_what_is_not() -> None:
    entity = b"From: carol@c.example\r\nMIME-Version: 1.0\r\n" + PLAIN
    found = opened(signed(entity))
    assert found.content == b"To: bob@b.example\r\n" + entity
    assert b"alice" not in found.content


# Line ends.


LF = ENTITY.replace(b"\r\n", b"\n")


def line_fed(over: bytes) -> bytes:
    """A multipart/signed with bare line feeds, whose signature is over `over`."""
    data = cms.signed_data([cms.signer_info(ALICE, over)], [ALICE.certificate])
    return cms.multipart_signed(ENTITY, data).replace(b"\r\n", b"\n")


def test_the_exact_octets_are_tried_first() -> None:
    # T-12, T-13
    found = opened(line_fed(LF))
    assert found.content == MESSAGE.replace(b"\r\n", b"\n")
    assert found.unsealed.tolerated == ()


def test_canonical_line_ends_are_tried_where_the_message_has_others() -> None:
    found = opened(line_fed(ENTITY))
    assert found.content == MESSAGE  # what was signed, not what was sent
    assert found.unsealed.tolerated == (
        "the signature is over canonical line ends, the message has others",
    )


def test_line_ends_are_not_made_canonical_in_a_canonical_message() -> None:
    entity = ENTITY + b"a\nb\rc\r\r\nd"
    assert opened(signed(entity)).content == MESSAGE + b"a\nb\rc\r\r\nd"


def test_a_carriage_return_before_the_boundary_is_the_boundarys() -> None:
    for ending in (b"", b"\r\n", b"\n", b"\r"):
        assert opened(signed(ENTITY + ending)).content == MESSAGE + ending


def test_boundary_lines_may_be_padded() -> None:
    line = b"--" + BOUNDARY.encode()
    plaintext = signed(ENTITY).replace(line + b"\r\n", line + b" \t\r\n")
    assert opened(plaintext).content == MESSAGE


def test_a_longer_boundary_does_not_end_a_part() -> None:
    entity = ENTITY + b"--" + BOUNDARY.encode() + b"inner\r\nx\r\n"
    assert opened(signed(entity)).content == entity[len(ENTITY) - len(MESSAGE) :]


# Large messages.


@pytest.mark.parametrize("size", [1_000_000, 3_000_000])
def test_large_messages(size: int) -> None:
    content = MESSAGE + b"0123456789abcdef" * (size // 16)
    out = BytesIO()
    seal(
        BytesIO(content),
        out,
        outer=OUTER,
        signers=[ALICE],
        recipients=[BOB.certificate],
        boundary=BOUNDARY,
        now=NOW,
        options=SealOptions(digest=Digest.SHA384),
    )
    found = unseal(out.getvalue(), [BOB])
    assert found.content == content
    assert found.unsealed.size == len(content)
