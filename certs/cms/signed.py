"""SignedData: detached signatures made, detached and enclosed ones checked.

Pure. The content never passes through here on its way out: `sign` is given digests. On its way in
an enclosed content is yielded in pieces, to be hashed by the caller.

Standards:
    RFC5652 sections 5 and 11; RFC8551 section 2 (S/MIME 4.0); RFC8550 section 2.3 (certificates)
    AS      AS-043 to AS-047 and AS-057
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.cert_files import certificate_from
from certs.cms import der
from certs.cms.algorithms import (
    AUTH_ENVELOPED_DATA,
    DATA,
    ENVELOPED_DATA,
    SIGNED_DATA,
    Algorithm,
    ContentEncryption,
    Digest,
    digest_of,
    identified,
    permit_digest,
    refused,
)
from certs.cms.attributes import (
    SIGNED_ATTRIBUTES,
    SignedAttributes,
    encode_attributes,
    parse_attributes,
)
from certs.cms.ber import Element, Octets, Reader, children, malformed, octets
from certs.cms.compressed import COMPRESSED_DATA
from certs.cms.names import comparable, issuer_and_serial, key_identifier, named
from certs.cms.signatures import Scheme, Signature, digest_for, encode_scheme, scheme_of
from certs.cms.stapled import stapled_in
from certs.errors import DirectError, Reason
from certs.evidence import Revocation
from certs.identity import Identity
from certs.policy import CertificatePolicy

__all__ = ["Signed", "SignedData", "Signer", "Verified", "digests_for", "sign"]

_CERTIFICATES: Final = der.context(0)
_CRLS: Final = der.context(1)
_CONTENT: Final = der.context(0)

_OID_OCTETS: Final = 64
_ALGORITHMS_OCTETS: Final = 4 * 1024
_CERTIFICATES_OCTETS: Final = 1024 * 1024
_USUAL_CERTIFICATE_OCTETS: Final = 4096
_CRLS_OCTETS: Final = 1024 * 1024
_SIGNERS_OCTETS: Final = 256 * 1024
CERTIFICATES: Final = 50
SIGNERS: Final = 16


@dataclass(frozen=True, slots=True)
class Signed:
    """A SignedData we made, with the kinds of signature in it."""

    encoded: bytes
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that verified: who made it, how, and what it says its maker can decrypt.

    `signing_time` is when it was made, by its maker's word.
    """

    certificate: x509.Certificate
    digest: Digest
    signature: Signature
    capabilities: frozenset[ContentEncryption]
    signing_time: datetime | None


def digests_for(signers: Sequence[Identity], wanted: Digest) -> dict[Digest, None]:
    """Return which digests of the content `sign` asks for, in order, each once."""
    return dict.fromkeys(digest_for(signer.certificate, wanted) for signer in signers)


def sign(
    digests: Mapping[Digest, bytes],
    signers: Sequence[Identity],
    *,
    wanted: Digest,
    pss: bool,
    now: datetime,
) -> Signed:
    """Return detached signatures of all `signers` over the content of these `digests`.

    Raises:
        DirectError: CERTIFICATE_UNFIT; a key cannot sign.
    """
    infos: list[bytes] = []
    kinds: list[Signature] = []
    certificates: set[bytes] = set()
    for signer in signers:
        digest = digest_for(signer.certificate, wanted)
        kind, algorithm = encode_scheme(signer.certificate, digest, pss=pss)
        attributes = encode_attributes(digests[digest], now)
        signature = signer.key.sign(der.tlv(der.SET, attributes), digest.hash, pss=pss)
        kinds.append(kind)
        infos.append(
            der.sequence(
                der.integer(1),
                issuer_and_serial(signer.certificate),
                der.sequence(digest.oid),
                der.tlv(SIGNED_ATTRIBUTES, attributes),
                algorithm,
                der.octet_string(signature),
            )
        )
        # AS-044: with the intermediates, and without the anchor, which is not ours to send.
        chain = (signer.certificate, *signer.chain)
        certificates.update(c.public_bytes(Encoding.DER) for c in chain)
    signed_data = der.sequence(
        der.integer(1),
        der.set_of(der.sequence(digest.oid) for digest in digests),
        der.sequence(DATA),
        der.set_of(certificates, _CERTIFICATES),
        der.set_of(infos),
    )
    encoded = der.sequence(SIGNED_DATA, der.tlv(der.context(0), signed_data))
    return Signed(encoded, tuple(kinds))


