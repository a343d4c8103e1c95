"""Every unsafe message, and the reason and detail it is refused with (issue 3, point 3)."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from certs.cms import der
from certs.cms.names import key_identifier
from certs.errors import DirectError, Reason
from certs.policy import CertificatePolicy
from tests.helpers import cms_builder as cms
from tests.helpers.sealed import MESSAGE, OUTER, identity, unseal

ENTITY = b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE
ALICE = identity("rsa2048")
BOB = identity("rsa2048", "bob")
MALLORY = identity("rsa2048", "mallory")


def refusal(message: bytes, policy: CertificatePolicy | None = None) -> tuple[Reason, str]:
    with pytest.raises(DirectError) as caught:
        unseal(message, [BOB], policy or CertificatePolicy())
    return caught.value.reason, caught.value.detail


def refused_inside(plaintext: bytes, policy: CertificatePolicy | None = None) -> tuple[Reason, str]:
    """Why the message is refused whose envelope is in order and holds `plaintext`."""
    return refusal(cms.sealed(plaintext, BOB), policy)


def refused_signer(info: bytes) -> tuple[Reason, str]:
    return refused_inside(cms.detached(ENTITY, ALICE, info))


def test_the_builder_is_honest_by_default() -> None:
    for plaintext in (cms.detached(ENTITY, ALICE), cms.opaque(ENTITY, ALICE)):
        opened = unseal(cms.sealed(plaintext, BOB), [BOB])
        assert opened.content == MESSAGE
        assert opened.unsealed.signers[0].certificate == ALICE.certificate


# Not signed, not encrypted, or not as a whole.


def test_unsigned() -> None:
    assert refused_inside(MESSAGE) == (
        Reason.NOT_SECURED,
        "the message is encrypted but not signed",
    )


def test_not_encrypted() -> None:
    assert refusal(MESSAGE) == (Reason.NOT_SECURED, "the message is not encrypted")


def test_signed_but_not_encrypted() -> None:
    expected = (Reason.NOT_SECURED, "the message is signed but not encrypted")
    assert refusal(OUTER + cms.detached(ENTITY, ALICE)) == expected
    assert refusal(OUTER + cms.opaque(ENTITY, ALICE)) == expected


def test_envelope_is_not_the_whole_body() -> None:
    part = cms.sealed(cms.detached(ENTITY, ALICE), BOB).removeprefix(OUTER)
    head = b"Content-Type: multipart/mixed; boundary=m\r\n\r\n"
    text = b"--m\r\nContent-Type: text/html\r\n\r\n<img src='http://m.example/\r\n"
    assert refusal(OUTER + head + text + b"--m\r\n" + part + b"\r\n--m--\r\n") == (
        Reason.NOT_SECURED,
        "the message is not encrypted as a whole",
    )


def test_only_a_part_is_signed() -> None:
    signed = cms.detached(ENTITY, ALICE)
    mixed = b"Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\n\r\nBuy!\r\n--m\r\n"
    assert refused_inside(mixed + signed + b"\r\n--m--\r\n") == (
        Reason.NOT_SECURED,
        "the signature does not cover the whole message",
    )


def test_second_layer_of_encryption() -> None:
    again = cms.sealed(cms.detached(ENTITY, ALICE), BOB).removeprefix(OUTER)
    assert refused_inside(again) == (Reason.NOT_SECURED, "there is a second layer of encryption")


def test_nested_signatures() -> None:
    for inner in (cms.detached(ENTITY, ALICE, boundary="inner"), cms.opaque(ENTITY, ALICE)):
        assert refused_inside(cms.detached(inner, ALICE)) == (
            Reason.MESSAGE_MALFORMED,
            "there is a signed or encrypted layer inside the signature",
        )


def test_unwrapped_where_the_profile_wants_it_wrapped() -> None:
    entity = b"Content-Type: text/plain\r\n\r\nhello\r\n"
    signed = cms.detached(entity, ALICE)
    assert unseal(cms.sealed(signed, BOB), [BOB]).content.endswith(entity)
    assert refused_inside(signed, CertificatePolicy(accept_unwrapped=False)) == (
        Reason.MESSAGE_MALFORMED,
        "the message is not wrapped",
    )


# Text beside what was signed.


def test_text_before_the_signed_part() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate])
    plaintext = cms.multipart_signed(ENTITY, data, preamble=b"Take twice the dose.\r\n")
    assert refused_inside(plaintext) == (
        Reason.SIGNATURE_INVALID,
        "there is text before the signed part",
    )


@pytest.mark.parametrize(
    "notice",
    [
        b"This is an S/MIME signed message\n\n",
        b"This is a cryptographically signed message in MIME format.\r\n\r\n",
        b"\r\n",
    ],
)
def test_the_notice_of_an_agent_is_no_such_text(notice: bytes) -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate])
    plaintext = cms.multipart_signed(ENTITY, data, preamble=notice)
    assert unseal(cms.sealed(plaintext, BOB), [BOB]).content == MESSAGE


def test_text_after_the_signed_part() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate])
    plaintext = cms.multipart_signed(ENTITY, data, epilogue=b"Take twice the dose.\r\n")
    assert refused_inside(plaintext) == (
        Reason.SIGNATURE_INVALID,
        "there is text after the signed part",
    )


def test_a_third_part() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate])
    more = b"--=_direct_7f3a\r\nContent-Type: text/plain\r\n\r\nTake twice the dose.\r\n"
    assert refused_inside(cms.multipart_signed(ENTITY, data, more=more)) == (
        Reason.SIGNATURE_INVALID,
        "the signed message has more than two parts",
    )


def test_a_second_part_that_is_no_signature() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate])
    plaintext = cms.multipart_signed(ENTITY, data, signature_type="application/pdf")
    assert refused_inside(plaintext) == (
        Reason.SIGNATURE_INVALID,
        "the second part of the signed message is not a signature",
    )


def test_no_boundary() -> None:
    plaintext = cms.detached(ENTITY, ALICE).replace(b' boundary="', b' bound="', 1)
    assert refused_inside(plaintext) == (
        Reason.SIGNATURE_INVALID,
        "the boundary of the signed message is missing or too long",
    )


@pytest.mark.parametrize("length", [1, 70, 256, 257])
def test_boundaries_have_their_limit(length: int) -> None:
    plaintext = cms.detached(ENTITY, ALICE, boundary="b" * length)
    if length > 256:
        assert refused_inside(plaintext)[1] == (
            "the boundary of the signed message is missing or too long"
        )
    else:
        assert unseal(cms.sealed(plaintext, BOB), [BOB]).content == MESSAGE


# The signature and what it is over.


def test_signature_over_other_content() -> None:
    other = cms.signer_info(ALICE, ENTITY + b"\r\n")
    assert refused_signer(other) == (
        Reason.SIGNATURE_INVALID,
        "the content is not what was signed",
    )


def test_signature_of_another_key() -> None:
    info = cms.signer_info(replace(ALICE, key=MALLORY.key), ENTITY)
    assert refused_signer(info) == (
        Reason.SIGNATURE_INVALID,
        "the signature is not the signer's",
    )


def test_content_enclosed_in_a_detached_signature() -> None:
    data = cms.signed_data(
        [cms.signer_info(ALICE, ENTITY)], [ALICE.certificate], content=b"something else"
    )
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "a detached signature encloses content",
    )


def test_no_content_in_an_opaque_signature() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, b"")], [ALICE.certificate])
    plaintext = cms.mime(data, "application/pkcs7-mime; smime-type=signed-data")
    assert refused_inside(plaintext) == (
        Reason.SIGNATURE_INVALID,
        "an opaque signature encloses no content",
    )


def test_no_signer() -> None:
    data = cms.signed_data([], [ALICE.certificate])
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "the signed data has no signer",
    )


def test_content_of_another_type() -> None:
    data = cms.signed_data(
        [cms.signer_info(ALICE, ENTITY)], [ALICE.certificate], content_type=cms.ENVELOPED
    )
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "the signed content is not of type id-data",
    )


def test_no_signed_attributes() -> None:
    assert refused_signer(cms.signer_info(ALICE, ENTITY, without_attributes=True)) == (
        Reason.SIGNATURE_INVALID,
        "a signer has no signed attributes",
    )


def test_attributes_passed_off_as_content() -> None:
    # Strenzke 2023: the attributes of one signature are the content of another, without any.
    forged = der.tlv(der.SET, *cms.honest_attributes(ENTITY))
    data = cms.signed_data(
        [cms.signer_info(ALICE, forged, without_attributes=True)], [ALICE.certificate]
    )
    assert refused_inside(cms.multipart_signed(forged, data)) == (
        Reason.SIGNATURE_INVALID,
        "a signer has no signed attributes",
    )


DIGEST = cms.attribute(cms.MESSAGE_DIGEST, der.octet_string(cms.digest_of(ENTITY)))
TYPE = cms.attribute(cms.CONTENT_TYPE, cms.DATA)


@pytest.mark.parametrize(
    ("attributes", "detail"),
    [
        pytest.param([DIGEST], "the signed attributes have no content type", id="no-type"),
        pytest.param([TYPE], "the signed attributes have no message digest", id="no-digest"),
        pytest.param([], "the signed attributes have no content type", id="empty"),
        pytest.param([TYPE, TYPE, DIGEST], "a signed attribute is there twice", id="two-types"),
        pytest.param([TYPE, DIGEST, DIGEST], "a signed attribute is there twice", id="two-digests"),
        pytest.param(
            [
                TYPE,
                cms.attribute(
                    cms.MESSAGE_DIGEST,
                    der.octet_string(cms.digest_of(ENTITY)),
                    der.octet_string(bytes(32)),
                ),
            ],
            "a signed attribute has not exactly one value",
            id="digest-of-two-values",
        ),
        pytest.param(
            [cms.attribute(cms.CONTENT_TYPE), DIGEST],
            "a signed attribute has not exactly one value",
            id="type-of-no-value",
        ),
        pytest.param(
            [cms.attribute(cms.CONTENT_TYPE, cms.SIGNED), DIGEST],
            "the signed content type is not that of the content",
            id="another-type",
        ),
        pytest.param(
            [TYPE, DIGEST, cms.attribute(cms.SIGNING_TIME, der.octet_string(b"now"))],
            "the signing time is not a time",
            id="odd-time",
        ),
        pytest.param(
            [TYPE, der.sequence(cms.MESSAGE_DIGEST, der.sequence(der.octet_string(bytes(32))))],
            "a signed attribute does not parse",
            id="values-in-a-sequence",
        ),
        pytest.param(
            [TYPE, DIGEST, der.sequence(cms.SIGNED, der.tlv(der.SET, der.NULL), der.NULL)],
            "more than 2 elements in one place",
            id="of-three-fields",
        ),
        pytest.param([TYPE, der.sequence(der.NULL)], "a signed attribute does not parse", id="odd"),
        pytest.param(
            [TYPE, DIGEST, *(cms.attribute(der.oid(f"1.2.3.{n}"), der.NULL) for n in range(40))],
            "more than 32 elements in one place",
            id="too-many",
        ),
    ],
)
def test_attributes(attributes: list[bytes], detail: str) -> None:
    assert refused_signer(cms.signer_info(ALICE, ENTITY, attributes=attributes)) == (
        Reason.SIGNATURE_INVALID,
        detail,
    )


SHA256_WITH_RSA = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
SHA512_WITH_RSA = der.sequence(der.oid("1.2.840.113549.1.1.13"), der.NULL)
SHA1 = der.sequence(der.oid("1.3.14.3.2.26"))
MD5 = der.sequence(der.oid("1.2.840.113549.2.5"), der.NULL)


def test_digest_and_signature_hash_at_odds() -> None:
    assert refused_signer(cms.signer_info(ALICE, ENTITY, algorithm=SHA512_WITH_RSA)) == (
        Reason.SIGNATURE_INVALID,
        "the signature hashes with another algorithm than digestAlgorithm names",
    )


def test_signature_algorithm_of_another_kind_of_key() -> None:
    ecdsa = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    assert refused_signer(cms.signer_info(ALICE, ENTITY, algorithm=ecdsa)) == (
        Reason.SIGNATURE_INVALID,
        "the signature algorithm is not one for the signer's key",
    )


def test_unknown_signature_algorithm() -> None:
    dsa = der.sequence(der.oid("1.2.840.10040.4.3"))
    assert refused_signer(cms.signer_info(ALICE, ENTITY, algorithm=dsa)) == (
        Reason.ALGORITHM_REFUSED,
        "the signature algorithm is not one of ours",
    )


def test_md5() -> None:
    assert refused_signer(cms.signer_info(ALICE, ENTITY, digest=MD5)) == (
        Reason.ALGORITHM_REFUSED,
        "the digest algorithm is not one of ours",
    )


def test_sha1_unless_the_policy_allows_it() -> None:
    info = cms.signer_info(ALICE, ENTITY, digest=SHA1, hash_=hashes.SHA1())
    plaintext = cms.detached(ENTITY, ALICE, info, micalg="sha1")
    assert refused_inside(plaintext) == (
        Reason.ALGORITHM_REFUSED,
        "the signature is over a SHA-1 digest",
    )
    legacy = CertificatePolicy(allow_sha1=True)
    assert unseal(cms.sealed(plaintext, BOB), [BOB], legacy).content == MESSAGE


def test_signature_that_does_not_parse() -> None:
    plaintext = cms.multipart_signed(ENTITY, b"\x30\x03\x02\x01\x01")
    reason, _detail = refused_inside(plaintext)
    assert reason is Reason.SIGNATURE_INVALID


# Names that are not true.


def sid_of(key: bytes | None) -> bytes:
    assert key is not None
    return der.tlv(der.context(0, constructed=False), key)


def test_forged_signer_name() -> None:
    # Mallory signs, and says it was Alice.
    info = cms.signer_info(replace(MALLORY, certificate=ALICE.certificate), ENTITY)
    data = cms.signed_data([info], [MALLORY.certificate, ALICE.certificate])
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "the signature is not the signer's",
    )


def test_forged_signer_key_identifier() -> None:
    info = cms.signer_info(MALLORY, ENTITY, sid=sid_of(key_identifier(ALICE.certificate)))
    data = cms.signed_data([info], [ALICE.certificate, MALLORY.certificate])
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "the signature is not the signer's",
    )


def with_key_identifier(certificate: x509.Certificate, digest: bytes) -> x509.Certificate:
    """A certificate over the same key and name, with a key identifier that is not the key's."""
    ca_key = rsa.generate_private_key(65537, 2048)
    return (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.subject)
        .serial_number(7)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
        .public_key(certificate.public_key())
        .add_extension(x509.SubjectKeyIdentifier(digest), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def test_a_certificate_with_the_signers_key_identifier_does_not_stand_in_its_way() -> None:
    identifier = key_identifier(ALICE.certificate)
    assert identifier is not None
    decoy = with_key_identifier(MALLORY.certificate, identifier)
    info = cms.signer_info(ALICE, ENTITY, sid=sid_of(identifier))
    data = cms.signed_data([info], [decoy, ALICE.certificate])
    opened = unseal(cms.sealed(cms.multipart_signed(ENTITY, data), BOB), [BOB])
    assert [s.certificate for s in opened.unsealed.signers] == [ALICE.certificate]


def test_no_signer_certificate() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [MALLORY.certificate])
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "the signer's certificate is not there",
    )


