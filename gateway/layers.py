"""A received message layer by layer, as far as it can be opened: for people, who ask why.

Pure. Decides nothing and is no way to read mail: `gateway.judgement` gives the verdict, this shows
where it came from. What is found here may be anybody's work until that verdict says otherwise, and
of a message that does not decrypt to its end nothing inside is looked at.

Standards:
    RFC8551 section 3 (the layers of S/MIME); RFC1847 section 2.1 (multipart/signed)
    AS      Applicability Statement v1.3, section 2 (AS-021 to AS-023, wrapping)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from cryptography import x509

from certs.cms.algorithms import Digest
from certs.cms.anatomy import EnvelopeAnatomy, SignerAnatomy, envelope_in, signer_in
from certs.cms.ber import Octets, malformed
from certs.cms.compressed import inflated
from certs.cms.enveloped import decrypt
from certs.cms.signed import SignedData, Signer, Verified
from certs.errors import DirectError
from certs.identity import Identity
from certs.policy import CertificatePolicy
from fhir_bridge import mime
from gateway.entity import SignedEntity
from gateway.header import (
    Field,
    MediaType,
    media_type,
    parse_header,
    read_header,
    transfer_encoding,
)
from gateway.multipart import Window
from gateway.transfer import decoder_for

__all__ = ["Inside", "Layers", "SignatureLayer", "SignerLayer", "layers_of"]

_CHUNK_OCTETS: Final = 192 * 1024
_SIGNATURE_OCTETS: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SignerLayer:
    """One signer: what it says, and whose the signature is, or why it is nobody's."""

    anatomy: SignerAnatomy | None
    verified: Verified | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class SignatureLayer:
    """The signature: its form, what a multipart announced, its signers and certificates."""

    form: str
    micalg: str
    signers: tuple[SignerLayer, ...]
    certificates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Inside:
    """The message that the signature covers: its header fields and where its parts lie."""

    wrapped: bool
    fields: tuple[Field, ...]
    parts: mime.Index


@dataclass(slots=True)
class Layers:
    """The layers that could be opened, from the outside in; `stopped` says what ended that.

    `size` is in octets, of the whole message as received. `compressed`: between encryption and
    signature there is a CompressedData.
    """

    size: int = 0
    outer: tuple[Field, ...] = ()
    envelope: EnvelopeAnatomy | None = None
    compressed: bool = False
    signature: SignatureLayer | None = None
    inside: Inside | None = None
    stopped: str | None = None


def layers_of(
    message: BinaryIO,
    *,
    plain: BinaryIO,
    inner: BinaryIO,
    identities: Sequence[Identity],
    policy: CertificatePolicy,
) -> Layers:
    """Return the layers of `message`; `plain` and `inner` are private scratch files.

    Nothing is raised for what the message is: it ends the list.
    """
    layers = Layers(size=message.seek(0, 2))
    try:
        message.seek(0)
        layers.outer = parse_header(read_header(message))
        body = message.tell()
        encoding = transfer_encoding(layers.outer)
        layers.envelope = envelope_in(_decoded(_chunks(message), encoding), identities)
        message.seek(body)
        content = decrypt(_decoded(_chunks(message), encoding), identities, policy).content
        for piece in content:
            plain.write(piece)
        plain.seek(0)
        window = Window(_chunks(plain))
        fields = parse_header(window.header())
        layers.compressed = media_type(fields).parameters.get("smime-type") == "compressed-data"
        if layers.compressed and policy.inflated_octets:
            packed = _decoded(window.remaining(), transfer_encoding(fields))
            window = Window(inflated(packed, policy.inflated_octets))
            fields = parse_header(window.header())
        entity = SignedEntity(
            inner, outer=layers.outer, policy=policy, digests=Digest, canonical=False, both=True
        )
        layers.signature = _signature(window, fields, entity, policy)
        if entity.problem is not None:
            raise entity.problem
        inner.seek(0)
        header = parse_header(read_header(inner))
        layers.inside = Inside(entity.wrapped, header, mime.index(inner))
    except DirectError as error:
        layers.stopped = error.detail
    return layers


def _signature(
    window: Window, fields: Sequence[Field], entity: SignedEntity, policy: CertificatePolicy
) -> SignatureLayer:
    kind = media_type(fields)
    if kind.name == "multipart/signed":
        data = _detached(window, kind, entity)
    elif "pkcs7-mime" in kind.name:
        data = SignedData(_decoded(window.remaining(), transfer_encoding(fields)))
        for piece in data.content() if data.enclosed else ():
            entity.feed(piece)
    else:
        raise malformed(f"what is encrypted is {kind.name}, and not signed")
    certificates, signers = data.finish()
    entity.finish()
    return SignatureLayer(
        form=kind.name,
        micalg=kind.parameters.get("micalg", ""),
        signers=tuple(_signer(signer, entity, certificates, policy) for signer in signers),
        certificates=certificates,
    )


def _detached(window: Window, kind: MediaType, entity: SignedEntity) -> SignedData:
    boundary = kind.parameters.get("boundary", "").encode("latin-1")
    if not boundary:
        raise malformed("the signed message has no boundary")
    for _preamble in window.part(boundary):
        pass
    for piece in window.part(boundary):
        entity.feed(piece)
    part = Window([_limited(window.part(boundary), _SIGNATURE_OCTETS)])
    encoding = transfer_encoding(parse_header(part.header()))
    data = SignedData(_decoded(part.remaining(), encoding))
    for _enclosed in data.content() if data.enclosed else ():
        pass
    return data


def _signer(
    signer: Signer | DirectError,
    entity: SignedEntity,
    certificates: Sequence[x509.Certificate],
    policy: CertificatePolicy,
) -> SignerLayer:
    if isinstance(signer, DirectError):
        return SignerLayer(None, None, signer.detail)
    anatomy, problem = signer_in(signer), None
    for digests in (entity.digests, entity.canonical_digests):
        try:
            return SignerLayer(anatomy, signer.verify(digests, certificates, policy), None)
        except DirectError as error:
            problem = problem or error.detail
    return SignerLayer(anatomy, None, problem)


def _limited(pieces: Iterable[Octets], limit: int) -> bytes:
    parts: list[bytes] = []
    for piece in pieces:
        limit -= len(piece)
        if limit < 0:
            raise malformed("a part of the signed message is too long")
        parts.append(bytes(piece))
    return b"".join(parts)


def _chunks(message: BinaryIO) -> Iterator[bytes]:
    while chunk := message.read(_CHUNK_OCTETS):
        yield chunk


def _decoded(pieces: Iterable[Octets], encoding: str) -> Iterator[Octets]:
    decoder = decoder_for(encoding)
    for piece in pieces:
        yield decoder.feed(piece)
    yield decoder.finish()
