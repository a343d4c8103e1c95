"""What stands in a CMS object, for people: recipients and signers as they are written.

Pure. Decides nothing: `certs.cms.enveloped` and `certs.cms.signed` judge the same octets. Names
and algorithms of others are read with asn1crypto, off the message path, and where that fails they
are shown as octets; nothing here raises for what only people see.

Standards:
    RFC5652 sections 5.3 (SignerInfo), 6.1 and 6.2 (EnvelopedData, RecipientInfo)
    RFC8551 section 2.5 (signing time, SMIMECapabilities)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from asn1crypto import algos as asn1_algos  # type: ignore[import-untyped]  # ships no types
from asn1crypto import cms as asn1_cms
from asn1crypto import core as asn1_core
from cryptography import x509

from certs.cms import der
from certs.cms.ber import Element, Octets, Reader, children
from certs.cms.names import named
from certs.cms.recipients import RECIPIENTS, Ours, key_agreement_name
from certs.cms.signed import Signer
from certs.identity import Identity

__all__ = ["EnvelopeAnatomy", "RecipientAnatomy", "SignerAnatomy", "envelope_in", "signer_in"]

_ORIGINATOR: Final = der.context(0)
_KEY_TRANSPORT: Final = der.SEQUENCE
_KEY_AGREEMENT: Final = der.context(1)
_KINDS: Final = {
    _KEY_TRANSPORT: "key transport",
    _KEY_AGREEMENT: "key agreement",
    der.context(2): "key-encryption key",
    der.context(3): "password",
    der.context(4): "other",
}
# RFC5753 7.1.4 and RFC8418 2.2, which asn1crypto does not name.
_AGREEMENTS: Final = {
    "1.3.133.16.840.63.0.2": "ecdh-sha1kdf",
    "1.3.133.16.840.63.0.3": "cofactor-ecdh-sha1kdf",
    "1.3.132.1.11.1": "ecdh-sha256kdf",
    "1.3.132.1.11.2": "ecdh-sha384kdf",
    "1.3.132.1.11.3": "ecdh-sha512kdf",
    "1.3.132.1.14.1": "cofactor-ecdh-sha256kdf",
    "1.3.132.1.14.2": "cofactor-ecdh-sha384kdf",
    "1.3.132.1.14.3": "cofactor-ecdh-sha512kdf",
    "1.2.840.113549.1.9.16.3.19": "ecdh-hkdf-sha256",
    "1.2.840.113549.1.9.16.3.20": "ecdh-hkdf-sha384",
    "1.2.840.113549.1.9.16.3.21": "ecdh-hkdf-sha512",
}
_UNKNOWN: Final = "unreadable"

_OID_OCTETS: Final = 64
_ALGORITHM_OCTETS: Final = 1024
_ORIGINATOR_OCTETS: Final = 1024 * 1024
_RECIPIENTS_OCTETS: Final = 4 * 1024 * 1024
_SHOWN_OCTETS: Final = 64
# asn1crypto shows names recursively; those of authorities have a few hundred octets.
_NAME_OCTETS: Final = 2048
# What asn1crypto raises where octets are not what it was told.
_UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


@dataclass(frozen=True, slots=True)
class RecipientAnatomy:
    """One recipient as the sender named it; `ours` is our certificate that bears the name."""

    kind: str
    name: str
    algorithm: str
    ours: x509.Certificate | None


@dataclass(frozen=True, slots=True)
class EnvelopeAnatomy:
    """An EnvelopedData or AuthEnvelopedData up to its content."""

    kind: str
    content_encryption: str
    recipients: tuple[RecipientAnatomy, ...]


@dataclass(frozen=True, slots=True)
class SignerAnatomy:
    """One SignerInfo as its maker wrote it; nothing of it is verified."""

    name: str
    digest: str
    signature: str
    signing_time: datetime | None
    capabilities: tuple[str, ...]


def envelope_in(pieces: Iterable[Octets], identities: Sequence[Identity]) -> EnvelopeAnatomy:
    """Return what stands before the content of the CMS object in `pieces`.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is not framed as an EnvelopedData.
    """
    reader = Reader(pieces)
    reader.enter(der.SEQUENCE)
    kind = _called(reader.element(_OID_OCTETS).encoded, asn1_cms.ContentType)
    reader.enter(der.context(0))
    reader.enter(der.SEQUENCE)
    reader.skip(_OID_OCTETS)
    if reader.peek() == _ORIGINATOR:
        reader.skip(_ORIGINATOR_OCTETS)
    infos = reader.element(_RECIPIENTS_OCTETS)
    reader.enter(der.SEQUENCE)
    reader.skip(_OID_OCTETS)
    algorithm = reader.element(_ALGORITHM_OCTETS)
    ours = Ours(identities)
    recipients = [
        recipient
        for info in children(infos.content, limit=RECIPIENTS)
        for recipient in _recipients(info, ours)
    ]
    cipher = _algorithm(algorithm, asn1_algos.EncryptionAlgorithmId)
    return EnvelopeAnatomy(kind, cipher, tuple(recipients))


def signer_in(signer: Signer) -> SignerAnatomy:
    """Return what `signer` says of itself."""
    return SignerAnatomy(
        name=_name(signer.identifier),
        digest=_called(signer.digest_algorithm.oid, asn1_algos.DigestAlgorithmId),
        signature=_called(signer.signature_algorithm.oid, asn1_algos.SignedDigestAlgorithmId),
        signing_time=signer.attributes.signing_time,
        capabilities=tuple(sorted(c.value for c in signer.attributes.capabilities)),
    )


def _recipients(info: Element, ours: Ours) -> Iterator[RecipientAnatomy]:
    kind = _KINDS.get(info.tag, "unknown")
    # KeyTransRecipientInfo ::= SEQUENCE { version, rid, keyEncryptionAlgorithm, encryptedKey }
    # KeyAgreeRecipientInfo ::= SEQUENCE { version, originator [0], ukm [1] OPTIONAL,
    #     keyEncryptionAlgorithm, recipientEncryptedKeys }
    fields = children(info.content, limit=5) if info.tag in (_KEY_TRANSPORT, _KEY_AGREEMENT) else []
    if info.tag == _KEY_TRANSPORT and len(fields) == 4:
        yield _recipient(kind, fields[1], _transport(fields[2]), ours)
    elif info.tag == _KEY_AGREEMENT and len(fields) >= 4:
        for entry in children(fields[-1].content, limit=RECIPIENTS):
            for rid in children(entry.content, limit=2)[:1]:
                name = key_agreement_name(rid)
                yield _recipient(kind, name, _agreement(fields[-2]), ours)
    else:
        yield RecipientAnatomy(kind, "", "", None)


def _recipient(kind: str, rid: Element, algorithm: str, ours: Ours) -> RecipientAnatomy:
    identity = ours.named(rid)
    certificate = identity.certificate if identity else None
    return RecipientAnatomy(kind, _name(rid), algorithm, certificate)


def _name(identifier: Element) -> str:
    """Return issuer and serial number, or the key identifier, as people read them."""
    by_serial, by_key = named(identifier)
    if by_serial is None:
        return f"key identifier {(by_key or b'')[:_SHOWN_OCTETS].hex()}"
    with suppress(*_UNREADABLE):
        if len(by_serial) > _NAME_OCTETS:
            raise ValueError("too long to be shown")
        name = asn1_cms.IssuerAndSerialNumber.load(by_serial)
        serial = format(name["serial_number"].native, "x")
        return f"serial {serial} of {name['issuer'].human_friendly}"
    return f"unreadable name {by_serial[:_SHOWN_OCTETS].hex()}"


def _transport(algorithm: Element) -> str:
    with suppress(*_UNREADABLE):
        parsed = asn1_cms.KeyEncryptionAlgorithm.load(algorithm.encoded)
        name = str(parsed["algorithm"].native)
        if name == "rsaes_oaep":
            digest = parsed["parameters"]["hash_algorithm"]["algorithm"].native
            return f"rsa-oaep-{digest}"
        return {"rsaes_pkcs1v15": "rsa-pkcs1v15"}.get(name, name)
    return _UNKNOWN


def _agreement(algorithm: Element) -> str:
    oid = _algorithm(algorithm, asn1_core.ObjectIdentifier)
    return _AGREEMENTS.get(oid, oid)


def _algorithm(algorithm: Element, names: type[asn1_core.ObjectIdentifier]) -> str:
    """Return what people call the AlgorithmIdentifier; its dotted number where nobody does."""
    fields = children(algorithm.content, limit=2)
    return _called(fields[0].encoded, names) if fields else _UNKNOWN


def _called(oid: bytes, names: type[asn1_core.ObjectIdentifier]) -> str:
    with suppress(*_UNREADABLE):
        name = str(names.load(oid).native)
        return {"tripledes_3key": "des-ede3-cbc"}.get(name, name.replace("_", "-"))
    return _UNKNOWN