def test_recipient_named_by_something_else() -> None:
    key = os.urandom(32)
    info = cms.key_transport(key, BOB, rid=der.octet_string(b"bob"))
    assert refusal(cms.message(cms.enveloped(b"x", [info], key))) == (
        Reason.MESSAGE_MALFORMED,
        "a certificate is named neither by issuer and serial nor by key identifier",
    )


def test_somebody_elses_message() -> None:
    assert refusal(cms.sealed(cms.detached(ENTITY, ALICE), MALLORY)) == (
        Reason.DECRYPTION_FAILED,
        "the message is encrypted for somebody else",
    )


def test_no_recipients() -> None:
    assert refusal(cms.message(cms.enveloped(b"x", [], os.urandom(32)))) == (
        Reason.MESSAGE_MALFORMED,
        "the envelope has no recipients",
    )


# Several signers.


def test_one_good_signer_is_enough_in_any_order() -> None:
    good = cms.signer_info(ALICE, ENTITY)
    bad = [
        cms.signer_info(replace(MALLORY, key=BOB.key), ENTITY),
        cms.signer_info(MALLORY, b"other"),
        cms.signer_info(MALLORY, ENTITY, without_attributes=True),
        cms.signer_info(MALLORY, ENTITY, digest=MD5),
        der.sequence(der.NULL),
    ]
    certificates = [MALLORY.certificate, ALICE.certificate]
    for infos in ([good, *bad], [*bad, good], [*bad[:2], good, *bad[2:]]):
        data = cms.signed_data(infos, certificates)
        opened = unseal(cms.sealed(cms.multipart_signed(ENTITY, data), BOB), [BOB])
        assert [s.certificate for s in opened.unsealed.signers] == [ALICE.certificate]


