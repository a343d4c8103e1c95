"""EnvelopedData and AuthEnvelopedData: content encrypted for recipients, piece by piece.

Pure. Both ways take constant memory. Going out, every length is known beforehand and the result
is definite-length DER. Coming in, what `Decryption.content` yields is not to be trusted, shown or
passed on before it has ended without raising: CBC shows tampering only to the signature inside,
GCM only with its tag at the very end.

Standards:
    RFC5652 section 6 (EnvelopedData); RFC5083 (AuthEnvelopedData)
    RFC3565 (AES-CBC in CMS), RFC5084 (AES-GCM in CMS)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from certs.cms import der
from certs.cms.algorithms import (
    AUTH_ENVELOPED_DATA,
    DATA,
    ENVELOPED_DATA,
    SIGNED_DATA,
    Algorithm,
    ContentEncryption,
    KeyTransport,
    content_encryption_of,
    identified,
    permit_content_encryption,
    refused,
)
from certs.cms.ber import Element, Octets, Reader, children, malformed, octets
from certs.cms.recipients import Recipient, find, wrap
from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.policy import CertificatePolicy

__all__ = ["Decryption", "Envelope", "decrypt", "undecipherable"]

_COMPRESSED: Final = der.oid("1.2.840.113549.1.9.16.1.9")

_CONTENT: Final = der.context(0, constructed=False)
_ORIGINATOR: Final = der.context(0)
_ATTRIBUTES: Final = der.context(1)
_UNAUTHENTICATED_ATTRIBUTES: Final = der.context(2)

_OID_OCTETS: Final = 64
_ALGORITHM_OCTETS: Final = 1024
_ATTRIBUTES_OCTETS: Final = 64 * 1024
_ORIGINATOR_OCTETS: Final = 1024 * 1024
_RECIPIENTS_OCTETS: Final = 4 * 1024 * 1024

# RFC5084 3.2: a tag of 12 octets where icvlen is absent, at most 16. We write 16.
_NONCE_OCTETS: Final = 12
_TAG_OCTETS: Final = 16
_DEFAULT_TAG_OCTETS: Final = 12


class Envelope:
    """A content of `size` octets, about to be encrypted for the owners of `recipients`.

    `octets` is the length of the whole CMS object; `key_transport` names what wrapped the key.
    """

    def __init__(
        self,
        size: int,
        *,
        recipients: Sequence[x509.Certificate],
        cipher: ContentEncryption,
        transport: KeyTransport,
    ) -> None:
        key = os.urandom(cipher.key_octets)
        wrapped = [wrap(key, certificate, transport) for certificate in recipients]
        self.key_transport = "+".join(sorted({info.name for info in wrapped}))
        self._cipher = cipher
        self._key = key
        self._nonce = os.urandom(_NONCE_OCTETS if cipher.authenticated else cipher.block_octets)
        block = cipher.block_octets
        self._padding = 0 if cipher.authenticated else block - size % block
        self._length = size + self._padding
        # RFC5652 6.1: version 0 where every recipient has version 0, else 2. RFC5083 2.1: 0.
        plain = cipher.authenticated or all(info.version == 0 for info in wrapped)
        infos = der.set_of(info.encoded for info in wrapped)
        self._head = self._encode_head(der.integer(0 if plain else 2) + infos)
        tail = 2 + _TAG_OCTETS if cipher.authenticated else 0
        self.octets = len(self._head) + self._length + tail

    def encrypt(self, content: Iterable[Octets]) -> Iterator[Octets]:
        """Yield the CMS object in pieces, each valid until the next.

        `content` must come to exactly the `size` octets announced.
        """
        yield self._head
        aes = AES(self._key)
        if self._cipher.authenticated:
            sealer = Cipher(aes, modes.GCM(self._nonce)).encryptor()
            yield from _encrypted(sealer, content)
            yield sealer.finalize() + der.octet_string(sealer.tag)
        else:
            encryptor = Cipher(aes, modes.CBC(self._nonce)).encryptor()
            yield from _encrypted(encryptor, content)
            # RFC5652 6.3: as many octets as are missing, each with that number for value.
            padding = bytes((self._padding,)) * self._padding
            yield encryptor.update(padding) + encryptor.finalize()

    def _encode_head(self, before: bytes) -> bytes:
        nonce = der.octet_string(self._nonce)
        if self._cipher.authenticated:
            nonce = der.sequence(nonce, der.integer(_TAG_OCTETS))
        algorithm = der.sequence(self._cipher.oid, nonce)
        content = DATA + algorithm + der.header(_CONTENT, self._length)
        content = der.header(der.SEQUENCE, len(content) + self._length) + content
        tail = 2 + _TAG_OCTETS if self._cipher.authenticated else 0
        rest = self._length + tail
        body = before + content
        body = der.header(der.SEQUENCE, len(body) + rest) + body
        body = der.header(der.context(0), len(body) + rest) + body
        kind = AUTH_ENVELOPED_DATA if self._cipher.authenticated else ENVELOPED_DATA
        body = kind + body
        return der.header(der.SEQUENCE, len(body) + rest) + body


@dataclass(frozen=True, slots=True)
class Decryption:
    """A message found to be for `identity`. `content` yields it, each piece until the next.

    Exhausting `content` raises DECRYPTION_FAILED, with one detail for all causes, where the
    content is not what was encrypted, and MESSAGE_MALFORMED where the framing is wrong.
    """

    identity: Identity
    key_transport: str
    content_encryption: ContentEncryption
    content: Iterator[memoryview]


def decrypt(
    pieces: Iterable[Octets], identities: Sequence[Identity], policy: CertificatePolicy
) -> Decryption:
    """Open the CMS object in `pieces` with whichever of `identities` it is for.

    Raises:
        DirectError: MESSAGE_MALFORMED; NOT_SECURED where it is not encrypted; ALGORITHM_REFUSED;
            DECRYPTION_FAILED where it is for none of `identities`.
    """
    reader = Reader(pieces)
    reader.enter(der.SEQUENCE)
    authenticated = _kind(reader.element(_OID_OCTETS))
    reader.enter(der.context(0))
    reader.enter(der.SEQUENCE)
    reader.skip(_OID_OCTETS)  # the version, which follows from the rest
    if reader.peek() == _ORIGINATOR:
        reader.skip(_ORIGINATOR_OCTETS)
    infos = reader.element(_RECIPIENTS_OCTETS)
    reader.enter(der.SEQUENCE)
    if reader.element(_OID_OCTETS).encoded != DATA:
        raise malformed("the encrypted content is not of type id-data")
    algorithm = identified(reader.element(_ALGORITHM_OCTETS))
    cipher = content_encryption_of(algorithm)
    permit_content_encryption(cipher, policy)
    if cipher.authenticated != authenticated:
        # RFC5083 and RFC5084: AES-GCM goes in AuthEnvelopedData, and only there.
        raise malformed("the content encryption is not one for this kind of envelope")
    if reader.peek() is None:
        raise malformed("the envelope has no content")
    recipient = find(infos, identities)
    if recipient is None:
        raise DirectError(Reason.DECRYPTION_FAILED, "the message is encrypted for somebody else")
    read = _read_gcm if authenticated else _read_cbc
    content = read(reader, cipher, algorithm, recipient)
    return Decryption(recipient.identity, recipient.name, cipher, content)


def undecipherable() -> DirectError:
    """Return the one error for content that does not decrypt, whatever the cause (R-026)."""
    return DirectError(Reason.DECRYPTION_FAILED, "the content does not decrypt")


def _encrypted(encryptor: CipherContext, content: Iterable[Octets]) -> Iterator[memoryview]:
    buffer = bytearray()
    for piece in content:
        if len(buffer) < len(piece) + 16:
            buffer = bytearray(len(piece) + 16)
        yield memoryview(buffer)[: encryptor.update_into(piece, buffer)]


def _kind(content_type: Element) -> bool:
    """Say whether the CMS object is an AuthEnvelopedData, where it is encrypted at all."""
    if content_type.encoded == SIGNED_DATA:
        raise DirectError(Reason.NOT_SECURED, "the message is signed but not encrypted")
    if content_type.encoded == _COMPRESSED:
        # Direct has no use for it; refused before anything is inflated.
        raise DirectError(Reason.NOT_SECURED, "the message is compressed, not encrypted")
    if content_type.encoded not in (ENVELOPED_DATA, AUTH_ENVELOPED_DATA):
        raise DirectError(Reason.NOT_SECURED, "the CMS object is not an encrypted one")
    return content_type.encoded == AUTH_ENVELOPED_DATA


def _read_cbc(
    reader: Reader, cipher: ContentEncryption, algorithm: Algorithm, recipient: Recipient
) -> Iterator[memoryview]:
    block = cipher.block_octets
    nonce = octets(algorithm.parameters) if algorithm.parameters else b""
    if len(nonce) != block:
        raise malformed("the initialisation vector has the wrong length")
    key = recipient.content_key(cipher.key_octets)
    kind = TripleDES if cipher is ContentEncryption.DES_EDE3_CBC else AES
    decryptor = Cipher(kind(key), modes.CBC(nonce)).decryptor()
    held, buffer = b"", bytearray()
    for piece in reader.string(_CONTENT):
        if len(buffer) < len(piece) + 2 * block:
            buffer = bytearray(len(piece) + 2 * block)
        # The last block stays behind: it may be the padding.
        view = memoryview(buffer)
        view[: len(held)] = held
        end = len(held) + decryptor.update_into(piece, view[len(held) :])
        held = bytes(view[max(0, end - block) : end])
        if end > block:
            yield view[: end - block]
    try:
        decryptor.finalize()
    except ValueError:
        raise undecipherable() from None
    yield memoryview(_unpadded(held))
    _finish(reader)


def _unpadded(last: bytes) -> bytes:
    # RFC5652 6.3
    count = last[-1] if last else 0
    if not 1 <= count <= len(last) or last[-count:] != bytes((count,)) * count:
        raise undecipherable()
    return last[:-count]


def _read_gcm(
    reader: Reader, cipher: ContentEncryption, algorithm: Algorithm, recipient: Recipient
) -> Iterator[memoryview]:
    nonce, tag_octets = _gcm_parameters(algorithm)
    key = recipient.content_key(cipher.key_octets)
    decryptor = Cipher(AES(key), modes.GCM(nonce, min_tag_length=tag_octets)).decryptor()
    buffer = bytearray()
    for piece in reader.string(_CONTENT):
        if len(buffer) < len(piece) + 16:
            buffer = bytearray(len(piece) + 16)
        yield memoryview(buffer)[: decryptor.update_into(piece, buffer)]
    reader.leave()
    if reader.peek() == _ATTRIBUTES:
        # RFC5083 2.2 authenticates them before the content, which they follow: that takes two
        # passes. No S/MIME agent writes them.
        raise refused("the envelope has authenticated attributes")
    tag = octets(reader.element(_ALGORITHM_OCTETS))
    try:
        if len(tag) != tag_octets:
            raise undecipherable()
        decryptor.finalize_with_tag(tag)
    except InvalidTag:
        raise undecipherable() from None
    _finish_object(reader, _UNAUTHENTICATED_ATTRIBUTES)


def _gcm_parameters(algorithm: Algorithm) -> tuple[bytes, int]:
    # RFC5084 3.2: GCMParameters ::= SEQUENCE { aes-nonce, aes-ICVlen INTEGER DEFAULT 12 }
    if algorithm.parameters is None or algorithm.parameters.tag != der.SEQUENCE:
        raise malformed("the parameters of AES-GCM are missing")
    fields = children(algorithm.parameters.content, limit=2)
    nonce = octets(fields[0]) if fields else b""
    length = int.from_bytes(fields[1].content, "big") if len(fields) == 2 else _DEFAULT_TAG_OCTETS
    if len(nonce) != _NONCE_OCTETS or not _DEFAULT_TAG_OCTETS <= length <= _TAG_OCTETS:
        raise refused("the parameters of AES-GCM are not ones we accept")
    return nonce, length


def _finish(reader: Reader) -> None:
    reader.leave()
    _finish_object(reader, _ATTRIBUTES)


def _finish_object(reader: Reader, attributes: int) -> None:
    if reader.peek() == attributes:
        reader.skip(_ATTRIBUTES_OCTETS)
    for _container in range(3):
        reader.leave()
    reader.finish()
