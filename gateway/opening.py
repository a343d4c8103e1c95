"""One pass over a sealed message: decrypt, split, hash, unwrap, verify.

Pure. `gateway.smime.unseal` drives it. The layers are generators, each pulling on the one below,
so that a message of any size is in memory a piece at a time.

Standards:
    RFC8551 section 3; RFC1847 section 2.1 (multipart/signed)
    AS      AS-022, AS-023, AS-028 (unwrapping), AS-042, AS-043, AS-046, AS-057
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import BinaryIO, Final

from cryptography import x509

from certs.cms.algorithms import Digest
from certs.cms.ber import Octets, malformed
from certs.cms.compressed import inflated
from certs.cms.enveloped import Decryption, decrypt, undecipherable
from certs.cms.signed import SignedData, Signer, Verified
from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.policy import CertificatePolicy
from gateway.ahead import WORTHWHILE_OCTETS, ahead
from gateway.entity import SignedEntity
from gateway.header import (
    Field,
    MediaType,
    media_type,
    parse_header,
    part_kind,
    read_header,
    transfer_encoding,
)
from gateway.multipart import Window
from gateway.transfer import decoder_for
from gateway.unsealed import Algorithms, Reading, Unsealed, VerifiedSigner

__all__ = ["Opening"]

# Below what the C library gives back to the system, and asks for again, with every piece.
_CHUNK_OCTETS: Final = 96 * 1024
# Two threads pay for each piece that they hand over.
_LARGE_CHUNK_OCTETS: Final = 192 * 1024
_SIGNATURE_OCTETS: Final = 4 * 1024 * 1024
_PREAMBLE_OCTETS: Final = 1024
_BOUNDARY_OCTETS: Final = 256  # RFC2046 5.1.1 says 70; longer ones are read
_EPILOGUE_OCTETS: Final = 1024

_DIGESTS: Final = frozenset(Digest)
_DIGESTS_BUT_SHA1: Final = _DIGESTS - {Digest.SHA1}

# AS-042: both spellings are read.
_PKCS7_MIME: Final = ("application/pkcs7-mime", "application/x-pkcs7-mime")
_PKCS7_SIGNATURE: Final = ("application/pkcs7-signature", "application/x-pkcs7-signature")
# RFC2046 5.1.1 lets any text stand before the first part. Only the notices that S/MIME agents
# write there are let pass: anything else is text beside what was signed.
_NOTICE: Final = re.compile(rb"\s*(This is an? [ -~]{1,100}(message|format)[ -~]{0,20})?\s*")


class Opening:
    """One pass over one message."""

    def __init__(
        self,
        out: BinaryIO,
        *,
        identities: Sequence[Identity],
        policy: CertificatePolicy,
        reading: Reading,
    ) -> None:
        self._out = out
        self._identities = identities
        self._policy = policy
        self._reading = reading
        self._large = False
        self._compressed = False
        self._accepted = _DIGESTS if policy.allow_sha1 else _DIGESTS_BUT_SHA1

    def run(self, message: BinaryIO) -> Unsealed | Reading:
        """Return the message's facts, or how it must be read instead.

        Raises:
            DirectError: as `gateway.smime.unseal`.
        """
        self._large = message.seek(0, os.SEEK_END) >= WORTHWHILE_OCTETS
        message.seek(0)
        outer = parse_header(read_header(message))
        _must_be_envelope(media_type(outer))
        chunk = _LARGE_CHUNK_OCTETS if self._large else _CHUNK_OCTETS
        body = _decoded(_chunks(message, chunk), transfer_encoding(outer))
        decryption = decrypt(body, self._identities, self._policy)
        content = _Framed(decryption.content)
        try:
            result = self._open(decryption, Window(content), outer)
        except DirectError as error:
            # whatever was wrong, the whole content is decrypted before we say so. Where
            # that fails, it is the only thing we say: the content was not what we took it for.
            for _piece in content:
                pass
            if content.failure is not None:
                raise content.failure from None
            if error.reason is Reason.MESSAGE_MALFORMED:
                # Nobody is known to have written what is malformed here.
                raise DirectError(Reason.SIGNATURE_INVALID, error.detail) from None
            raise
        if isinstance(result, DirectError):
            raise result
        return result

    def _open(
        self, decryption: Decryption, window: Window, outer: tuple[Field, ...]
    ) -> Unsealed | Reading | DirectError:
        fields, kind = _plaintext_header(window)
        self._compressed = _is_compressed(kind) and self._policy.inflated_octets > 0
        if self._compressed:
            body = _decoded(window.remaining(), transfer_encoding(fields))
            window = Window(inflated(body, self._policy.inflated_octets))
            fields = parse_header(window.header())
            kind = media_type(fields)
        if kind.name == "multipart/signed":
            entity, data, signature = self._detached(window, kind, outer)
        elif kind.name in _PKCS7_MIME:
            entity, data = self._opaque(window, fields, outer)
            signature = None
        elif kind.name.startswith("multipart/"):
            raise _not_secured("the signature does not cover the whole message")
        else:
            raise _not_secured("the message is encrypted but not signed")
        certificates, signers = data.finish()
        entity.finish()
        result = self._judge(entity, certificates, signers, decryption)
        if not isinstance(result, Unsealed):
            return result
        return replace(result, stapled=data.stapled, signature=signature)

    def _detached(
        self, window: Window, kind: MediaType, outer: tuple[Field, ...]
    ) -> tuple[SignedEntity, SignedData, bytes]:
        boundary = kind.parameters.get("boundary", "").encode("latin-1")
        if not 1 <= len(boundary) <= _BOUNDARY_OCTETS:
            raise malformed("the boundary of the signed message is missing or too long")
        if not _NOTICE.fullmatch(_whole(window.part(boundary), _PREAMBLE_OCTETS)):
            raise malformed("there is text before the signed part")
        # OpenSSL and others sign canonical line ends and then write bare line feeds. The first
        # boundary line shows it.
        entity = self._entity(
            outer, _announced(kind.parameters.get("micalg", "")), both=window.line_end == b"\n"
        )
        self._feed(entity, window.part(boundary))
        signature = _signature(_whole(window.part(boundary), _SIGNATURE_OCTETS))
        if not window.closed:
            raise malformed("the signed message has more than two parts")
        if window.rest(_EPILOGUE_OCTETS).strip():
            raise malformed("there is text after the signed part")
        data = SignedData([signature])
        if data.enclosed:
            raise malformed("a detached signature encloses content")
        return entity, data, signature

    def _opaque(
        self, window: Window, fields: tuple[Field, ...], outer: tuple[Field, ...]
    ) -> tuple[SignedEntity, SignedData]:
        data = SignedData(_decoded(window.remaining(), transfer_encoding(fields)))
        if not data.enclosed:
            raise DirectError(Reason.SIGNATURE_INVALID, "an opaque signature encloses no content")
        entity = self._entity(outer, data.digests, both=False)
        self._feed(entity, data.content())
        return entity, data

    def _feed(self, entity: SignedEntity, pieces: Iterator[Octets]) -> None:
        with ahead(pieces) if self._large else nullcontext(pieces) as coming:
            for piece in coming:
                entity.feed(piece)

    def _entity(
        self, outer: tuple[Field, ...], announced: frozenset[Digest], *, both: bool
    ) -> SignedEntity:
        reading = self._reading
        return SignedEntity(
            self._out,
            outer=outer,
            policy=self._policy,
            digests=reading.digests or announced & self._accepted or self._accepted,
            canonical=reading.canonical,
            both=both,
        )

    def _judge(
        self,
        entity: SignedEntity,
        certificates: tuple[x509.Certificate, ...],
        signers: tuple[Signer | DirectError, ...],
        decryption: Decryption,
    ) -> Unsealed | Reading | DirectError:
        missing = {s.digest for s in signers if isinstance(s, Signer)} & self._accepted
        if not missing <= entity.digests.keys():
            # AS-046: micalg is a hint only, and this one was wrong.
            return replace(self._reading, digests=self._accepted)
        verified, failures = self._verify(signers, entity.digests, certificates)
        if not verified and entity.canonical_digests:
            verified, _ = self._verify(signers, entity.canonical_digests, certificates)
            if verified:
                return replace(self._reading, canonical=True)
        if not verified:
            raise failures[0]
        if entity.problem is not None:
            return entity.problem
        return Unsealed(
            signers=tuple(
                VerifiedSigner(
                    v.certificate,
                    v.digest.value,
                    v.signature.value,
                    v.capabilities,
                    v.signing_time,
                )
                for v in verified
            ),
            certificates=certificates,
            algorithms=Algorithms(
                digest=verified[0].digest.value,
                signature=verified[0].signature.value,
                content_encryption=decryption.content_encryption.value,
                key_transport=decryption.key_transport,
            ),
            wrapped=entity.wrapped,
            size=entity.size,
            recipient=decryption.identity.certificate,
            compressed=self._compressed,
            tolerated=self._tolerated(),
        )

    def _verify(
        self,
        signers: Iterable[Signer | DirectError],
        digests: Mapping[Digest, bytes],
        certificates: Sequence[x509.Certificate],
    ) -> tuple[list[Verified], list[DirectError]]:
        # AS-057: one good signature is enough, whatever stands beside it and in which order.
        verified: list[Verified] = []
        failures: list[DirectError] = []
        for signer in signers:
            try:
                if isinstance(signer, DirectError):
                    raise signer
                verified.append(signer.verify(digests, certificates, self._policy))
            except DirectError as error:
                failures.append(error)
        return verified, failures

    def _tolerated(self) -> tuple[str, ...]:
        notes = []
        if self._reading.digests is not None:
            notes.append("micalg names another digest than the signature")
        if self._reading.canonical:
            notes.append("the signature is over canonical line ends, the message has others")
        return tuple(notes)


def _must_be_envelope(kind: MediaType) -> None:
    if kind.name in _PKCS7_MIME:
        return  # What is inside shows whether it is one, whatever smime-type says.
    if kind.name == "multipart/signed":
        raise _not_secured("the message is signed but not encrypted")
    if kind.name.startswith("multipart/"):
        raise _not_secured("the message is not encrypted as a whole")
    raise _not_secured("the message is not encrypted")


def _is_compressed(kind: MediaType) -> bool:
    # RFC8551 3.6
    smime_type = kind.parameters.get("smime-type", "").lower()
    return kind.name in _PKCS7_MIME and smime_type == "compressed-data"


def _plaintext_header(window: Window) -> tuple[tuple[Field, ...], MediaType]:
    try:
        fields = parse_header(window.header())
        return fields, media_type(fields)
    except DirectError:
        # What a wrong key makes of a message has no header.
        raise undecipherable() from None


@lru_cache(maxsize=64)
def _announced(micalg: str) -> frozenset[Digest]:
    # AS-046, T-17: "sha-256", "sha256", "SHA256", several of them, or "unknown".
    names = {name.strip().lower().replace("-", "") for name in micalg.split(",")}
    return frozenset(digest for digest in Digest if digest.value in names)


def _signature(part: bytes) -> bytes:
    window = Window([part])
    kind, encoding = part_kind(window.header())
    if kind.name not in _PKCS7_SIGNATURE:
        raise malformed("the second part of the signed message is not a signature")
    return b"".join(_decoded(window.remaining(), encoding))


def _chunks(message: BinaryIO, size: int) -> Iterator[bytes]:
    while chunk := message.read(size):
        yield chunk


def _decoded(pieces: Iterable[Octets], encoding: str) -> Iterator[Octets]:
    decoder = decoder_for(encoding)
    for piece in pieces:
        yield decoder.feed(piece)
    yield decoder.finish()


def _whole(pieces: Iterable[Octets], limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise malformed("a part of the signed message is too long")
        parts.append(bytes(piece))
    return b"".join(parts)


class _Framed:
    """The decrypted content; remembers what made it fail."""

    def __init__(self, pieces: Iterator[Octets]) -> None:
        self._pieces = pieces
        self.failure: DirectError | None = None

    def __iter__(self) -> Iterator[Octets]:
        try:
            yield from self._pieces
        except DirectError as error:
            self.failure = error
            raise


def _not_secured(detail: str) -> DirectError:
    return DirectError(Reason.NOT_SECURED, detail)
