"""RecipientInfo: the content key, wrapped for each recipient and unwrapped with our own keys.

Pure. RSA recipients get key transport, EC and X25519 recipients ephemeral-static key agreement.
Every failure to unwrap ends in a random key, so that only the content can fail (R-026).

Standards:
    RFC5652 section 6.2 (RecipientInfo)
    RFC3560 and RFC4055 section 4 (RSAES-OAEP in CMS and its parameters)
    RFC5753 (ECDH in CMS), RFC8418 (X25519 in CMS), RFC3394 (AES key wrap)
    RFC3218 and RFC8017 section 7.2 (the padding oracle of PKCS#1 v1.5)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from certs.cms import der
from certs.cms.agreement import Agreement, agree_with, agreement_name, agreement_of
from certs.cms.algorithms import (
    MGF1,
    Algorithm,
    Digest,
    KeyTransport,
    identified,
    known_digest,
    mask_digest,
    refused,
)
from certs.cms.ber import Element, children, malformed, octets
from certs.cms.names import comparable, issuer_and_serial, key_identifier, named
from certs.identity import Identity

__all__ = ["Ours", "Recipient", "Wrapped", "find", "key_agreement_name", "wrap"]

_RSA: Final = der.oid("1.2.840.113549.1.1.1")
_OAEP: Final = der.oid("1.2.840.113549.1.1.7")
_SPECIFIED_LABEL: Final = der.oid("1.2.840.113549.1.1.9")

_KEY_TRANSPORT: Final = der.SEQUENCE
_KEY_AGREEMENT: Final = der.context(1)

RECIPIENTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A RecipientInfo we made. `version` is its CMSVersion, `name` that of its algorithm."""

    encoded: bytes
    version: int
    name: str


@dataclass(frozen=True, slots=True)
class Recipient:
    """The RecipientInfo of a message that is for `identity`, not unwrapped yet."""

    identity: Identity
    name: str
    encrypted_key: bytes
    transport: padding.OAEP | None = None
    agreement: Agreement | None = None

    def content_key(self, length: int) -> bytes:
        """Return the content key of `length` octets, or a random one where it does not unwrap."""
        # whoever watches must not learn whether the padding was right. The random key is
        # drawn first, so that both ways do the same work.
        fallback = os.urandom(length)
        try:
            key = self._unwrap()
        except (ValueError, keywrap.InvalidUnwrap):
            return fallback
        return key if len(key) == length else fallback

    def _unwrap(self) -> bytes:
        if self.agreement is None:
            return self.identity.key.unwrap(self.encrypted_key, self.transport)
        return self.agreement.unwrap(self.identity, self.encrypted_key)


def wrap(key: bytes, certificate: x509.Certificate, transport: KeyTransport) -> Wrapped:
    """Return `key`, wrapped for the owner of `certificate`; `transport` goes for RSA only.

    Raises:
        DirectError: CERTIFICATE_UNFIT; the certificate's key can receive none.
    """
    # AS-054: named by issuer and serial number, which every peer can match.
    name = issuer_and_serial(certificate)
    public = certificate.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        algorithm, scheme = _encode_transport(transport)
        encrypted = der.octet_string(public.encrypt(key, scheme or padding.PKCS1v15()))
        encoded = der.sequence(der.integer(0), name, algorithm, encrypted)
        return Wrapped(encoded, 0, transport.value)
    agreed = agree_with(public)
    encoded = der.tlv(
        _KEY_AGREEMENT,
        der.integer(3),
        agreed.originator,
        agreed.algorithm_for(len(key)),
        der.sequence(der.sequence(name, der.octet_string(agreed.wrap(key)))),
    )
    return Wrapped(encoded, 3, agreed.name)


def find(infos: Element, identities: Sequence[Identity]) -> Recipient | None:
    """Return the first RecipientInfo in the SET `infos` that names one of `identities`.

    The recipient is chosen by its name, never by trying keys, and is looked at no further.

    Raises:
        DirectError: MESSAGE_MALFORMED; ALGORITHM_REFUSED where the algorithm for us is not one we
            know, or has parameters that we do not: nothing else is tried instead (R-025).
    """
    if infos.tag != der.SET:
        raise malformed("the recipients are not a set")
    found = children(infos.content, limit=RECIPIENTS)
    if not found:
        raise malformed("the envelope has no recipients")
    ours = Ours(identities)
    for info in found:
        if info.tag == _KEY_TRANSPORT:
            recipient = _transported(children(info.content, limit=4), ours)
        elif info.tag == _KEY_AGREEMENT:
            recipient = _agreed(children(info.content, limit=5), ours)
        else:
            continue  # KEK, password and other recipients are not ours.
        if recipient is not None:
            return recipient
    return None


