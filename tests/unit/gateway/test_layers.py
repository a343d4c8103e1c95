"""The layers of a message, as far as they open; what `inspect` shows is in tests/integration."""

from __future__ import annotations

import io

import pytest

from certs.cms import der
from certs.cms.algorithms import ContentEncryption
from certs.cms.names import key_identifier
from certs.policy import CertificatePolicy
from gateway.layers import Layers, layers_of
from gateway.seal_options import SealOptions
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW
from tests.helpers.sealed import MESSAGE, identity, seal

BOB = identity("p256", "bob")
ENTITY = b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE


def layers(message: bytes, *ours: str) -> Layers:
    return layers_of(
        io.BytesIO(message),
        plain=io.BytesIO(),
        inner=io.BytesIO(),
        identities=[identity(kind, "bob") for kind in ours or ("p256",)],
        policy=CertificatePolicy(),
    )


def test_every_recipient_is_named_and_ours_is_marked() -> None:
    kinds = ("rsa2048", "p384", "x25519", "p256")
    sealed = seal(recipients=[identity(kind, "bob").certificate for kind in kinds])
    found = layers(sealed)
    assert found.envelope is not None
    assert {(r.kind, r.algorithm) for r in found.envelope.recipients} == {
        ("key transport", "rsa-oaep-sha256"),
        ("key agreement", "ecdh-sha384kdf"),
        ("key agreement", "ecdh-sha256kdf"),
    }
    ours = [r.ours for r in found.envelope.recipients if r.ours is not None]
    assert ours == [BOB.certificate]


def test_an_authenticated_envelope_is_named() -> None:
    options = SealOptions(content_encryption=ContentEncryption.AES256_GCM)
    found = layers(seal(options=options))
    assert found.envelope is not None
    assert found.envelope.kind == "authenticated-enveloped-data"
    assert found.envelope.content_encryption == "aes256-gcm"
    assert found.stopped is None


def test_what_the_policy_refuses_is_still_named() -> None:
    triple_des = der.oid("1.2.840.113549.3.7")
    algorithm = der.sequence(triple_des, der.octet_string(bytes(8)))
    rsa = identity("rsa2048", "bob")
    infos = [cms.key_transport(bytes(24), rsa)]
    found = layers(
        cms.message(cms.enveloped(b"x", infos, bytes(32), algorithm=algorithm)), "rsa2048"
    )
    assert found.envelope is not None
    assert found.envelope.content_encryption == "des-ede3-cbc"
    assert found.stopped == "the content is encrypted with triple DES"


def test_signers_are_shown_as_they_are_written() -> None:
    alice, rsa = identity("p256"), identity("rsa2048", "bob")
    broken = der.sequence(der.integer(1))
    infos = [cms.signer_info(alice, ENTITY), cms.signer_info(alice, b"other"), broken]
    data = cms.signed_data(infos, [alice.certificate])
    found = layers(cms.sealed(cms.multipart_signed(ENTITY, data), rsa), "rsa2048")
    assert found.signature is not None
    good, bad, unreadable = found.signature.signers
    assert good.verified is not None
    assert good.verified.certificate == alice.certificate
    assert good.anatomy is not None
    assert good.anatomy.signing_time == NOW
    assert (bad.verified, bad.problem) == (None, "the content is not what was signed")
    assert (unreadable.anatomy, unreadable.problem) == (None, "a signer does not parse")
    assert found.inside is not None
    assert found.inside.wrapped


def test_an_opaque_signature_is_opened() -> None:
    rsa = identity("rsa2048", "bob")
    found = layers(cms.sealed(cms.opaque(ENTITY, identity("p256")), rsa), "rsa2048")
    assert found.signature is not None
    assert found.signature.form == "application/pkcs7-mime"
    assert found.inside is not None
    assert found.stopped is None


def test_a_signature_over_canonical_line_ends_verifies() -> None:
    rsa, alice = identity("rsa2048", "bob"), identity("p256")
    plaintext = cms.detached(ENTITY, alice).replace(b"\r\n", b"\n")
    found = layers(cms.sealed(plaintext, rsa), "rsa2048")
    assert found.signature is not None
    assert found.signature.signers[0].verified is not None


