"""Signed attributes: the few octets a CMS signature is really over.

Pure.

Standards:
    RFC5652 sections 5.3, 5.4 and 11 (contentType, messageDigest, signingTime)
    RFC8551 section 2.5.2 (SMIMECapabilities)
    RFC5035 (ESS signing certificate)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from certs.cms import der
from certs.cms.algorithms import CIPHERS, DATA, ContentEncryption, Digest, known_digest
from certs.cms.ber import Element, canonical, children, leading, octets
from certs.errors import DirectError, Reason

__all__ = ["SIGNED_ATTRIBUTES", "SignedAttributes", "encode_attributes", "parse_attributes"]

SIGNED_ATTRIBUTES: Final = der.context(0)

_CONTENT_TYPE: Final = der.oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST: Final = der.oid("1.2.840.113549.1.9.4")
_SIGNING_TIME: Final = der.oid("1.2.840.113549.1.9.5")
_CAPABILITIES: Final = der.oid("1.2.840.113549.1.9.15")
_SIGNING_CERTIFICATE: Final = der.oid("1.2.840.113549.1.9.16.2.12")
_SIGNING_CERTIFICATE_V2: Final = der.oid("1.2.840.113549.1.9.16.2.47")

ATTRIBUTES: Final = 32
CAPABILITIES: Final = 256
_USUAL_CAPABILITIES_OCTETS: Final = 512
_TIME: Final = {
    der.UTC_TIME: re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"),
    der.GENERALIZED_TIME: re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"),
}

# RFC8551 2.5.2: what we can decrypt, the preferred first.
_OFFERED: Final = (
    ContentEncryption.AES256_CBC,
    ContentEncryption.AES128_CBC,
    ContentEncryption.AES256_GCM,
    ContentEncryption.AES128_GCM,
)
_ENCODED_CAPABILITIES: Final = der.sequence(*(der.sequence(c.oid) for c in _OFFERED))


@dataclass(frozen=True, slots=True)
class SignedAttributes:
    """The attributes of one signer, checked for shape."""

    message_digest: bytes
    certificate_digest: tuple[Digest, bytes] | None
    capabilities: frozenset[ContentEncryption]
    element: Element
    signing_time: datetime | None

    def encodings(self) -> Iterator[bytes]:
        """Yield the octets that the signature may be over."""
        # RFC5652 5.4: it is over the DER encoding, with the tag of SET OF in place of [0]. What
        # the sender wrote is that, as a rule; some sign what they wrote where it is not.
        as_written = der.tlv(der.SET, self.element.content)
        yield as_written
        in_der = canonical(Element(der.SET, self.element.content, as_written))
        if in_der != as_written:
            yield in_der

    def check(self, digest: bytes, certificate: x509.Certificate) -> None:
        """Return where the attributes are for content of this digest and this signer.

        Raises:
            DirectError: SIGNATURE_INVALID.
        """
        if self.message_digest != digest:
            raise _invalid("the content is not what was signed")
        if self.certificate_digest is None:
            return
        # RFC5035 3: the signer said which certificate it means.
        algorithm, expected = self.certificate_digest
        hashing = hashes.Hash(algorithm.hash)
        hashing.update(certificate.public_bytes(Encoding.DER))
        if hashing.finalize() != expected:
            raise _invalid("the signer meant another certificate")


def encode_attributes(digest: bytes, now: datetime) -> bytes:
    """Return the signed attributes for content of `digest`: the content of the SET, in DER."""
    attributes = (
        _attribute(_CONTENT_TYPE, DATA),
        _attribute(_SIGNING_TIME, der.time(now)),
        _attribute(_MESSAGE_DIGEST, der.octet_string(digest)),
        _attribute(_CAPABILITIES, _ENCODED_CAPABILITIES),
    )
    return b"".join(sorted(attributes))


def parse_attributes(element: Element) -> SignedAttributes:
    """Return the signed attributes in `element`, which has the tag SIGNED_ATTRIBUTES.

    Raises:
        DirectError: SIGNATURE_INVALID where one is missing, doubled or has not one value;
            MESSAGE_MALFORMED.
    """
    found = _single_values(element)
    if found.get(_CONTENT_TYPE) is None:
        raise _invalid("the signed attributes have no content type")
    # RFC5652 11.1: it is the type of the content, which in S/MIME is id-data.
    if found[_CONTENT_TYPE].encoded != DATA:
        raise _invalid("the signed content type is not that of the content")
    if found.get(_MESSAGE_DIGEST) is None:
        raise _invalid("the signed attributes have no message digest")
    moment = found.get(_SIGNING_TIME)
    if moment is not None and moment.tag not in (der.UTC_TIME, der.GENERALIZED_TIME):
        raise _invalid("the signing time is not a time")
    return SignedAttributes(
        message_digest=octets(found[_MESSAGE_DIGEST]),
        certificate_digest=_certificate_digest(found),
        capabilities=_capabilities(found.get(_CAPABILITIES)),
        element=element,
        signing_time=_time(moment),
    )


def _single_values(element: Element) -> dict[bytes, Element]:
    # RFC5652 5.3, 11.1 to 11.3: each type once, and with exactly one value. We ask it of all.
    found: dict[bytes, Element] = {}
    for attribute in children(element.content, limit=ATTRIBUTES):
        fields = children(attribute.content, limit=2)
        if len(fields) != 2 or fields[0].tag != der.OID or fields[1].tag != der.SET:
            raise _invalid("a signed attribute does not parse")
        if fields[0].encoded in found:
            raise _invalid("a signed attribute is there twice")
        values = children(fields[1].content, limit=ATTRIBUTES)
        if len(values) != 1:
            raise _invalid("a signed attribute has not exactly one value")
        found[fields[0].encoded] = values[0]
    return found


def _certificate_digest(found: Mapping[bytes, Element]) -> tuple[Digest, bytes] | None:
    # SigningCertificate ::= SEQUENCE { certs SEQUENCE OF ESSCertID, ... }; the first is the signer.
    value = found.get(_SIGNING_CERTIFICATE_V2) or found.get(_SIGNING_CERTIFICATE)
    if value is None:
        return None
    lists = children(value.content, limit=2)
    identifiers = children(lists[0].content, limit=ATTRIBUTES) if lists else []
    fields = children(identifiers[0].content, limit=3) if identifiers else []
    if not fields:
        raise _invalid("the signing certificate attribute does not parse")
    if _SIGNING_CERTIFICATE_V2 not in found:
        return Digest.SHA1, octets(fields[0])
    # RFC5035 4: hashAlgorithm DEFAULT SHA-256
    if fields[0].tag == der.OCTET_STRING:
        return Digest.SHA256, fields[0].content
    if len(fields) < 2:
        raise _invalid("the signing certificate attribute does not parse")
    return known_digest(fields[0]), octets(fields[1])


def _time(value: Element | None) -> datetime | None:
    # RFC5652 11.3: in UTC, with seconds and without a fraction. It is a claim, for people to read:
    # nothing is decided by it, and what does not parse is passed over.
    if value is None or (match := _TIME[value.tag].fullmatch(value.content)) is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    if value.tag == der.UTC_TIME:
        year += 1900 if year >= 50 else 2000  # RFC5280 4.1.2.5.1
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def _capabilities(value: Element | None) -> frozenset[ContentEncryption]:
    # a preference that its reader is free to pass over, as we do where it does not parse.
    if value is None:
        return frozenset()
    usual = len(value.content) <= _USUAL_CAPABILITIES_OCTETS
    return _remembered(value.content) if usual else _read_capabilities(value.content)


@lru_cache(maxsize=64)  # an agent writes the same in every message
def _remembered(capabilities: bytes) -> frozenset[ContentEncryption]:
    return _read_capabilities(capabilities)


def _read_capabilities(capabilities: bytes) -> frozenset[ContentEncryption]:
    try:
        parts = children(capabilities, limit=CAPABILITIES)
        named = {first.encoded for part in parts for first in leading(part.content, 1)}
    except DirectError:
        return frozenset()
    return frozenset(CIPHERS[oid] for oid in named if oid in CIPHERS)


def _attribute(oid: bytes, value: bytes) -> bytes:
    return der.sequence(oid, der.tlv(der.SET, value))


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.SIGNATURE_INVALID, detail)