# Budgets.


def test_too_many_recipients() -> None:
    key = os.urandom(32)
    info = cms.key_transport(key, MALLORY, encrypted=b"x")
    assert refusal(cms.message(cms.enveloped(b"x", [info] * 1001, key))) == (
        Reason.MESSAGE_MALFORMED,
        "more than 1000 elements in one place",
    )


def test_too_many_certificates() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [ALICE.certificate] * 51)
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "more than 50 elements in one place",
    )


def test_too_many_signers() -> None:
    info = cms.signer_info(ALICE, ENTITY)
    data = cms.signed_data([info] * 17, [ALICE.certificate])
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "more than 16 elements in one place",
    )


def test_too_large_a_certificate() -> None:
    huge = der.sequence(bytes(1_100_000))
    data = cms.signed_data([cms.signer_info(ALICE, ENTITY)], [huge])
    assert refused_inside(cms.multipart_signed(ENTITY, data)) == (
        Reason.SIGNATURE_INVALID,
        "an element is longer than 1048576 octets",
    )


def test_too_long_a_signature_part() -> None:
    plaintext = cms.multipart_signed(ENTITY, bytes(4_000_000))
    assert refused_inside(plaintext) == (
        Reason.SIGNATURE_INVALID,
        "a part of the signed message is too long",
    )