class Ours:
    """Our identities by both their names; key identifiers are worked out where asked for."""

    def __init__(self, identities: Sequence[Identity]) -> None:
        self._identities = identities
        self._by_serial = {issuer_and_serial(i.certificate): i for i in identities}

    def named(self, identifier: Element) -> Identity | None:
        """Return the identity that `identifier` names, None where it is none of ours.

        Raises:
            DirectError: MESSAGE_MALFORMED; it is no name.
        """
        by_serial, by_key = named(identifier)
        if by_serial is not None:
            return self._by_serial.get(by_serial) or self._by_value(by_serial)
        matching = (i for i in self._identities if key_identifier(i.certificate) == by_key)
        return next(matching, None)

    def _by_value(self, name: bytes) -> Identity | None:
        value = comparable(name)
        if value is None:
            return None
        return next((i for own, i in self._by_serial.items() if comparable(own) == value), None)


def _transported(fields: list[Element], ours: Ours) -> Recipient | None:
    # KeyTransRecipientInfo ::= SEQUENCE { version, rid, keyEncryptionAlgorithm, encryptedKey }
    if len(fields) != 4:
        raise malformed("a key-transport recipient does not parse")
    identity = ours.named(fields[1])
    if identity is None:
        return None
    name, oaep = _decode_transport(identified(fields[2]))
    return Recipient(identity, name, octets(fields[3]), transport=oaep)


def _agreed(fields: list[Element], ours: Ours) -> Recipient | None:
    # KeyAgreeRecipientInfo ::= SEQUENCE { version, originator [0], ukm [1] OPTIONAL,
    #     keyEncryptionAlgorithm, recipientEncryptedKeys }
    if len(fields) not in (4, 5):
        raise malformed("a key-agreement recipient does not parse")
    for entry in children(fields[-1].content, limit=RECIPIENTS):
        parts = children(entry.content, limit=2)
        if len(parts) != 2:
            raise malformed("a key-agreement recipient does not parse")
        identity = ours.named(key_agreement_name(parts[0]))
        if identity is not None:
            agreement = agreement_of(fields[1:-1])
            name = agreement_name(identity.certificate.public_key())
            return Recipient(identity, name, octets(parts[1]), agreement=agreement)
    return None


def key_agreement_name(identifier: Element) -> Element:
    """Return the name in a KeyAgreeRecipientIdentifier, in the form that key transport has.

    Raises:
        DirectError: MESSAGE_MALFORMED.
    """
    # KeyAgreeRecipientIdentifier: rKeyId [0] is a SEQUENCE whose first field is the identifier.
    if identifier.tag != der.context(0):
        return identifier
    fields = children(identifier.content, limit=3)
    if not fields:
        raise malformed("a recipient key identifier is empty")
    return Element(der.context(0, constructed=False), octets(fields[0]), b"")


def _encode_transport(transport: KeyTransport) -> tuple[bytes, padding.OAEP | None]:
    digest = transport.oaep_digest
    if digest is None:
        return der.sequence(_RSA, der.NULL), None
    # RFC4055 4.1: what is a default (SHA-1, its mask, the empty label) is left out.
    parameters = b""
    if digest is not Digest.SHA1:
        hashed = der.sequence(digest.oid, der.NULL)
        parameters = der.tlv(der.context(0), hashed)
        parameters += der.tlv(der.context(1), der.sequence(MGF1, hashed))
    return der.sequence(_OAEP, der.sequence(parameters)), _oaep(digest, digest)


@lru_cache(maxsize=64)  # the same from all who use the defaults
def _decode_transport(algorithm: Algorithm) -> tuple[str, padding.OAEP | None]:
    if algorithm.oid == _RSA:
        return KeyTransport.RSA_PKCS1.value, None
    if algorithm.oid != _OAEP:
        raise refused("the key-encryption algorithm is not one of ours")
    # RFC4055 4.1: absent fields mean SHA-1, MGF1 with SHA-1, and the empty label.
    hashed, mask, label = Digest.SHA1, Digest.SHA1, b""
    parameters = algorithm.parameters
    if parameters is not None and parameters.tag != der.SEQUENCE:
        raise refused("the parameters of RSA-OAEP do not parse")
    for field in children(parameters.content, limit=3) if parameters else ():
        values = children(field.content, limit=1)
        if len(values) != 1:
            raise refused("the parameters of RSA-OAEP do not parse")
        if field.tag == der.context(0):
            hashed = known_digest(values[0])
        elif field.tag == der.context(1):
            mask = mask_digest(values[0])
        elif field.tag == der.context(2):
            label = _label(values[0])
        else:
            raise refused("the parameters of RSA-OAEP are not ones we know")
    scheme = _oaep(hashed, mask)
    if label:
        scheme = padding.OAEP(padding.MGF1(mask.hash), hashed.hash, label)
    return f"rsa-oaep-{hashed.value}", scheme


@cache
def _oaep(hashed: Digest, mask: Digest) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(mask.hash), hashed.hash, None)


def _label(element: Element) -> bytes:
    source = identified(element)
    if source.oid != _SPECIFIED_LABEL or source.parameters is None:
        raise refused("the label of RSA-OAEP is not one we know")
    return octets(source.parameters)