def test_no_octet_changed_makes_it_raise() -> None:
    good = seal()
    for at in range(0, len(good), 7):
        layers(good[:at] + bytes((good[at] ^ 0x11,)) + good[at + 1 :])
    for at in range(0, len(good), 31):
        layers(good[:at])


def test_no_octet_changed_inside_makes_it_raise() -> None:
    rsa = identity("rsa2048", "bob")
    plaintext = cms.detached(ENTITY, identity("p256"))
    for at in range(0, len(plaintext), 5):
        changed = plaintext[:at] + bytes((plaintext[at] ^ 0x05,)) + plaintext[at + 1 :]
        layers(cms.sealed(changed, rsa), "rsa2048")


def test_recipients_of_other_kinds_are_shown() -> None:
    rsa = identity("rsa2048", "bob")
    others = [der.tlv(der.context(n), der.integer(0)) for n in (2, 3, 4, 5)]
    odd = [der.sequence(der.integer(0)), der.tlv(der.context(1), der.integer(3))]
    infos = [*others, *odd, cms.key_transport(bytes(32), rsa)]
    found = layers(cms.message(cms.enveloped(b"x", infos, bytes(32))), "rsa2048")
    assert found.envelope is not None
    kinds = [(r.kind, r.ours is not None) for r in found.envelope.recipients]
    assert kinds == [
        ("key-encryption key", False),
        ("password", False),
        ("other", False),
        ("unknown", False),
        ("key transport", False),
        ("key agreement", False),
        ("key transport", True),
    ]


def test_names_are_as_the_certificate_has_them() -> None:
    rsa = identity("rsa2048", "bob")
    by_key = der.tlv(der.context(0, constructed=False), key_identifier(rsa.certificate) or b"")
    found = layers(
        cms.message(
            cms.enveloped(
                b"x",
                [
                    cms.key_transport(bytes(32), rsa),
                    cms.key_transport(bytes(32), rsa, rid=by_key),
                    cms.key_transport(bytes(32), rsa, rid=der.sequence(der.NULL)),
                ],
                bytes(32),
            )
        ),
        "rsa2048",
    )
    assert found.envelope is not None
    serial, root = rsa.certificate.serial_number, "Sealed messages root"
    digest = key_identifier(rsa.certificate) or b""
    assert [r.name for r in found.envelope.recipients] == [
        f"serial {serial:x} of Common Name: {root}, Organization: {root}",
        f"key identifier {digest.hex()}",
        "unreadable name 30020500",
    ]


@pytest.mark.parametrize("repeated", [1, 100, 5000])
def test_a_name_that_goes_on_and_on_is_shown_shortly(repeated: int) -> None:
    attribute = der.sequence(der.oid("2.5.4.3"), der.tlv(0x13, b"x"))
    name = der.sequence(*[der.tlv(der.SET, attribute)] * repeated)
    rid = der.sequence(name, der.integer(1))
    rsa = identity("rsa2048", "bob")
    infos = [cms.key_transport(bytes(32), rsa, rid=rid)]
    found = layers(cms.message(cms.enveloped(b"x", infos, bytes(32))), "rsa2048")
    assert found.envelope is not None
    (shown,) = (r.name for r in found.envelope.recipients)
    assert shown.startswith("serial 1 of Common Name: x" if repeated <= 100 else "unreadable")
    assert len(shown) < 1000


def test_what_stands_before_the_recipients_is_passed_over() -> None:
    rsa = identity("rsa2048", "bob")
    honest = cms.enveloped(b"x", [cms.key_transport(bytes(32), rsa)], bytes(32))
    version = der.integer(0)
    originator = der.tlv(der.context(0), der.tlv(der.context(0), der.sequence()))
    body = honest[honest.index(cms.ENVELOPED) + len(cms.ENVELOPED) :]
    inner = body[body.index(version) + len(version) :]
    found = layers(
        cms.message(cms.content_info(cms.ENVELOPED, der.sequence(version, originator, inner))),
        "rsa2048",
    )
    assert found.envelope is not None
    assert [r.ours for r in found.envelope.recipients] == [rsa.certificate]