@pytest.mark.parametrize("header", ["outer", "entity"])
def test_too_long_a_header(header: str) -> None:
    field = b"X-Filler: " + b"x" * 70_000 + b"\r\n"
    if header == "outer":
        found = refusal(field + cms.sealed(cms.detached(ENTITY, ALICE), BOB))
        assert found == (Reason.MESSAGE_MALFORMED, "the header is longer than 65536 octets")
    else:
        found = refused_inside(cms.detached(field + ENTITY, ALICE))
        assert found == (
            Reason.MESSAGE_MALFORMED,
            "the header of the signed part is too long",
        )


def test_too_deep_a_nesting() -> None:
    bomb = b"\x30\x80" * 100
    assert refusal(cms.message(cms.content_info(cms.ENVELOPED, bomb)))[0] is (
        Reason.MESSAGE_MALFORMED
    )
    bomb = b"\x24\x80" * 100_000
    body = der.sequence(cms.DATA, b"\xa0\x80" + bomb)
    data = cms.content_info(cms.SIGNED, der.sequence(der.integer(1), der.tlv(der.SET), body))
    reason, _detail = refused_inside(cms.mime(data, "application/pkcs7-mime"))
    assert reason is Reason.SIGNATURE_INVALID


def test_decompression_bomb() -> None:
    # Refused before anything is inflated, wherever it stands; `test_smime_compressed` has the rest.
    packed = cms.compressed_data(bytes(50_000_000))
    assert refusal(cms.message(packed)) == (
        Reason.NOT_SECURED,
        "the message is compressed, not encrypted",
    )
    inside = cms.mime(packed, "application/pkcs7-mime; smime-type=compressed-data")
    assert refused_inside(inside) == (Reason.ALGORITHM_REFUSED, "the message is compressed")
    assert refused_inside(cms.detached(inside, ALICE))[0] is Reason.MESSAGE_MALFORMED


