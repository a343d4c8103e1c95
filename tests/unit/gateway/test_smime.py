"""What `seal` makes `unseal` opens; what was touched in between it does not."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from email import message_from_bytes
from email.message import Message

import pytest

from certs.cms.algorithms import ContentEncryption, Digest, KeyTransport
from certs.cms.enveloped import decrypt
from certs.errors import DirectError, Reason
from certs.policy import CertificatePolicy
from gateway import smime
from gateway.seal_options import SealOptions
from gateway.unsealed import Algorithms
from tests.helpers.pki import NOW
from tests.helpers.sealed import BOUNDARY, MESSAGE, OUTER, identity, seal, unseal

SIGNERS = ["rsa2048", "rsa3072", "rsa4096", "p256", "p384", "ed25519"]
RECIPIENTS = ["rsa2048", "rsa3072", "p256", "p384", "x25519"]


def envelope_of(sealed: bytes) -> bytes:
    return base64.b64decode(sealed.partition(b"\r\n\r\n")[2])


def with_envelope(sealed: bytes, cms: bytes) -> bytes:
    head = sealed.partition(b"\r\n\r\n")[0]
    return head + b"\r\n\r\n" + base64.encodebytes(cms).replace(b"\n", b"\r\n")


def refusal(message: bytes) -> DirectError:
    with pytest.raises(DirectError) as caught:
        unseal(message)
    return caught.value


@pytest.mark.parametrize("kind", SIGNERS)
def test_every_kind_of_signer_is_read_back(kind: str) -> None:
    opened = unseal(seal(signers=[identity(kind)]))
    assert opened.content == MESSAGE
    assert [s.certificate for s in opened.unsealed.signers] == [identity(kind).certificate]


@pytest.mark.parametrize("kind", RECIPIENTS)
@pytest.mark.parametrize(
    "cipher", [c for c in ContentEncryption if c is not ContentEncryption.DES_EDE3_CBC]
)
def test_every_kind_of_recipient_is_read_back(kind: str, cipher: ContentEncryption) -> None:
    ours = identity(kind, "bob")
    sealed = seal(recipients=[ours.certificate], options=SealOptions(content_encryption=cipher))
    opened = unseal(sealed, [ours])
    assert opened.content == MESSAGE
    assert opened.unsealed.recipient == ours.certificate
    assert opened.unsealed.algorithms.content_encryption == cipher.value


@pytest.mark.parametrize("transport", list(KeyTransport))
def test_every_key_transport_is_read_back(transport: KeyTransport) -> None:
    ours = identity("rsa2048", "bob")
    sealed = seal(recipients=[ours.certificate], options=SealOptions(key_transport=transport))
    assert unseal(sealed, [ours]).unsealed.algorithms.key_transport == transport.value


@pytest.mark.parametrize("digest", [Digest.SHA256, Digest.SHA384, Digest.SHA512])
@pytest.mark.parametrize("pss", [False, True], ids=["v1.5", "pss"])
def test_every_digest_is_read_back(digest: Digest, pss: bool) -> None:
    sealed = seal(signers=[identity("rsa2048")], options=SealOptions(digest=digest, pss=pss))
    algorithms = unseal(sealed).unsealed.algorithms
    assert algorithms.digest == digest.value
    assert algorithms.signature == ("rsa-pss" if pss else "rsa")


def test_algorithms_have_their_names() -> None:
    out = io.BytesIO()
    made = smime.seal(
        io.BytesIO(MESSAGE),
        out,
        outer=OUTER,
        signers=[identity("rsa2048")],
        recipients=[identity("rsa2048", "bob").certificate],
        boundary=BOUNDARY,
        now=NOW,
    )
    opened = unseal(out.getvalue(), [identity("rsa2048", "bob")])
    assert made == opened.unsealed.algorithms
    assert made == Algorithms("sha256", "rsa", "aes256-cbc", "rsa-oaep-sha256")


def test_several_algorithms_are_all_named() -> None:
    made = smime.seal(
        io.BytesIO(MESSAGE),
        io.BytesIO(),
        outer=OUTER,
        signers=[identity("rsa2048"), identity("ed25519"), identity("rsa3072")],
        recipients=[identity(kind, "bob").certificate for kind in ("rsa2048", "p384", "x25519")],
        boundary=BOUNDARY,
        now=NOW,
    )
    transports = "ecdh-p384+rsa-oaep-sha256+x25519"
    assert made == Algorithms("sha256+sha512", "rsa+ed25519", "aes256-cbc", transports)
    assert unseal(seal()).unsealed.algorithms.signature == "ecdsa"


def test_mixed_recipients_each_open_the_same_envelope() -> None:
    ours = [identity(kind, "bob") for kind in RECIPIENTS]
    sealed = seal(recipients=[i.certificate for i in ours])
    for one in ours:
        assert unseal(sealed, [one]).content == MESSAGE


def test_signers_of_a_rollover_all_verify() -> None:
    signers = [identity("rsa2048"), identity("ed25519"), identity("p256")]
    opened = unseal(seal(signers=signers))
    assert {s.certificate for s in opened.unsealed.signers} == {s.certificate for s in signers}
    assert opened.unsealed.tolerated == ()
    first = opened.unsealed.signers[0]
    assert opened.unsealed.algorithms.signature == first.signature
    assert opened.unsealed.algorithms.digest == first.digest


def test_intermediates_travel_and_the_anchor_does_not() -> None:
    signer = identity("p256")
    chain = (identity("p384").certificate,)
    opened = unseal(seal(signers=[replace(signer, chain=chain)]))
    assert set(opened.unsealed.certificates) == {signer.certificate, *chain}


def test_outside_is_what_the_standard_says() -> None:
    sealed = seal()
    head = sealed.partition(b"\r\n\r\n")[0] + b"\r\n"
    assert head == OUTER + (
        b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data;\r\n"
        b" name=smime.p7m\r\n"
        b"Content-Transfer-Encoding: base64\r\n"
        b"Content-Disposition: attachment; filename=smime.p7m\r\n"
    )
    lines = sealed.partition(b"\r\n\r\n")[2].split(b"\r\n")
    assert {len(line) for line in lines[:-2]} == {76}
    assert lines[-1] == b""


def test_gcm_says_so_outside() -> None:
    sealed = seal(options=SealOptions(content_encryption=ContentEncryption.AES256_GCM))
    assert b"smime-type=authEnveloped-data" in sealed.partition(b"\r\n\r\n")[0]


def test_inside_is_what_the_standard_says() -> None:
    entity = decrypted(seal(recipients=[identity("rsa2048", "bob").certificate]))
    parsed: Message = message_from_bytes(entity)
    assert parsed.get_content_type() == "multipart/signed"
    assert parsed.get_param("micalg") == "sha-256"
    assert parsed.get_param("protocol") == "application/pkcs7-signature"
    parts = parsed.get_payload()
    assert isinstance(parts, list)
    content, signature = parts
    assert isinstance(content, Message)
    assert isinstance(signature, Message)
    assert content.get_content_type() == "message/rfc822"
    assert signature.as_bytes().startswith(
        b"Content-Type: application/pkcs7-signature; name=smime.p7s\n"
        b"Content-Transfer-Encoding: base64\n"
        b"Content-Disposition: attachment; filename=smime.p7s\n\n"
    )
    line = b"--" + BOUNDARY.encode() + b"\r\n"
    assert line + b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE + b"\r\n" + line in entity


@pytest.mark.parametrize(
    ("kinds", "micalg"),
    [
        (("p256",), b"sha-256"),
        (("ed25519",), b"sha-512"),
        (("p256", "ed25519"), b'"sha-256,sha-512"'),
    ],
)
def test_micalg_is_in_the_standards_spelling(kinds: tuple[str, ...], micalg: bytes) -> None:
    # AS-046, K-09; RFC8551 3.5.3.2
    bob = identity("rsa2048", "bob").certificate
    entity = decrypted(seal(signers=[identity(kind) for kind in kinds], recipients=[bob]))
    assert entity.startswith(
        b'Content-Type: multipart/signed; protocol="application/pkcs7-signature";\r\n'
        b" micalg=" + micalg + b'; boundary="' + BOUNDARY.encode() + b'"\r\n\r\n'
    )


def decrypted(sealed: bytes) -> bytes:
    opened = decrypt([envelope_of(sealed)], [identity("rsa2048", "bob")], CertificatePolicy())
    return b"".join(bytes(piece) for piece in opened.content)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


@pytest.mark.parametrize(
    "cipher", [ContentEncryption.AES256_CBC, ContentEncryption.AES256_GCM], ids=["cbc", "gcm"]
)
def test_no_flipped_bit_changes_what_is_delivered(cipher: ContentEncryption) -> None:
    sealed = seal(options=SealOptions(content_encryption=cipher))
    cms = envelope_of(sealed)
    refused = 0
    for at in range(len(cms) - 2700, len(cms), 53):
        try:
            opened = unseal(with_envelope(sealed, flipped(cms, at)))
        except DirectError:
            refused += 1
        else:
            # CBC lets a letter of the outermost header change case, which nobody sees.
            assert opened.content == MESSAGE
    assert refused > 40


def test_a_flipped_bit_under_gcm_fails_only_as_decryption() -> None:
    sealed = seal(options=SealOptions(content_encryption=ContentEncryption.AES256_GCM))
    cms = envelope_of(sealed)
    for at in range(len(cms) - 1500, len(cms) - 20, 97):
        assert refusal(with_envelope(sealed, flipped(cms, at))).reason is Reason.DECRYPTION_FAILED


def test_cut_short_anywhere_it_does_not_open() -> None:
    sealed = seal()
    for end in range(0, len(sealed) - 2, 61):
        assert refusal(sealed[:end]).reason in (
            Reason.NOT_SECURED,
            Reason.MESSAGE_MALFORMED,
            Reason.DECRYPTION_FAILED,
        )


def test_somebody_elses_message_does_not_open() -> None:
    with pytest.raises(DirectError) as caught:
        unseal(seal(), [identity("p256", "carol")])
    assert caught.value.reason is Reason.DECRYPTION_FAILED


@pytest.mark.parametrize(
    "entity",
    [
        pytest.param(MESSAGE, id="plain"),
        pytest.param(
            MESSAGE.replace(b"text/plain", b"multipart/signed; boundary=x"), id="signed-only"
        ),
        pytest.param(MESSAGE.replace(b"text/plain", b"multipart/mixed; boundary=x"), id="mixed"),
    ],
)
def test_what_is_not_encrypted_is_not_secured(entity: bytes) -> None:
    assert refusal(entity).reason is Reason.NOT_SECURED


@pytest.mark.parametrize("kind", SIGNERS)
@pytest.mark.parametrize("recipients", [["rsa2048"], ["p384", "x25519", "rsa3072"]])
@pytest.mark.parametrize(
    "cipher", [ContentEncryption.AES256_CBC, ContentEncryption.AES256_GCM], ids=["cbc", "gcm"]
)
def test_length_is_known_before_sealing(
    kind: str, recipients: list[str], cipher: ContentEncryption
) -> None:
    signers = [identity(kind)]
    # A signature of an EC key is up to 9 octets shorter, now and then: 12 characters.
    slack = 14 if kind.startswith("p") else 0
    certificates = [identity(recipient, "bob").certificate for recipient in recipients]
    options = SealOptions(content_encryption=cipher)
    for size in (0, 1, 5_000):
        content = MESSAGE + bytes(size)
        foretold = smime.sealed_octets(
            len(content),
            outer=OUTER,
            signers=signers,
            recipients=certificates,
            boundary=BOUNDARY,
            now=NOW,
            options=options,
        )
        made = seal(content, signers=signers, recipients=certificates, options=options)
        assert foretold - 2 * slack <= len(made) <= foretold


def test_signers_tell_what_they_can_decrypt() -> None:
    (signer,) = unseal(seal()).unsealed.signers
    assert signer.capabilities == {
        ContentEncryption.AES128_CBC,
        ContentEncryption.AES256_CBC,
        ContentEncryption.AES128_GCM,
        ContentEncryption.AES256_GCM,
    }
