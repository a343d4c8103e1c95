"""Signatures: what is written, and the odd but lawful forms that are read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from asn1crypto import cms as asn1  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certs.cms import der
from certs.cms.algorithms import Digest
from certs.cms.ber import Element, Reader, children
from certs.cms.names import issuer_and_serial, key_identifier
from certs.cms.signatures import Signature
from certs.cms.signed import SignedData, Signer, Verified, digests_for, sign
from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.policy import CertificatePolicy
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW, private_key_of
from tests.helpers.sealed import identity

ALICE = identity("rsa2048")
CONTENT = b"The content."
POLICY = CertificatePolicy()
TYPE = cms.attribute(cms.CONTENT_TYPE, cms.DATA)
DIGEST = cms.attribute(cms.MESSAGE_DIGEST, der.octet_string(cms.digest_of(CONTENT)))


def verified(data: bytes, content: bytes = CONTENT) -> list[Verified]:
    """The good signers; the first refusal is raised where there are none."""
    parsed = SignedData([data])
    if parsed.enclosed:
        content = b"".join(bytes(piece) for piece in parsed.content())
    certificates, signers = parsed.finish()
    digests = {digest: cms.digest_of(content, digest.hash) for digest in Digest}
    found: list[Verified] = []
    for signer in signers:
        if isinstance(signer, DirectError):
            raise signer
        found.append(signer.verify(digests, certificates, POLICY))
    return found


def refusal(info: bytes, certificates: Sequence[x509.Certificate | bytes] | None = None) -> str:
    data = cms.signed_data([info], [ALICE.certificate] if certificates is None else certificates)
    with pytest.raises(DirectError) as caught:
        verified(data)
    return caught.value.detail


def signed(*signers: Identity, wanted: Digest = Digest.SHA256, pss: bool = False) -> bytes:
    digests = {d: cms.digest_of(CONTENT, d.hash) for d in digests_for(signers, wanted)}
    return sign(digests, signers, wanted=wanted, pss=pss, now=NOW).encoded


def test_what_is_written_is_what_the_standard_says() -> None:
    info = asn1.ContentInfo.load(signed(ALICE), strict=True)
    data = info["content"]
    assert info["content_type"].native == "signed_data"
    assert data["version"].native == "v1"
    assert [a["algorithm"].native for a in data["digest_algorithms"]] == ["sha256"]
    assert data["encap_content_info"]["content_type"].native == "data"
    assert data["encap_content_info"]["content"].native is None
    (signer,) = data["signer_infos"]
    assert signer["version"].native == "v1"
    assert signer["sid"].name == "issuer_and_serial_number"
    assert signer["digest_algorithm"].dump() == cms.SHA256
    assert signer["signature_algorithm"]["algorithm"].native == "rsassa_pkcs1v15"
    attributes = {a["type"].native: a["values"] for a in signer["signed_attrs"]}
    assert attributes["content_type"].native == ["data"]
    assert attributes["message_digest"].native == [cms.digest_of(CONTENT)]
    assert attributes["signing_time"].native == [datetime(2026, 1, 2, 12, 0, tzinfo=UTC)]
    assert len(attributes) == 4
    assert signer["unsigned_attrs"].native is None


def test_attributes_are_written_in_order() -> None:
    info = asn1.ContentInfo.load(signed(ALICE))
    attributes = [a.dump() for a in info["content"]["signer_infos"][0]["signed_attrs"]]
    assert attributes == sorted(attributes)


def test_capabilities_name_what_we_decrypt() -> None:
    info = asn1.ContentInfo.load(signed(ALICE))
    attributes = info["content"]["signer_infos"][0]["signed_attrs"]
    (capabilities,) = (a for a in attributes if a["type"].dotted == "1.2.840.113549.1.9.15")
    assert capabilities["values"][0].dump() == der.sequence(
        *(
            der.sequence(der.oid(f"2.16.840.1.101.3.4.1.{n}"))
            for n in (42, 2, 46, 6)  # AES-256 and AES-128 in CBC, then in GCM
        )
    )


@pytest.mark.parametrize("value", [der.NULL, der.octet_string(b"\x30"), der.sequence(der.NULL)])
def test_capabilities_that_do_not_parse_are_none(value: bytes) -> None:
    capabilities = cms.attribute(der.oid("1.2.840.113549.1.9.15"), value)
    info = cms.signer_info(ALICE, CONTENT, attributes=sorted([TYPE, DIGEST, capabilities]))
    (signer,) = verified(cms.signed_data([info], [ALICE.certificate]))
    assert signer.capabilities == frozenset()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(
            der.tlv(der.UTC_TIME, b"500102120000Z"),
            datetime(1950, 1, 2, 12, 0, tzinfo=UTC),
            id="utc-last-century",
        ),
        pytest.param(
            der.tlv(der.UTC_TIME, b"491231235959Z"),
            datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
            id="utc-this-century",
        ),
        pytest.param(
            der.tlv(der.GENERALIZED_TIME, b"20500102120000Z"),
            datetime(2050, 1, 2, 12, 0, tzinfo=UTC),
            id="generalized",
        ),
        pytest.param(der.tlv(der.UTC_TIME, b"261302120000Z"), None, id="no-such-month"),
        pytest.param(der.tlv(der.UTC_TIME, b"2601021200Z"), None, id="without-seconds"),
        pytest.param(der.tlv(der.UTC_TIME, b"260102120000+0100"), None, id="with-an-offset"),
        pytest.param(der.tlv(der.GENERALIZED_TIME, b"20260102120000.5Z"), None, id="fraction"),
        pytest.param(der.tlv(der.GENERALIZED_TIME, b"00000102120000Z"), None, id="year-nought"),
        pytest.param(der.tlv(der.UTC_TIME, b"\xb2601021200000Z"), None, id="not-ascii"),
        pytest.param(der.tlv(der.UTC_TIME, b""), None, id="empty"),
    ],
)
def test_the_time_that_a_signer_states_is_read_or_passed_over(
    value: bytes, expected: datetime | None
) -> None:
    moment = cms.attribute(der.oid("1.2.840.113549.1.9.5"), value)
    info = cms.signer_info(ALICE, CONTENT, attributes=sorted([TYPE, DIGEST, moment]))
    (signer,) = verified(cms.signed_data([info], [ALICE.certificate]))
    assert signer.signing_time == expected


def test_a_signer_need_not_state_a_time() -> None:
    info = cms.signer_info(ALICE, CONTENT, attributes=sorted([TYPE, DIGEST]))
    (signer,) = verified(cms.signed_data([info], [ALICE.certificate]))
    assert signer.signing_time is None


def test_pss_is_written_with_all_its_parameters() -> None:
    info = asn1.ContentInfo.load(signed(ALICE, wanted=Digest.SHA384, pss=True))
    algorithm = info["content"]["signer_infos"][0]["signature_algorithm"]
    parameters = algorithm["parameters"].native
    assert algorithm["algorithm"].native == "rsassa_pss"
    assert parameters["hash_algorithm"]["algorithm"] == "sha384"
    assert parameters["mask_gen_algorithm"]["parameters"]["algorithm"] == "sha384"
    assert parameters["salt_length"] == 48


def test_ed25519_goes_with_sha512() -> None:
    # RFC8419 3.1
    signers = [identity("ed25519"), ALICE]
    assert list(digests_for(signers, Digest.SHA256)) == [Digest.SHA512, Digest.SHA256]
    found = verified(signed(*signers))
    assert {(v.signature, v.digest) for v in found} == {
        (Signature.ED25519, Digest.SHA512),
        (Signature.RSA, Digest.SHA256),
    }


def test_a_certificate_goes_along_once() -> None:
    info = asn1.ContentInfo.load(signed(ALICE, ALICE))
    assert len(info["content"]["certificates"]) == 1
    assert len(info["content"]["signer_infos"]) == 2


def test_a_key_that_cannot_sign() -> None:
    with pytest.raises(DirectError) as caught:
        signed(identity("x25519"))
    assert caught.value.reason is Reason.CERTIFICATE_UNFIT


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(cms.DATA, Reason.MESSAGE_MALFORMED), (cms.ENVELOPED, Reason.NOT_SECURED)],
)
def test_other_content_types(kind: bytes, reason: Reason) -> None:
    with pytest.raises(DirectError) as caught:
        SignedData([cms.content_info(kind, der.sequence())])
    assert caught.value.reason is reason


def test_signer_named_by_key_identifier() -> None:
    identifier = key_identifier(ALICE.certificate)
    assert identifier is not None
    sid = der.tlv(der.context(0, constructed=False), identifier)
    data = cms.signed_data([cms.signer_info(ALICE, CONTENT, sid=sid)], [ALICE.certificate])
    assert verified(data)[0].certificate == ALICE.certificate


def test_attributes_out_of_order_are_good_either_way() -> None:
    # RFC5652 5.4 signs them in order; some sign what they wrote.
    attributes = sorted([TYPE, DIGEST], reverse=True)
    for over in (None, der.set_of(attributes)):
        info = cms.signer_info(ALICE, CONTENT, attributes=attributes, over=over)
        assert verified(cms.signed_data([info], [ALICE.certificate]))


def test_attributes_in_ber_are_signed_in_der() -> None:
    # The digest in a constructed string of indefinite length, as a BER writer may.
    digest = cms.digest_of(CONTENT)
    string = b"\x24\x80" + der.octet_string(digest[:7]) + der.octet_string(digest[7:]) + b"\0\0"
    written = [TYPE, cms.attribute(cms.MESSAGE_DIGEST, string)]
    over = der.set_of([TYPE, DIGEST])
    info = cms.signer_info(ALICE, CONTENT, attributes=written, over=over)
    assert verified(cms.signed_data([info], [ALICE.certificate]))


def test_signature_over_other_attributes() -> None:
    other = der.set_of([TYPE])
    info = cms.signer_info(ALICE, CONTENT, attributes=[DIGEST, TYPE], over=other)
    assert refusal(info) == "the signature is not the signer's"


def test_unsigned_attributes_crls_and_other_certificates_are_passed_over() -> None:
    info = cms.signer_info(ALICE, CONTENT)
    countersigned = der.sequence(
        *(part.encoded for part in parts(info)),
        der.tlv(der.context(1), cms.attribute(cms.CONTENT_TYPE, cms.DATA)),
    )
    other = der.tlv(der.context(3), cms.DATA, der.NULL)
    broken = der.sequence(der.NULL)
    data = cms.signed_data([countersigned], [other, broken, ALICE.certificate])
    assert verified(data)
    body = parts(parts(parts(data)[1].encoded)[0].encoded)
    with_crls = der.sequence(
        *(part.encoded for part in body[:-1]), der.tlv(der.context(1)), body[-1].encoded
    )
    assert verified(cms.content_info(cms.SIGNED, with_crls))


def parts(encoded: bytes) -> list[Element]:
    return children(Reader([encoded]).element(100_000).content)


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(der.sequence(), id="empty"),
        pytest.param(
            der.sequence(der.integer(1), der.NULL, der.NULL, der.tlv(0xA0), der.NULL), id="short"
        ),
    ],
)
def test_a_signer_that_does_not_parse(info: bytes) -> None:
    assert refusal(info) == "a signer does not parse"


def test_limits_of_what_is_passed_over() -> None:
    # Each with room for what is lawful: many certificates, and CRLs.
    info = cms.signer_info(ALICE, CONTENT)
    other = der.sequence(b"\xff" * 20_000)
    assert verified(cms.signed_data([info], [*[other] * 49, ALICE.certificate]))
    large = der.sequence(*(part.encoded for part in parts(info)), der.tlv(0xA1, b"\xff" * 250_000))
    assert verified(cms.signed_data([large], [ALICE.certificate]))
    larger = der.sequence(*(part.encoded for part in parts(info)), der.tlv(0xA1, b"\xff" * 263_000))
    assert refusal(larger) == "an element is longer than 262144 octets"


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_combined_signature_algorithms(kind: str) -> None:
    # RFC5754 3.2: sha256WithRSAEncryption in place of rsaEncryption; read both.
    signer = identity(kind)
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
    info = cms.signer_info(signer, CONTENT, algorithm=algorithm if kind == "rsa2048" else None)
    assert verified(cms.signed_data([info], [signer.certificate]))


PSS = der.oid("1.2.840.113549.1.1.10")
MGF1 = der.oid("1.2.840.113549.1.1.8")
SHA1 = der.sequence(der.oid("1.3.14.3.2.26"), der.NULL)


def pss_info(parameters: bytes, salt: int, mask: hashes.HashAlgorithm) -> bytes:
    """A SignerInfo signed with PSS over SHA-256."""
    key = private_key_of(ALICE)
    assert isinstance(key, rsa.RSAPrivateKey)
    attributes = der.set_of([TYPE, DIGEST])
    signature = key.sign(attributes, padding.PSS(padding.MGF1(mask), salt), hashes.SHA256())
    return der.sequence(
        der.integer(1),
        issuer_and_serial(ALICE.certificate),
        cms.SHA256,
        der.set_of([TYPE, DIGEST], der.context(0)),
        der.sequence(PSS, parameters),
        der.octet_string(signature),
    )


def pss_parameters(mask: bytes = cms.SHA256, salt: int | None = 32, more: bytes = b"") -> bytes:
    return der.sequence(
        der.tlv(der.context(0), cms.SHA256),
        der.tlv(der.context(1), der.sequence(MGF1, mask)),
        b"" if salt is None else der.tlv(der.context(2), der.integer(salt)),
        more,
    )


@pytest.mark.parametrize("salt", [0, 20, 32, 100, 222])
def test_pss_with_any_salt(salt: int) -> None:
    info = pss_info(pss_parameters(salt=salt), salt, hashes.SHA256())
    assert verified(cms.signed_data([info], [ALICE.certificate]))[0].signature is Signature.RSA_PSS


def test_pss_with_another_mask_digest_the_default_salt_and_the_trailer() -> None:
    trailer = der.tlv(der.context(3), der.integer(1))
    parameters = pss_parameters(mask=SHA1, salt=None, more=trailer)
    info = pss_info(parameters, 20, hashes.SHA1())
    assert verified(cms.signed_data([info], [ALICE.certificate]))


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        pytest.param(b"", "the parameters of a PSS signature are missing", id="absent"),
        pytest.param(der.NULL, "the parameters of a PSS signature are missing", id="null"),
        pytest.param(
            pss_parameters(more=der.tlv(der.context(3), der.integer(2))),
            "the parameters of a PSS signature are not ones we know",
            id="trailer-2",
        ),
        pytest.param(
            pss_parameters(more=der.tlv(der.context(4))),
            "the parameters of a PSS signature are not ones we know",
            id="another-field",
        ),
        pytest.param(
            pss_parameters(salt=5000),
            "the salt of a PSS signature is longer than any modulus",
            id="salt",
        ),
        pytest.param(
            der.sequence(),
            "the signature hashes with another algorithm than digestAlgorithm names",
            id="default-sha1",
        ),
        pytest.param(pss_parameters(salt=31), "the signature is not the signer's", id="wrong-salt"),
    ],
)
def test_pss_parameters(parameters: bytes, detail: str) -> None:
    assert refusal(pss_info(parameters, 32, hashes.SHA256())) == detail


ESS = der.oid("1.2.840.113549.1.9.16.2.12")
ESS_V2 = der.oid("1.2.840.113549.1.9.16.2.47")


def ess(oid: bytes, *identifier: bytes) -> bytes:
    value = der.sequence(der.sequence(der.sequence(*identifier)))
    return cms.signer_info(
        ALICE, CONTENT, attributes=sorted([TYPE, DIGEST, cms.attribute(oid, value)])
    )


def fingerprint(algorithm: hashes.HashAlgorithm, signer: Identity = ALICE) -> bytes:
    encoded = signer.certificate.public_bytes(Encoding.DER)
    return der.octet_string(cms.digest_of(encoded, algorithm))


SHA512 = der.sequence(der.oid("2.16.840.1.101.3.4.2.3"))


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(ess(ESS, fingerprint(hashes.SHA1())), id="v1"),
        pytest.param(ess(ESS_V2, fingerprint(hashes.SHA256())), id="v2"),
        pytest.param(ess(ESS_V2, SHA512, fingerprint(hashes.SHA512())), id="v2-sha512"),
    ],
)
def test_the_signing_certificate_that_is_meant(info: bytes) -> None:
    # R-024, RFC5035
    assert verified(cms.signed_data([info], [ALICE.certificate]))


MALLORY = identity("rsa2048", "mallory")


@pytest.mark.parametrize("oid", [ESS, ESS_V2], ids=["v1", "v2"])
def test_the_first_of_several_signing_certificates_is_the_signer(oid: bytes) -> None:
    # RFC5035 3 and 4: the others are of its path; policies may follow.
    algorithm = hashes.SHA1() if oid == ESS else hashes.SHA256()
    own, other = (
        der.sequence(fingerprint(algorithm, who), issuer_and_serial(who.certificate))
        for who in (ALICE, MALLORY)
    )
    for certificates, good in ((own + other, True), (other + own, False)):
        value = der.sequence(der.sequence(certificates), der.sequence(der.sequence(der.NULL)))
        attributes = sorted([TYPE, DIGEST, cms.attribute(oid, value)])
        info = cms.signer_info(ALICE, CONTENT, attributes=attributes)
        if good:
            assert verified(cms.signed_data([info], [ALICE.certificate]))
        else:
            assert refusal(info) == "the signer meant another certificate"


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(ess(ESS, fingerprint(hashes.SHA1(), MALLORY)), id="v1"),
        pytest.param(ess(ESS_V2, fingerprint(hashes.SHA256(), MALLORY)), id="v2"),
        pytest.param(ess(ESS_V2, SHA512, fingerprint(hashes.SHA512(), MALLORY)), id="v2-sha512"),
    ],
)
def test_another_signing_certificate_is_meant(info: bytes) -> None:
    assert refusal(info) == "the signer meant another certificate"


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(ess(ESS_V2), id="empty"),
        pytest.param(ess(ESS_V2, SHA512), id="no-digest"),
        pytest.param(
            cms.signer_info(
                ALICE,
                CONTENT,
                attributes=sorted([TYPE, DIGEST, cms.attribute(ESS_V2, der.sequence())]),
            ),
            id="no-list",
        ),
    ],
)
def test_a_signing_certificate_attribute_that_does_not_parse(info: bytes) -> None:
    assert refusal(info) == "the signing certificate attribute does not parse"


def test_an_enclosed_content_is_read_in_pieces() -> None:
    data = cms.signed_data([cms.signer_info(ALICE, CONTENT)], [ALICE.certificate], content=CONTENT)
    assert verified(data, b"not this")
    parsed = SignedData([data[:40], data[40:]])
    assert parsed.enclosed
    assert parsed.digests == {Digest.SHA256}
    assert b"".join(bytes(piece) for piece in parsed.content()) == CONTENT
    _certificates, signers = parsed.finish()
    assert all(isinstance(signer, Signer) for signer in signers)