# Envelopes of algorithms or forms that are not ours.


def test_unknown_content_encryption() -> None:
    key = os.urandom(32)
    rc2 = der.sequence(der.oid("1.2.840.113549.3.2"), der.octet_string(bytes(8)))
    sent = cms.enveloped(b"x", [cms.key_transport(key, BOB)], key, algorithm=rc2)
    assert refusal(cms.message(sent)) == (
        Reason.ALGORITHM_REFUSED,
        "the content-encryption algorithm is not one of ours",
    )


def test_triple_des_unless_the_policy_allows_it() -> None:
    key = os.urandom(32)
    des = der.sequence(der.oid("1.2.840.113549.3.7"), der.octet_string(bytes(8)))
    sent = cms.enveloped(b"x", [cms.key_transport(key, BOB)], key, algorithm=des)
    assert refusal(cms.message(sent)) == (
        Reason.ALGORITHM_REFUSED,
        "the content is encrypted with triple DES",
    )
    legacy = CertificatePolicy(allow_3des=True)
    assert refusal(cms.message(sent), legacy)[0] is Reason.DECRYPTION_FAILED


def test_gcm_in_an_enveloped_data() -> None:
    key = os.urandom(32)
    gcm = der.sequence(
        der.oid("2.16.840.1.101.3.4.1.46"), der.sequence(der.octet_string(bytes(12)))
    )
    sent = cms.enveloped(b"x", [cms.key_transport(key, BOB)], key, algorithm=gcm)
    assert refusal(cms.message(sent)) == (
        Reason.MESSAGE_MALFORMED,
        "the content encryption is not one for this kind of envelope",
    )