@dataclass(frozen=True, slots=True)
class Signer:
    """One SignerInfo of a message, checked for shape only."""

    identifier: Element
    digest_algorithm: Algorithm
    attributes: SignedAttributes
    signature_algorithm: Algorithm
    signature: bytes

    @property
    def digest(self) -> Digest | None:
        """The digest of the content that the signature is over; None where we have none such."""
        return digest_of(self.digest_algorithm)

    def scheme(self, policy: CertificatePolicy) -> Scheme:
        """Return the signature scheme.

        Raises:
            DirectError: ALGORITHM_REFUSED, SIGNATURE_INVALID (RFC8933).
        """
        if self.digest is None:
            raise refused("the digest algorithm is not one of ours")
        permit_digest(self.digest, policy)
        return scheme_of(self.signature_algorithm, self.digest)

    def verify(
        self,
        digests: Mapping[Digest, bytes],
        certificates: Sequence[x509.Certificate],
        policy: CertificatePolicy,
    ) -> Verified:
        """Return the signer where its signature over the content of `digests` verifies.

        Raises:
            DirectError: SIGNATURE_INVALID, ALGORITHM_REFUSED.
        """
        scheme = self.scheme(policy)
        candidates = self._named_in(certificates)
        if not candidates:
            raise _invalid("the signer's certificate is not there")
        # A key identifier is only a name: several certificates may bear it, not all of them true.
        for certificate in candidates:
            self.attributes.check(digests[scheme.digest], certificate)
            for encoding in self.attributes.encodings():
                if scheme.verifies(certificate, self.signature, encoding):
                    return Verified(
                        certificate,
                        scheme.digest,
                        scheme.kind,
                        self.attributes.capabilities,
                        self.attributes.signing_time,
                    )
        raise _invalid("the signature is not the signer's")

    def _named_in(self, certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
        by_serial, by_key = named(self.identifier)
        if by_serial is not None:
            exact = [c for c in certificates if issuer_and_serial(c) == by_serial]
            value = None if exact else comparable(by_serial)
            return exact or [
                c for c in certificates if comparable(issuer_and_serial(c)) == value is not None
            ]
        return [c for c in certificates if key_identifier(c) == by_key is not None]


class SignedData:
    """A SignedData coming in: first `content`, to its end, then `finish`."""

    def __init__(self, pieces: Iterable[Octets]) -> None:
        self._reader = reader = Reader(pieces)
        self.stapled = Revocation()  # what `finish` finds beside the certificates
        reader.enter(der.SEQUENCE)
        kind = reader.element(_OID_OCTETS).encoded
        if kind in (ENVELOPED_DATA, AUTH_ENVELOPED_DATA):
            raise DirectError(Reason.NOT_SECURED, "there is a second layer of encryption")
        if kind == COMPRESSED_DATA:
            # where a policy lets it pass, it was inflated before it came here.
            raise refused("the message is compressed")
        if kind != SIGNED_DATA:
            raise malformed("the signature is not a CMS SignedData")
        reader.enter(der.context(0))
        reader.enter(der.SEQUENCE)
        reader.skip(_OID_OCTETS)  # the version, which follows from the rest
        self.digests = _digests(reader.element(_ALGORITHMS_OCTETS))
        reader.enter(der.SEQUENCE)
        # id-data is the only type whose signature S/MIME defines.
        if reader.element(_OID_OCTETS).encoded != DATA:
            raise malformed("the signed content is not of type id-data")
        self.enclosed = reader.peek() is not None

    def content(self) -> Iterator[memoryview]:
        """Yield the enclosed content in pieces, each valid until the next."""
        self._reader.enter(_CONTENT)
        yield from self._reader.string(der.OCTET_STRING)
        self._reader.leave()

    def finish(self) -> tuple[tuple[x509.Certificate, ...], tuple[Signer | DirectError, ...]]:
        """Return certificates and signers; in place of one that does not parse, why not.

        Raises:
            DirectError: SIGNATURE_INVALID where there is no signer; MESSAGE_MALFORMED.
        """
        reader = self._reader
        reader.leave()
        certificates: tuple[x509.Certificate, ...] = ()
        if reader.peek() == _CERTIFICATES:
            certificates = _certificates(reader.element(_CERTIFICATES_OCTETS))
        if reader.peek() == _CRLS:
            self.stapled = stapled_in(reader.element(_CRLS_OCTETS))
        infos = reader.element(_SIGNERS_OCTETS)
        for _container in range(3):
            reader.leave()
        reader.finish()
        signers = tuple(_signer(info) for info in children(infos.content, limit=SIGNERS))
        if infos.tag != der.SET or not signers:
            raise _invalid("the signed data has no signer")
        return certificates, signers


def _digests(element: Element) -> frozenset[Digest]:
    named_ = (digest_of(identified(part)) for part in children(element.content, limit=SIGNERS))
    return frozenset(digest for digest in named_ if digest is not None)


def _certificates(element: Element) -> tuple[x509.Certificate, ...]:
    # RFC5652 10.2.2: other choices than Certificate have context tags and are of no use here.
    # A certificate that does not parse cannot be the one that verifies.
    found: list[x509.Certificate] = []
    for part in children(element.content, limit=CERTIFICATES):
        if part.tag == der.SEQUENCE:
            with suppress(ValueError):
                found.append(_certificate(part.encoded))
    return tuple(found)


def _certificate(encoded: bytes) -> x509.Certificate:
    usual = len(encoded) <= _USUAL_CERTIFICATE_OCTETS
    return _remembered(encoded) if usual else certificate_from(encoded)


@lru_cache(maxsize=256)  # a peer's certificates come again with its next message
def _remembered(encoded: bytes) -> x509.Certificate:
    return certificate_from(encoded)


def _signer(info: Element) -> Signer | DirectError:
    try:
        return _parse_signer(info)
    except DirectError as error:
        return error


def _parse_signer(info: Element) -> Signer:
    # SignerInfo ::= SEQUENCE { version, sid, digestAlgorithm, signedAttrs [0] OPTIONAL,
    #     signatureAlgorithm, signature, unsignedAttrs [1] OPTIONAL }
    fields = children(info.content, limit=7)
    if len(fields) < 5:
        raise malformed("a signer does not parse")
    if fields[3].tag != SIGNED_ATTRIBUTES:
        # Without them content and attributes can be taken for each other (RFC5652 5.3; the
        # attack of Strenzke 2023). Every S/MIME agent writes them.
        raise _invalid("a signer has no signed attributes")
    if len(fields) < 6:
        raise malformed("a signer does not parse")
    return Signer(
        identifier=fields[1],
        digest_algorithm=identified(fields[2]),
        attributes=parse_attributes(fields[3]),
        signature_algorithm=identified(fields[4]),
        signature=octets(fields[5]),
    )


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.SIGNATURE_INVALID, detail)
