"""Builds CMS that no honest agent writes, piece by piece, for tests of refusals.

Every piece has an honest default; a test replaces the one that it is about.
"""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.serialization import Encoding

from certs.cms import der
from certs.cms.names import issuer_and_serial
from certs.identity import Identity
from tests.helpers.pki import NOW
from tests.helpers.sealed import BOUNDARY, OUTER

__all__ = [
    "AES256_CBC",
    "COMPRESSED",
    "CONTENT_TYPE",
    "DATA",
    "ENVELOPED",
    "MESSAGE_DIGEST",
    "SHA256",
    "SIGNED",
    "ZLIB",
    "attribute",
    "compressed_data",
    "content_info",
    "detached",
    "digest_of",
    "enveloped",
    "honest_attributes",
    "key_transport",
    "message",
    "mime",
    "multipart_signed",
    "opaque",
    "rename",
    "sealed",
    "signed_data",
    "signer_info",
]

DATA = der.oid("1.2.840.113549.1.7.1")
SIGNED = der.oid("1.2.840.113549.1.7.2")
ENVELOPED = der.oid("1.2.840.113549.1.7.3")
CONTENT_TYPE = der.oid("1.2.840.113549.1.9.3")
MESSAGE_DIGEST = der.oid("1.2.840.113549.1.9.4")
SIGNING_TIME = der.oid("1.2.840.113549.1.9.5")
SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
RSA = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL)
COMPRESSED = der.oid("1.2.840.113549.1.9.16.1.9")
ZLIB = der.sequence(der.oid("1.2.840.113549.1.9.16.3.8"))
ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
AES256_CBC = der.oid("2.16.840.1.101.3.4.1.42")