def test_encrypted_content_of_another_type() -> None:
    key = os.urandom(32)
    sent = cms.enveloped(b"x", [cms.key_transport(key, BOB)], key, content_type=cms.SIGNED)
    assert refusal(cms.message(sent)) == (
        Reason.MESSAGE_MALFORMED,
        "the encrypted content is not of type id-data",
    )


def test_initialisation_vector_of_the_wrong_length() -> None:
    key = os.urandom(32)
    odd = der.sequence(cms.AES256_CBC, der.octet_string(bytes(15)))
    sent = cms.enveloped(b"x", [cms.key_transport(key, BOB)], key, algorithm=odd)
    assert refusal(cms.message(sent)) == (
        Reason.MESSAGE_MALFORMED,
        "the initialisation vector has the wrong length",
    )


def test_octets_after_the_envelope() -> None:
    key = os.urandom(32)
    sent = cms.enveloped(cms.detached(ENTITY, ALICE), [cms.key_transport(key, BOB)], key)
    assert unseal(cms.message(sent + b"\r\n"), [BOB]).content == MESSAGE
    assert refusal(cms.message(sent + b"\x05\x00")) == (
        Reason.MESSAGE_MALFORMED,
        "there is more after the end of the CMS object",
    )


OAEP = der.oid("1.2.840.113549.1.1.7")
MGF1 = der.oid("1.2.840.113549.1.1.8")


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        pytest.param(
            der.octet_string(b""), "the parameters of RSA-OAEP do not parse", id="no-sequence"
        ),
        pytest.param(
            der.sequence(der.tlv(der.context(0))),
            "the parameters of RSA-OAEP do not parse",
            id="empty-field",
        ),
        pytest.param(
            der.sequence(der.tlv(der.context(3), der.NULL)),
            "the parameters of RSA-OAEP are not ones we know",
            id="another-field",
        ),
        pytest.param(
            der.sequence(der.tlv(der.context(0), MD5)),
            "the digest algorithm is not one of ours",
            id="md5",
        ),
        pytest.param(
            der.sequence(der.tlv(der.context(1), cms.SHA256)),
            "the mask generation function is not MGF1",
            id="no-mgf1",
        ),
        pytest.param(
            der.sequence(der.tlv(der.context(1), der.sequence(MGF1, MD5))),
            "the digest algorithm is not one of ours",
            id="mgf1-md5",
        ),
        pytest.param(
            der.sequence(der.tlv(der.context(2), cms.SHA256)),
            "the label of RSA-OAEP is not one we know",
            id="no-label",
        ),
    ],
)
def test_oaep_parameters_we_do_not_know_are_not_taken_for_v15(
    parameters: bytes, detail: str
) -> None:
    # R-025, T-15: the key is wrapped with PKCS#1 v1.5, which OpenSSL falls back to here.
    key = os.urandom(32)
    info = cms.key_transport(key, BOB, algorithm=der.sequence(OAEP, parameters))
    sent = cms.enveloped(cms.detached(ENTITY, ALICE), [info], key)
    assert refusal(cms.message(sent)) == (Reason.ALGORITHM_REFUSED, detail)


