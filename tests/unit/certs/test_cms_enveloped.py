"""Envelopes: what is written, and the odd but lawful forms that are read."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.cms import der
from certs.cms.algorithms import ContentEncryption, KeyTransport
from certs.cms.ber import Reader, children
from certs.cms.enveloped import Envelope, decrypt
from certs.cms.names import issuer_and_serial, key_identifier
from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.policy import CertificatePolicy
from tests.helpers import cms_builder as cms
from tests.helpers.sealed import identity

BOB = identity("rsa2048", "bob")
POLICY = CertificatePolicy()
KEY = os.urandom(32)
CONTENT = b"The content."
AUTH_ENVELOPED = der.oid("1.2.840.113549.1.9.16.1.23")
AES256_GCM = der.oid("2.16.840.1.101.3.4.1.46")
NONCE = bytes(range(12))


def opened(
    data: bytes | Iterable[bytes], ours: Identity = BOB, policy: CertificatePolicy = POLICY
) -> bytes:
    pieces = [data] if isinstance(data, bytes) else data
    return b"".join(bytes(piece) for piece in decrypt(pieces, [ours], policy).content)


def refusal(data: bytes, ours: Identity = BOB) -> tuple[Reason, str]:
    with pytest.raises(DirectError) as caught:
        opened(data, ours)
    return caught.value.reason, caught.value.detail


def envelope(*kinds: str, cipher: ContentEncryption = ContentEncryption.AES256_CBC) -> Envelope:
    return Envelope(
        len(CONTENT),
        recipients=[identity(kind, "bob").certificate for kind in kinds],
        cipher=cipher,
        transport=KeyTransport.RSA_OAEP_SHA256,
    )


def written(made: Envelope) -> bytes:
    return b"".join(bytes(piece) for piece in made.encrypt([CONTENT[:5], CONTENT[5:]]))


def fields(data: bytes) -> tuple[int, list[tuple[int, int]]]:
    """The version of an envelope, and tag and version of its RecipientInfos as written."""
    info = children(Reader([data]).element(100_000).content)[1]
    body = children(children(info.content)[0].content)
    infos = [(part.tag, children(part.content)[0].content[0]) for part in children(body[1].content)]
    return body[0].content[0], infos


@pytest.mark.parametrize(
    ("kinds", "cipher", "version", "infos"),
    [
        (["rsa2048"], ContentEncryption.AES256_CBC, 0, [(0x30, 0)]),
        (["p256"], ContentEncryption.AES256_CBC, 2, [(0xA1, 3)]),
        (["x25519", "rsa2048"], ContentEncryption.AES256_CBC, 2, [(0x30, 0), (0xA1, 3)]),
        (["p256"], ContentEncryption.AES256_GCM, 0, [(0xA1, 3)]),
    ],
)
def test_version_and_order_of_recipients(
    kinds: list[str], cipher: ContentEncryption, version: int, infos: list[tuple[int, int]]
) -> None:
    # RFC5652 6.1 and 6.2, RFC5083 2.1; X690 11.6 for the order.
    data = written(envelope(*kinds, cipher=cipher))
    assert fields(data) == (version, infos)


@pytest.mark.parametrize("cipher", [c for c in ContentEncryption if c.value.startswith("aes")])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_000])
def test_length_is_known_beforehand(cipher: ContentEncryption, size: int) -> None:
    made = Envelope(
        size,
        recipients=[BOB.certificate],
        cipher=cipher,
        transport=KeyTransport.RSA_OAEP_SHA256,
    )
    data = b"".join(bytes(piece) for piece in made.encrypt([bytes(size)]))
    assert len(data) == made.octets
    assert opened(data) == bytes(size)


def test_every_message_has_its_own_key_and_vector() -> None:
    first, second = written(envelope("rsa2048")), written(envelope("rsa2048"))
    assert first[-32:] != second[-32:]


def test_a_certificate_that_can_receive_nothing() -> None:
    with pytest.raises(DirectError) as caught:
        envelope("ed25519")
    assert caught.value.reason is Reason.CERTIFICATE_UNFIT


def auth_enveloped(
    *, tag: bytes | None = None, parameters: bytes | None = None, attributes: bytes = b"",
    after: bytes = b"", aad: bytes | None = None,
) -> bytes:  # fmt: skip
    sealed = AESGCM(KEY).encrypt(NONCE, CONTENT, aad)
    default = der.sequence(der.octet_string(NONCE), der.integer(16))
    body = der.sequence(
        der.integer(0),
        der.tlv(der.SET, cms.key_transport(KEY, BOB)),
        der.sequence(
            cms.DATA,
            der.sequence(AES256_GCM, default if parameters is None else parameters),
            der.tlv(der.context(0, constructed=False), sealed[:-16]),
        ),
        attributes,
        der.octet_string(sealed[-16:] if tag is None else tag),
        after,
    )
    return cms.content_info(AUTH_ENVELOPED, body)


def test_gcm() -> None:
    assert opened(auth_enveloped()) == CONTENT
    unauthenticated = der.tlv(der.context(2), cms.attribute(cms.CONTENT_TYPE, cms.DATA))
    assert opened(auth_enveloped(after=unauthenticated)) == CONTENT


@pytest.mark.parametrize("cipher", ["cbc", "gcm"])
def test_pieces_that_grow_bit_by_bit(cipher: str) -> None:
    kind = ContentEncryption.AES256_CBC if cipher == "cbc" else ContentEncryption.AES256_GCM
    content = os.urandom(20_000)
    made = Envelope(
        len(content),
        recipients=[BOB.certificate],
        cipher=kind,
        transport=KeyTransport.RSA_OAEP_SHA256,
    )
    data = b"".join(bytes(piece) for piece in made.encrypt([content]))
    for step in (1, 5, 13, 16, 17, 31):
        at, pieces = 0, []
        while at < len(data):
            size = 600 + step * len(pieces)
            pieces.append(data[at : at + size])
            at += size
        assert opened(pieces) == content


def test_more_than_an_authenticated_envelope_has() -> None:
    expected = (Reason.MESSAGE_MALFORMED, "a container has more elements than its type")
    assert refusal(auth_enveloped(after=der.NULL)) == expected
    assert refusal(auth_enveloped() + b"x") == (
        Reason.MESSAGE_MALFORMED,
        "there is more after the end of the CMS object",
    )


def test_gcm_with_a_short_tag() -> None:
    # RFC5084 3.2: absent means 12 octets.
    tag = AESGCM(KEY).encrypt(NONCE, CONTENT, None)[-16:-4]
    short = der.sequence(der.octet_string(NONCE))
    assert opened(auth_enveloped(tag=tag, parameters=short)) == CONTENT


@pytest.mark.parametrize(
    ("tag", "length"), [(bytes(16), 16), (bytes(12), 16), (bytes(4), 16), (b"", 16)]
)
def test_gcm_with_a_wrong_tag(tag: bytes, length: int) -> None:
    parameters = der.sequence(der.octet_string(NONCE), der.integer(length))
    assert refusal(auth_enveloped(tag=tag, parameters=parameters)) == (
        Reason.DECRYPTION_FAILED,
        "the content does not decrypt",
    )


@pytest.mark.parametrize(
    ("parameters", "reason", "detail"),
    [
        pytest.param(
            der.sequence(der.octet_string(NONCE), der.integer(4)),
            Reason.ALGORITHM_REFUSED,
            "the parameters of AES-GCM are not ones we accept",
            id="tag-of-4",
        ),
        pytest.param(
            der.sequence(der.octet_string(bytes(300))),
            Reason.ALGORITHM_REFUSED,
            "the parameters of AES-GCM are not ones we accept",
            id="oversized-nonce",
        ),
        pytest.param(
            der.sequence(),
            Reason.ALGORITHM_REFUSED,
            "the parameters of AES-GCM are not ones we accept",
            id="no-nonce",
        ),
        pytest.param(
            b"", Reason.MESSAGE_MALFORMED, "the parameters of AES-GCM are missing", id="absent"
        ),
        pytest.param(
            der.octet_string(NONCE),
            Reason.MESSAGE_MALFORMED,
            "the parameters of AES-GCM are missing",
            id="of-cbc",
        ),
    ],
)
def test_gcm_parameters(parameters: bytes, reason: Reason, detail: str) -> None:
    assert refusal(auth_enveloped(parameters=parameters)) == (reason, detail)


def test_gcm_with_authenticated_attributes() -> None:
    attributes = der.tlv(der.context(1), cms.attribute(cms.CONTENT_TYPE, cms.DATA))
    assert refusal(auth_enveloped(attributes=attributes)) == (
        Reason.ALGORITHM_REFUSED,
        "the envelope has authenticated attributes",
    )


def cbc(
    *infos: bytes, originator: bytes = b"", attributes: bytes = b"", content: bytes | None = None
) -> bytes:
    iv = os.urandom(16)
    encryptor = Cipher(AES(KEY), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(CONTENT + b"\x04" * 4) + encryptor.finalize()
    body = der.sequence(
        der.integer(2),
        originator,
        der.tlv(der.SET, *(infos or [cms.key_transport(KEY, BOB)])),
        der.sequence(
            cms.DATA,
            der.sequence(cms.AES256_CBC, der.octet_string(iv)),
            der.tlv(der.context(0, constructed=False), ciphertext) if content is None else content,
        ),
        attributes,
    )
    return cms.content_info(cms.ENVELOPED, body)


def test_fields_that_are_of_no_use_are_passed_over() -> None:
    certificates = der.tlv(der.context(0), der.sequence(bytes(1_000_000)))
    originator = der.tlv(der.context(0), certificates)
    value = der.octet_string(bytes(60_000))
    attributes = der.tlv(der.context(1), cms.attribute(cms.CONTENT_TYPE, value))
    assert opened(cbc(originator=originator, attributes=attributes)) == CONTENT


def test_limits_of_what_is_passed_over() -> None:
    originator = der.tlv(der.context(0), der.tlv(der.context(0), bytes(1_050_000)))
    assert refusal(cbc(originator=originator))[1] == "an element is longer than 1048576 octets"
    attributes = der.tlv(der.context(1), der.octet_string(bytes(66_000)))
    assert refusal(cbc(attributes=attributes))[1] == "an element is longer than 65536 octets"
    recipients = [der.tlv(der.context(2), b"\xff" * 1_400_000)] * 3
    assert refusal(cbc(*recipients))[1] == "an element is longer than 4194304 octets"
    recipients = [der.tlv(der.context(2), b"\xff" * 1_000_000)] * 4
    assert opened(cbc(*recipients, cms.key_transport(KEY, BOB))) == CONTENT


def test_recipients_of_other_kinds_are_passed_over() -> None:
    kek = der.tlv(der.context(2), der.integer(4))
    password = der.tlv(der.context(3), der.integer(0))
    assert opened(cbc(kek, password, cms.key_transport(KEY, BOB))) == CONTENT


def test_a_thousand_recipients() -> None:
    mallory = identity("rsa2048", "mallory")
    others = [cms.key_transport(KEY, mallory, encrypted=bytes(256)) for _other in range(999)]
    assert opened(cbc(*others, cms.key_transport(KEY, BOB))) == CONTENT


@pytest.mark.parametrize("extra", [der.NULL, der.tlv(der.context(2))], ids=["null", "[2]"])
def test_more_than_an_envelope_has(extra: bytes) -> None:
    expected = (Reason.MESSAGE_MALFORMED, "a container has more elements than its type")
    assert refusal(cbc(attributes=extra)) == expected
    content = der.tlv(der.context(0, constructed=False), bytes(16)) + extra
    assert refusal(cbc(content=content))[0] is Reason.DECRYPTION_FAILED
    info = children(Reader([cbc()]).element(100_000).content)
    assert refusal(der.sequence(info[0].encoded, info[1].encoded, extra)) == expected
    inner = children(info[1].content)[0].encoded
    assert refusal(der.sequence(info[0].encoded, der.tlv(0xA0, inner, extra))) == expected


def test_an_algorithm_of_three_fields() -> None:
    rsa = der.oid("1.2.840.113549.1.1.1")
    info = cms.key_transport(KEY, BOB, algorithm=der.sequence(rsa, der.NULL, der.NULL))
    assert refusal(cbc(info)) == (
        Reason.MESSAGE_MALFORMED,
        "more than 2 elements in one place",
    )


def test_no_content() -> None:
    assert refusal(cbc(content=b"")) == (Reason.MESSAGE_MALFORMED, "the envelope has no content")


def test_ciphertext_that_is_no_whole_blocks() -> None:
    odd = der.tlv(der.context(0, constructed=False), bytes(17))
    assert refusal(cbc(content=odd)) == (Reason.DECRYPTION_FAILED, "the content does not decrypt")
    nothing = der.tlv(der.context(0, constructed=False))
    assert refusal(cbc(content=nothing))[1] == "the content does not decrypt"


@pytest.mark.parametrize(
    ("info", "detail"),
    [
        pytest.param(
            der.sequence(der.integer(0)),
            "a key-transport recipient does not parse",
            id="transport",
        ),
        pytest.param(
            der.tlv(der.context(1), der.integer(3)),
            "a key-agreement recipient does not parse",
            id="agreement",
        ),
        pytest.param(
            der.tlv(
                der.context(1), der.integer(3), der.NULL, der.NULL, der.sequence(der.sequence())
            ),
            "a key-agreement recipient does not parse",
            id="agreement-entry",
        ),
        pytest.param(
            der.tlv(
                der.context(1),
                der.integer(3),
                der.NULL,
                der.NULL,
                der.sequence(der.sequence(der.tlv(der.context(0)), der.NULL)),
            ),
            "a recipient key identifier is empty",
            id="agreement-identifier",
        ),
    ],
)
def test_recipients_that_do_not_parse(info: bytes, detail: str) -> None:
    assert refusal(cbc(info)) == (Reason.MESSAGE_MALFORMED, detail)


def test_recipients_that_are_no_set() -> None:
    body = der.sequence(
        der.integer(0), der.sequence(), der.sequence(
            cms.DATA, der.sequence(cms.AES256_CBC, der.octet_string(bytes(16))),
            der.tlv(0x80, bytes(16)),
        ),
    )  # fmt: skip
    assert refusal(cms.content_info(cms.ENVELOPED, body)) == (
        Reason.MESSAGE_MALFORMED,
        "the recipients are not a set",
    )


def test_recipient_named_by_key_identifier() -> None:
    identifier = key_identifier(BOB.certificate)
    assert identifier is not None
    rid = der.tlv(der.context(0, constructed=False), identifier)
    assert opened(cbc(cms.key_transport(KEY, BOB, rid=rid))) == CONTENT


def test_triple_des_by_policy() -> None:
    key, iv = os.urandom(24), os.urandom(8)
    encryptor = Cipher(TripleDES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(CONTENT + b"\x04" * 4) + encryptor.finalize()
    body = der.sequence(
        der.integer(0),
        der.tlv(der.SET, cms.key_transport(key, BOB)),
        der.sequence(
            cms.DATA,
            der.sequence(der.oid("1.2.840.113549.3.7"), der.octet_string(iv)),
            der.tlv(der.context(0, constructed=False), ciphertext),
        ),
    )
    data = cms.content_info(cms.ENVELOPED, body)
    assert opened(data, policy=CertificatePolicy(allow_3des=True)) == CONTENT


EC_BOB = identity("p256", "bob")
X_BOB = identity("x25519", "bob")
SHA256 = hashes.SHA256()
WRAP256 = der.sequence(der.oid("2.16.840.1.101.3.4.1.45"))
X963_SHA256 = der.oid("1.3.132.1.11.1")
HKDF_SHA256 = der.oid("1.2.840.113549.1.9.16.3.19")


def agreed(
    ours: Identity,
    *,
    scheme: bytes = X963_SHA256,
    wrap: bytes = WRAP256,
    material: bytes | None = None,
    rid: bytes | None = None,
    originator: bytes | None = None,
) -> bytes:
    """A KeyAgreeRecipientInfo, worked out beside the code under test."""
    public = ours.certificate.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        ephemeral = ec.generate_private_key(public.curve)
        secret = ephemeral.exchange(ec.ECDH(), public)
        point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        algorithm = der.sequence(der.oid("1.2.840.10045.2.1"))
    else:
        assert isinstance(public, x25519.X25519PublicKey)
        mine = x25519.X25519PrivateKey.generate()
        secret, point = mine.exchange(public), mine.public_key().public_bytes_raw()
        algorithm = der.sequence(der.oid("1.3.101.110"))
    entity = b"" if material is None else der.tlv(der.context(0), der.octet_string(material))
    length = der.tlv(der.context(2), der.octet_string(b"\x00\x00\x01\x00"))
    info = der.sequence(wrap, entity, length)
    if scheme == HKDF_SHA256:
        wrapping = HKDF(SHA256, 32, None, info).derive(secret)
    else:
        wrapping = X963KDF(SHA256, 32, info).derive(secret)
    key = der.tlv(der.context(1), algorithm, der.tlv(der.BIT_STRING, b"\x00", point))
    name = issuer_and_serial(ours.certificate) if rid is None else rid
    encrypted = der.octet_string(keywrap.aes_key_wrap(wrapping, KEY))
    return der.tlv(
        der.context(1),
        der.integer(3),
        der.tlv(der.context(0), key) if originator is None else originator,
        b"" if material is None else der.tlv(der.context(1), der.octet_string(material)),
        der.sequence(scheme, wrap),
        der.sequence(der.sequence(name, encrypted)),
    )


@pytest.mark.parametrize("ours", [EC_BOB, X_BOB], ids=["p256", "x25519"])
@pytest.mark.parametrize("scheme", [X963_SHA256, HKDF_SHA256], ids=["x963", "hkdf"])
@pytest.mark.parametrize(
    "material",
    [None, b"", b"sixteen octets..", bytes(1024)],
    ids=["none", "empty", "16", "1024"],
)
def test_key_agreement(ours: Identity, scheme: bytes, material: bytes | None) -> None:
    assert opened(cbc(agreed(ours, scheme=scheme, material=material)), ours) == CONTENT


def test_key_agreement_named_to_a_key_that_cannot() -> None:
    # One answer, as for every key that does not unwrap.
    info = agreed(EC_BOB, rid=issuer_and_serial(BOB.certificate))
    assert refusal(cbc(info)) == (Reason.DECRYPTION_FAILED, "the content does not decrypt")


def test_a_content_in_many_segments() -> None:
    data = cbc()
    ciphertext = data[-16:]
    segments = b"".join(der.octet_string(ciphertext[n : n + 3]) for n in range(0, 16, 3))
    inner = children(children(Reader([data]).element(100_000).content)[1].content)[0]
    fields_ = children(inner.content)
    content = children(fields_[2].content)
    rewritten = der.sequence(content[0].encoded, content[1].encoded, der.tlv(0xA0, segments))
    body = der.sequence(fields_[0].encoded, fields_[1].encoded, rewritten)
    assert opened(cms.content_info(cms.ENVELOPED, body)) == CONTENT


def test_key_wrap_with_null_parameters_is_part_of_the_derivation() -> None:
    # RFC5753 7.2: keyInfo is what the message has.
    wrap = der.sequence(der.oid("2.16.840.1.101.3.4.1.45"), der.NULL)
    assert opened(cbc(agreed(EC_BOB, wrap=wrap)), EC_BOB) == CONTENT


def test_key_agreement_named_by_key_identifier() -> None:
    identifier = key_identifier(EC_BOB.certificate)
    assert identifier is not None
    rid = der.tlv(der.context(0), der.octet_string(identifier))
    assert opened(cbc(agreed(EC_BOB, rid=rid)), EC_BOB) == CONTENT


@pytest.mark.parametrize(
    ("info", "reason", "detail"),
    [
        pytest.param(
            agreed(EC_BOB, scheme=der.oid("1.2.3")),
            Reason.ALGORITHM_REFUSED,
            "the key-agreement algorithm is not one of ours",
            id="scheme",
        ),
        pytest.param(
            agreed(EC_BOB, wrap=der.sequence(der.oid("1.2.840.113549.1.9.16.3.6"))),
            Reason.ALGORITHM_REFUSED,
            "the key-wrap algorithm is not one of ours",
            id="triple-des-wrap",
        ),
        pytest.param(
            agreed(EC_BOB, wrap=b""),
            Reason.ALGORITHM_REFUSED,
            "the key-wrap algorithm is not one of ours",
            id="no-wrap",
        ),
        pytest.param(
            agreed(EC_BOB, originator=der.tlv(der.context(0), der.sequence())),
            Reason.ALGORITHM_REFUSED,
            "the sender's key of a key agreement is not an ephemeral one",
            id="static-sender",
        ),
        pytest.param(
            agreed(EC_BOB, originator=der.tlv(der.context(0), der.tlv(der.context(1)))),
            Reason.MESSAGE_MALFORMED,
            "the sender's key of a key agreement does not parse",
            id="no-key",
        ),
        pytest.param(
            agreed(EC_BOB, material=bytes(1025)),
            Reason.MESSAGE_MALFORMED,
            "the key material of a recipient does not parse",
            id="much-material",
        ),
    ],
)
def test_key_agreements_that_are_not_ours(info: bytes, reason: Reason, detail: str) -> None:
    assert refusal(cbc(info), EC_BOB) == (reason, detail)


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (cms.SIGNED, "the message is signed but not encrypted"),
        (der.oid("1.2.840.113549.1.9.16.1.9"), "the message is compressed, not encrypted"),
        (cms.DATA, "the CMS object is not an encrypted one"),
    ],
)
def test_other_content_types(kind: bytes, detail: str) -> None:
    assert refusal(cms.content_info(kind, der.sequence())) == (Reason.NOT_SECURED, detail)