def digest_of(content: bytes, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
    hashing = hashes.Hash(algorithm or hashes.SHA256())
    hashing.update(content)
    return hashing.finalize()


def attribute(oid: bytes, *values: bytes) -> bytes:
    return der.sequence(oid, der.tlv(der.SET, *values))


def honest_attributes(content: bytes, algorithm: hashes.HashAlgorithm | None = None) -> list[bytes]:
    """contentType, messageDigest and signingTime, in DER's order."""
    return sorted(
        (
            attribute(CONTENT_TYPE, DATA),
            attribute(MESSAGE_DIGEST, der.octet_string(digest_of(content, algorithm))),
            attribute(SIGNING_TIME, der.time(NOW)),
        )
    )


def signer_info(
    signer: Identity,
    content: bytes,
    *,
    attributes: Sequence[bytes] | None = None,
    sid: bytes | None = None,
    digest: bytes = SHA256,
    algorithm: bytes | None = None,
    hash_: hashes.HashAlgorithm | None = None,
    over: bytes | None = None,
    without_attributes: bool = False,
) -> bytes:
    """A SignerInfo. `over` is what is signed instead of the DER of the attributes."""
    hash_ = hash_ or hashes.SHA256()
    attributes = honest_attributes(content, hash_) if attributes is None else attributes
    is_rsa = isinstance(signer.certificate.public_key(), rsa.RSAPublicKey)
    signed = content if without_attributes else der.tlv(der.SET, *attributes)
    return der.sequence(
        der.integer(1),
        issuer_and_serial(signer.certificate) if sid is None else sid,
        digest,
        b"" if without_attributes else der.tlv(der.context(0), *attributes),
        algorithm or (RSA if is_rsa else ECDSA_SHA256),
        der.octet_string(signer.key.sign(signed if over is None else over, hash_)),
    )


def signed_data(
    infos: Iterable[bytes],
    certificates: Iterable[x509.Certificate | bytes],
    *,
    content: bytes | None = None,
    content_type: bytes = DATA,
    digests: Sequence[bytes] = (SHA256,),
    revocation: Sequence[bytes] = (),
) -> bytes:
    """A ContentInfo with a SignedData; with `content` it encloses it.

    `revocation` are its RevocationInfoChoices.
    """
    encoded = [c if isinstance(c, bytes) else c.public_bytes(Encoding.DER) for c in certificates]
    enclosed = b"" if content is None else der.tlv(der.context(0), der.octet_string(content))
    body = der.sequence(
        der.integer(1),
        der.set_of(digests),
        der.sequence(content_type, enclosed),
        der.tlv(der.context(0), *encoded) if encoded else b"",
        der.tlv(der.context(1), *revocation) if revocation else b"",
        der.tlv(der.SET, *infos),
    )
    return content_info(SIGNED, body)


def compressed_data(
    content: bytes,
    *,
    packed: bytes | None = None,
    algorithm: bytes = ZLIB,
    content_type: bytes = DATA,
) -> bytes:
    """A ContentInfo with a CompressedData; `packed` goes in the place of the zlib stream."""
    packed = zlib.compress(content) if packed is None else packed
    enclosed = der.tlv(der.context(0), der.octet_string(packed))
    body = der.sequence(der.integer(0), algorithm, der.sequence(content_type, enclosed))
    return content_info(COMPRESSED, body)


def content_info(kind: bytes, body: bytes) -> bytes:
    return der.sequence(kind, der.tlv(der.context(0), body))


def mime(cms: bytes, content_type: str, encoding: str = "base64") -> bytes:
    """A MIME entity with `cms` for its body."""
    body = base64.encodebytes(cms).replace(b"\n", b"\r\n") if encoding == "base64" else cms
    head = f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + body


def multipart_signed(
    entity: bytes,
    signature: bytes,
    *,
    boundary: str = BOUNDARY,
    micalg: str = "sha-256",
    preamble: bytes = b"",
    epilogue: bytes = b"",
    signature_type: str = "application/pkcs7-signature; name=smime.p7s",
    more: bytes = b"",
) -> bytes:
    """A multipart/signed; `more` goes between the signature and the closing line."""
    line = b"--" + boundary.encode()
    head = (
        'Content-Type: multipart/signed; protocol="application/pkcs7-signature";'
        f' micalg={micalg}; boundary="{boundary}"\r\n\r\n'
    )
    return b"".join(
        (
            head.encode(), preamble, line, b"\r\n", entity, b"\r\n", line, b"\r\n",
            mime(signature, signature_type), more, line, b"--\r\n", epilogue,
        )
    )  # fmt: skip


def detached(entity: bytes, signer: Identity, info: bytes | None = None, **how: str) -> bytes:
    """An honest multipart/signed over `entity`, but for the SignerInfo `info`."""
    info = signer_info(signer, entity) if info is None else info
    return multipart_signed(entity, signed_data([info], [signer.certificate]), **how)  # type: ignore[arg-type]  # all keywords of ours are strings


def opaque(entity: bytes, signer: Identity, kind: str = "signed-data") -> bytes:
    cms = signed_data([signer_info(signer, entity)], [signer.certificate], content=entity)
    return mime(cms, f"application/pkcs7-mime; smime-type={kind}; name=smime.p7m")


def key_transport(
    key: bytes,
    recipient: Identity,
    *,
    rid: bytes | None = None,
    algorithm: bytes = RSA,
    encrypted: bytes | None = None,
) -> bytes:
    """A KeyTransRecipientInfo with PKCS#1 v1.5, or with `encrypted` for the encrypted key."""
    public = recipient.certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    return der.sequence(
        der.integer(0),
        issuer_and_serial(recipient.certificate) if rid is None else rid,
        algorithm,
        der.octet_string(
            public.encrypt(key, padding.PKCS1v15()) if encrypted is None else encrypted
        ),
    )


def enveloped(
    plaintext: bytes,
    infos: Iterable[bytes],
    key: bytes,
    *,
    kind: bytes = ENVELOPED,
    padded: bytes | None = None,
    content_type: bytes = DATA,
    algorithm: bytes | None = None,
) -> bytes:
    """A ContentInfo with an EnvelopedData in AES-CBC; `padded` goes in the place of padding."""
    iv = os.urandom(16)
    count = 16 - len(plaintext) % 16
    encryptor = Cipher(AES(key), modes.CBC(iv)).encryptor()
    tail = bytes((count,)) * count if padded is None else padded
    ciphertext = encryptor.update(plaintext + tail) + encryptor.finalize()
    body = der.sequence(
        der.integer(0),
        der.tlv(der.SET, *infos),
        der.sequence(
            content_type,
            algorithm or der.sequence(AES256_CBC, der.octet_string(iv)),
            der.tlv(der.context(0, constructed=False), ciphertext),
        ),
    )
    return content_info(kind, body)


def message(cms: bytes, *, outer: bytes = OUTER, encoding: str = "base64") -> bytes:
    kind = "application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m"
    return outer + mime(cms, kind, encoding)


def sealed(plaintext: bytes, recipient: Identity) -> bytes:
    """A whole message with `plaintext` encrypted for `recipient` (RSA)."""
    key = os.urandom(32)
    return message(enveloped(plaintext, [key_transport(key, recipient)], key))


def rename(sealed_message: bytes, before: bytes, after: bytes) -> bytes:
    assert before in sealed_message
    return sealed_message.replace(before, after)
