"""One function per parser: any octets give a value or a DirectError, never anything else.

`TARGETS` has each with a few octets to start from. The keys are made anew in every process; what
depends on them is only ever inside of the framing.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from certs.cms import der
from certs.cms.algorithms import ContentEncryption, Digest, KeyTransport
from certs.cms.ber import Element, Reader, canonical, children, octets
from certs.cms.compressed import inflated
from certs.cms.enveloped import Envelope, decrypt
from certs.cms.signed import SignedData, Signer
from certs.errors import DirectError
from certs.policy import CertificatePolicy
from fhir_bridge.hl7v2 import patients_in
from fhir_bridge.tnef import enclosed_in
from gateway import dsn, mdn, smime
from gateway.layers import layers_of
from gateway.message import facts_of, header_of, outer_header, prepare
from gateway.multipart import Window
from gateway.seal_options import SealOptions
from gateway.transfer import decoder_for
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW, Ca
from tests.helpers.sealed import MESSAGE, OUTER, identity, seal
from tests.unit.fhir_bridge.test_hl7v2 import ADT
from tests.unit.fhir_bridge.test_tnef import WINMAIL
from trust_bundles.bundle import read_bundle
from trust_bundles.bundle_writer import write_p7b, write_p7m, write_pem
from trust_bundles.policy_file import read_policy, write_policy
from trust_bundles.signature import verify

__all__ = ["TARGETS", "Target"]

LEGACY = CertificatePolicy(allow_sha1=True, allow_3des=True, inflated_octets=2_000_000)
ALICE = identity("p256")
BOB = identity("p256", "bob")
CA = Ca.create("Fuzzed anchor")
RSA_BOB = identity("rsa2048", "bob")
ENTITY = b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE


class Target(NamedTuple):
    """A parser to be fed, and what to begin with."""

    feed: Callable[[bytes], None]
    seeds: Sequence[bytes]


def pieces(data: bytes) -> list[bytes]:
    """`data` cut at places that depend on it."""
    size = 1 + (data[0] if data else 0)
    return [data[at : at + size] for at in range(0, len(data), size)]


def ber(data: bytes) -> None:
    with suppress(DirectError):
        whole = Reader(pieces(data)).element(len(data))
        walk(whole, 0)
        assert canonical(whole)
    try:
        reader = Reader(pieces(data))
        reader.enter(der.SEQUENCE)
        read = sum(len(piece) for piece in reader.string(der.OCTET_STRING))
        assert read <= len(data)
        reader.leave()
        reader.finish()
    except DirectError:
        pass


def walk(element: Element, depth: int) -> None:
    with suppress(DirectError):
        octets(element, tag=element.tag & ~0x20)
    if depth < 20 and element.tag & 0x20:
        for child in children(element.content):
            walk(child, depth + 1)


def bundle(data: bytes) -> None:
    read = read_bundle(data, now=NOW)
    for configured in ((), (CA.certificate,)):
        verify(read.envelope, configured, now=NOW)


def policy(data: bytes) -> None:
    read_policy(data.decode("utf-8", errors="replace"), LEGACY)


def signed(data: bytes) -> None:
    parsed = SignedData(pieces(data))
    content = b""
    if parsed.enclosed:
        content = b"".join(bytes(piece) for piece in parsed.content())
    certificates, signers = parsed.finish()
    for signer in signers:
        if isinstance(signer, Signer):
            digests = {digest: cms.digest_of(content, digest.hash) for digest in Digest}
            try:
                signer.verify(digests, certificates, LEGACY)
            except DirectError:
                continue


def enveloped(data: bytes) -> None:
    for piece in decrypt(pieces(data), [BOB, RSA_BOB], LEGACY).content:
        assert len(piece) <= len(data)


def plaintext(data: bytes) -> None:
    """A message whose envelope is in order, and whose content is `data`."""
    smime.unseal(
        io.BytesIO(cms.message(_encrypted(data))), io.BytesIO(), identities=[BOB], policy=LEGACY
    )


def compressed(data: bytes) -> None:
    """A CompressedData, and a zlib stream in one."""
    for cms_object in (data, cms.compressed_data(b"", packed=data)):
        try:
            size = sum(len(piece) for piece in inflated(pieces(cms_object), 2_000_000))
        except DirectError:
            continue
        assert size <= 2_000_000


def layers(data: bytes) -> None:
    """What `inspect` shows of a CMS object, and of what is encrypted: never an error."""
    for sealed in (cms.message(data), cms.message(_encrypted(data))):
        layers_of(
            io.BytesIO(sealed),
            plain=io.BytesIO(),
            inner=io.BytesIO(),
            identities=[BOB, RSA_BOB],
            policy=LEGACY,
        )


def message(data: bytes) -> None:
    """What comes from the network, from its first octet."""
    smime.unseal(io.BytesIO(data), io.BytesIO(), identities=[BOB, RSA_BOB], policy=LEGACY)


def hl7v2(data: bytes) -> None:
    """An attachment that is an HL7 v2 message, or says so."""
    patients_in(pieces(data))
    patients_in(pieces(ADT + data))


def tnef(data: bytes) -> None:
    """A winmail.dat, and the properties of a file in one."""
    enclosed_in(iter(pieces(data)))
    enclosed_in(iter(pieces(b"\x78\x9f\x3e\x22\x01\x00" + data)))


def multipart(data: bytes) -> None:
    window = Window(pieces(data))
    window.header()
    while not window.closed:
        for piece in window.part(b"b"):
            assert piece
    window.rest(100)


def transfer(data: bytes) -> None:
    for encoding in ("base64", "quoted-printable", "8bit"):
        decoder = decoder_for(encoding)
        try:
            size = sum(len(decoder.feed(piece)) for piece in pieces(data)) + len(decoder.finish())
        except DirectError:
            continue
        assert size <= len(data) + 1


def header(data: bytes) -> None:
    """The header of a message, and a submission made canonical."""
    out = io.BytesIO()
    try:
        told = prepare(io.BytesIO(data), out, message_id="<new@a.example>", date=NOW)
    except DirectError:
        pass
    else:
        assert facts_of(out) == told
        assert out.getvalue().isascii() or b"multipart/" in data.lower()
    found = facts_of(io.BytesIO(data))
    outer_header(found, header_of(io.BytesIO(data)))


def notice(data: bytes) -> None:
    for parse in (mdn.parse, dsn.parse):
        try:
            parse(io.BytesIO(data))
        except DirectError:
            continue


def _encrypted(plaintext: bytes) -> bytes:
    """A CMS object that is in order, and whose content is `plaintext`."""
    envelope = Envelope(
        len(plaintext),
        recipients=[BOB.certificate],
        cipher=ContentEncryption.AES256_GCM,
        transport=KeyTransport.RSA_PKCS1,
    )
    return b"".join(bytes(piece) for piece in envelope.encrypt([plaintext]))


def _key_transport() -> bytes:
    key = bytes(32)
    return cms.enveloped(b"x", [cms.key_transport(key, RSA_BOB)], key)


def _envelope_of(sealed: bytes) -> bytes:
    decoder = decoder_for("base64")
    return bytes(decoder.feed(sealed.partition(b"\r\n\r\n")[2])) + bytes(decoder.finish())


SIGNATURE = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate])
OPAQUE = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate], content=ENTITY)
REPORT = (
    b"From: a@a.example\r\nTo: b@b.example\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report;"
    b" report-type=%s; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\nContent-Type: message/%s"
    b"\r\n\r\n%s\r\n--b--\r\n"
)
NOTICES = [
    REPORT % (
        b"disposition-notification", b"disposition-notification",
        b"Reporting-UA: x\r\nFinal-Recipient: rfc822; b@b.example\r\nOriginal-Message-ID: <1@a>\r\n"
        b"Disposition: automatic-action/MDN-sent-automatically; processed\r\n",
    ),
    REPORT % (
        b"delivery-status", b"delivery-status",
        b"Reporting-MTA: dns; x.example\r\n\r\nFinal-Recipient: rfc822; b@b.example\r\n"
        b"Action: failed\r\nStatus: 5.1.1\r\n",
    ),
]  # fmt: skip

TARGETS = {
    "ber": Target(ber, [SIGNATURE, b"\x30\x80\x24\x80\x04\x01x\x00\x00\x00\x00", b"\x04\x00"]),
    "signed": Target(signed, [SIGNATURE, OPAQUE]),
    "enveloped": Target(
        enveloped,
        [
            _envelope_of(seal(recipients=[BOB.certificate])),
            _envelope_of(
                seal(
                    recipients=[BOB.certificate],
                    options=SealOptions(content_encryption=ContentEncryption.AES128_GCM),
                )
            ),
            _key_transport(),
        ],
    ),
    "plaintext": Target(
        plaintext, [cms.detached(ENTITY, ALICE), cms.opaque(ENTITY, ALICE), MESSAGE]
    ),
    "compressed": Target(compressed, [cms.compressed_data(ENTITY), zlib.compress(ENTITY)]),
    "layers": Target(
        layers,
        [
            _envelope_of(seal(recipients=[BOB.certificate, RSA_BOB.certificate])),
            cms.detached(ENTITY, ALICE),
            cms.opaque(ENTITY, ALICE),
        ],
    ),
    "message": Target(message, [seal(), OUTER + cms.detached(ENTITY, ALICE), MESSAGE]),
    "multipart": Target(
        multipart, [b"X: y\r\n\r\npre\r\n--b\r\nfirst\r\n--b\r\nsecond\r\n--b--\r\n"]
    ),
    "bundle": Target(
        bundle,
        [
            write_p7m([ALICE.certificate, BOB.certificate], BOB, now=NOW),
            write_p7b([CA.certificate], "<bundle/>"),
            write_p7m([CA.certificate], ALICE, now=NOW),
            write_pem([CA.certificate]),
        ],
    ),
    "policy": Target(policy, [write_policy(LEGACY).encode(), b'keys = ["rsa"]']),
    "transfer": Target(transfer, [b"aGVsbG8=\r\n", b"a=C3=A9=\r\nb\r\n"]),
    "header": Target(
        header,
        [
            MESSAGE,
            b"From: A <a@a.example>\r\nTo: g: b@b.example, c@c.example;\r\n"
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\xc3\xa9\r\n--b--\r\n",
        ],
    ),
    "notice": Target(notice, NOTICES),
    "hl7v2": Target(hl7v2, [ADT]),
    "tnef": Target(tnef, [WINMAIL]),
}