def test_an_oaep_parameter_of_two_values() -> None:
    key = os.urandom(32)
    parameters = der.sequence(der.tlv(der.context(0), cms.SHA256, cms.SHA256))
    info = cms.key_transport(key, BOB, algorithm=der.sequence(OAEP, parameters))
    assert refusal(cms.message(cms.enveloped(b"x", [info], key))) == (
        Reason.MESSAGE_MALFORMED,
        "more than 1 elements in one place",
    )


def test_unknown_key_transport() -> None:
    key = os.urandom(32)
    kem = der.sequence(der.oid("1.2.840.113549.1.9.16.3.14"))
    info = cms.key_transport(key, BOB, algorithm=kem)
    assert refusal(cms.message(cms.enveloped(b"x", [info], key))) == (
        Reason.ALGORITHM_REFUSED,
        "the key-encryption algorithm is not one of ours",
    )


@pytest.mark.parametrize("absent", [b"", der.NULL, der.sequence()], ids=["absent", "null", "empty"])
def test_absent_oaep_parameters_mean_sha1(absent: bytes) -> None:
    # R-025, T-16
    key = os.urandom(32)
    public = BOB.certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    info = cms.key_transport(
        key, BOB, algorithm=der.sequence(OAEP, absent), encrypted=public.encrypt(key, scheme)
    )
    sent = cms.enveloped(cms.detached(ENTITY, ALICE), [info], key)
    opened = unseal(cms.message(sent), [BOB])
    assert opened.unsealed.algorithms.key_transport == "rsa-oaep-sha1"


@pytest.mark.parametrize("label", [b"", b"direct"])
def test_oaep_label(label: bytes) -> None:
    key = os.urandom(32)
    public = BOB.certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), label)
    specified = der.sequence(der.oid("1.2.840.113549.1.1.9"), der.octet_string(label))
    parameters = der.sequence(der.tlv(der.context(2), specified))
    info = cms.key_transport(
        key, BOB, algorithm=der.sequence(OAEP, parameters), encrypted=public.encrypt(key, scheme)
    )
    sent = cms.enveloped(cms.detached(ENTITY, ALICE), [info], key)
    assert unseal(cms.message(sent), [BOB]).content == MESSAGE


HASHES = {
    "sha1": (SHA1, hashes.SHA1()),
    "sha256": (cms.SHA256, hashes.SHA256()),
    "sha384": (der.sequence(der.oid("2.16.840.1.101.3.4.2.2")), hashes.SHA384()),
    "sha512": (der.sequence(der.oid("2.16.840.1.101.3.4.2.3"), der.NULL), hashes.SHA512()),
}


@pytest.mark.parametrize("mask", HASHES)
@pytest.mark.parametrize("digest", HASHES)
def test_every_pair_of_oaep_digest_and_mask_digest(digest: str, mask: str) -> None:
    # T-16
    key = os.urandom(32)
    public = BOB.certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    scheme = padding.OAEP(padding.MGF1(HASHES[mask][1]), HASHES[digest][1], None)
    parameters = der.sequence(
        der.tlv(der.context(0), HASHES[digest][0]),
        der.tlv(der.context(1), der.sequence(MGF1, HASHES[mask][0])),
    )
    info = cms.key_transport(
        key, BOB, algorithm=der.sequence(OAEP, parameters), encrypted=public.encrypt(key, scheme)
    )
    sent = cms.enveloped(cms.detached(ENTITY, ALICE), [info], key)
    assert unseal(cms.message(sent), [BOB]).content == MESSAGE
