"""Certificates named as CMS names them."""

from __future__ import annotations

import pytest
from asn1crypto import x509 as asn1  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from certs.cms import der
from certs.cms.ber import Element
from certs.cms.names import comparable, issuer_and_serial, key_identifier, named
from certs.errors import DirectError
from certs.identity import Identity
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW, Ca, private_key_of
from tests.helpers.sealed import MESSAGE, identity, unseal

ALICE = identity("rsa2048")
BOB = identity("rsa2048", "bob")


def test_issuer_and_serial_are_the_certificates_own_octets() -> None:
    certificate = ALICE.certificate
    parsed = asn1.Certificate.load(certificate.public_bytes(Encoding.DER))
    issuer = parsed["tbs_certificate"]["issuer"].dump()
    serial = parsed["tbs_certificate"]["serial_number"].dump()
    assert issuer_and_serial(certificate) == der.sequence(issuer, serial)


def certificate(*extensions: x509.ExtensionType) -> x509.Certificate:
    ca = Ca.create("Names")
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.certificate.subject)
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW)
        .public_key(ALICE.certificate.public_key())
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(ca.key, hashes.SHA256())


def test_key_identifier_is_the_extensions() -> None:
    assert key_identifier(certificate(x509.SubjectKeyIdentifier(b"mine"))) == b"mine"


def test_key_identifier_without_an_extension_is_the_keys_digest() -> None:
    key = private_key_of(ALICE).public_key()
    assert key_identifier(certificate()) == (x509.SubjectKeyIdentifier.from_public_key(key).digest)


def test_something_else_is_no_name() -> None:
    with pytest.raises(DirectError, match="named neither"):
        named(Element(0x04, b"", b"\x04\x00"))


def rewritten(serial: int, *attributes: tuple[x509.ObjectIdentifier, str, int]) -> bytes:
    """An IssuerAndSerialNumber in other string types than the certificate's."""
    relative = (
        der.tlv(der.SET, der.sequence(der.oid(oid.dotted_string), der.tlv(tag, text.encode())))
        for oid, text, tag in attributes
    )
    return der.sequence(der.sequence(*relative), der.integer(serial))


def test_a_name_written_anew_is_the_same_name() -> None:
    # T-37; RFC5280 7.1
    organisation, common = NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME
    utf8, printable = _ASN1Type.UTF8String.value, _ASN1Type.PrintableString.value
    one = rewritten(5, (organisation, "The  Hospital", utf8), (common, "Root", utf8))
    other = rewritten(5, (organisation, "the hospital ", printable), (common, "ROOT", utf8))
    assert comparable(one) == comparable(other) is not None
    assert comparable(one) != comparable(rewritten(6, (organisation, "The Hospital", utf8)))
    swapped = rewritten(5, (common, "Root", utf8), (organisation, "The Hospital", utf8))
    assert comparable(one) != comparable(swapped)


@pytest.mark.parametrize(
    ("tag", "encoding"),
    [
        pytest.param(0x0C, "utf-8", id="utf8"),
        pytest.param(0x13, "ascii", id="printable"),
        pytest.param(0x14, "latin-1", id="t61"),
        pytest.param(0x16, "ascii", id="ia5"),
        pytest.param(0x1C, "utf-32-be", id="universal"),
        pytest.param(0x1E, "utf-16-be", id="bmp"),
    ],
)
def test_every_type_of_string_is_the_same_name(tag: int, encoding: str) -> None:
    def named_by(tag: int, value: bytes) -> bytes:
        attribute = der.sequence(der.oid("2.5.4.3"), der.tlv(tag, value))
        return der.sequence(der.sequence(der.tlv(der.SET, attribute)), der.integer(5))

    text = "R\u00e9gime" if tag not in (0x13, 0x16) else "Regime"
    assert comparable(named_by(tag, text.upper().encode(encoding))) == comparable(
        named_by(0x0C, text.encode())
    )


@pytest.mark.parametrize(
    "name",
    [
        b"",
        der.NULL,
        der.sequence(),
        der.sequence(der.sequence(der.octet_string(b"\x05")), der.integer(1)),
        rewritten(1, (NameOID.COMMON_NAME, "\u00e9", 0x13)),
    ],
)
def test_what_does_not_parse_is_not_comparable(name: bytes) -> None:
    assert comparable(name) is None


def anew(ours: Identity) -> bytes:
    """The name of a certificate of ours, its issuer in Printable strings and small letters."""
    attributes = [
        (a.oid, str(a.value).lower(), _ASN1Type.PrintableString.value)
        for a in ours.certificate.issuer
    ]
    return rewritten(ours.certificate.serial_number, *attributes)


def test_a_recipient_and_a_signer_are_found_by_a_name_written_anew() -> None:
    entity = b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE
    info = cms.signer_info(ALICE, entity, sid=anew(ALICE))
    data = cms.signed_data([info], [BOB.certificate, ALICE.certificate])
    key = bytes(range(32))
    envelope = cms.enveloped(
        cms.multipart_signed(entity, data), [cms.key_transport(key, BOB, rid=anew(BOB))], key
    )
    opened = unseal(cms.message(envelope), [ALICE, BOB])
    assert opened.unsealed.recipient == BOB.certificate
    assert opened.unsealed.signers[0].certificate == ALICE.certificate
