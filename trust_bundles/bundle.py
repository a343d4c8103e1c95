"""Trust bundles: octets to anchors, and back.

Pure. The form is told by structure and never by name or media type. Who signed is judged in
`trust_bundles.signature`; what a bundle says about itself is shown and decides nothing.

Standards:
    TBIG    Direct Trust Bundle Implementation Guide v1.0, sections 2.1 to 2.3
    RFC5652 section 5 (SignedData), RFC7468 (PEM labels)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from certs.cms import der
from certs.cms.algorithms import DATA, SIGNED_DATA
from certs.cms.ber import Reader
from certs.cms.signed import SignedData, Signer
from certs.errors import DirectError
from certs.issuers import name_key, sha256_of
from certs.profile import extensions_of
from trust_bundles.status import BundleError, Status

__all__ = ["BUNDLE_OCTETS", "Bundle", "Envelope", "Form", "Skipped", "read_bundle"]

# The largest published bundle has some 400 anchors in 700 KB.
BUNDLE_OCTETS: Final = 10 * 1024 * 1024
ENTRIES: Final = 10_000
ENTRY_OCTETS: Final = 64 * 1024
METADATA_OCTETS: Final = 64 * 1024
# Path building tries anchors of one name in turn, within a budget: a bundle full of namesakes of
# somebody else's anchor could use it up.
NAMESAKES: Final = 16

_CONTENT: Final = der.context(0)
_CERTIFICATES: Final = der.context(0)
_CRLS: Final = der.context(1)
_CONSTRUCTED: Final = 0x20
_SMALL_OCTETS: Final = 4 * 1024
_SIGNERS_OCTETS: Final = 256 * 1024
_PEM: Final = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,32})-----([A-Za-z0-9+/=\s]*+)-----END \1-----", re.ASCII
)
_PEM_BEGIN: Final = b"-----BEGIN "


class Form(Enum):
    """How a bundle is written."""

    P7B = "p7b"
    P7M = "p7m"
    PEM = "pem"
    DER = "der"


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that is no anchor of ours, and why (TB-009). `subject` None: unreadable."""

    why: str  # "duplicate", "expired", "not-a-ca", "unreadable", "too-many-of-this-name"
    sha256: str
    subject: str | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """The signature around a bundle, unjudged; a signer that does not parse is its error."""

    content: bytes
    certificates: tuple[x509.Certificate, ...]
    signers: tuple[Signer | DirectError, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds. `metadata` is what it says of itself; nothing may rely on it."""

    form: Form
    anchors: tuple[x509.Certificate, ...]
    skipped: tuple[Skipped, ...]
    metadata: str | None = None
    envelope: Envelope | None = None


def read_bundle(data: bytes, *, now: datetime) -> Bundle:
    """Return the bundle in `data`: .p7b, .p7m, PEM of these or of certificates, or one DER.

    An entry that is not yet valid stays: it may be so tomorrow, and path validation looks.

    Raises:
        BundleError: TOO_BIG; INVALID_BUNDLE_FORMAT; EMPTY where no anchor is left.
    """
    if len(data) > BUNDLE_OCTETS:
        raise BundleError(Status.TOO_BIG, f"over {BUNDLE_OCTETS} octets")
    if not data.strip():
        raise BundleError(Status.EMPTY, "no content")
    try:
        form, entries, metadata, envelope = _opened(data)
    except DirectError as error:
        if isinstance(error, BundleError):
            raise
        raise _malformed(error.detail) from None
    anchors, skipped = _sorted_out(entries, now)
    if not anchors:
        raise BundleError(Status.EMPTY, f"none of {len(entries)} entries may be an anchor")
    return Bundle(form, anchors, skipped, metadata, envelope)


_Opened = tuple[Form, list[bytes], str | None, Envelope | None]


def _opened(data: bytes) -> _Opened:
    # RFC7468 5.2: explanatory text may stand before a block. DER begins with a SEQUENCE.
    if data[0] != der.SEQUENCE and _PEM_BEGIN in data:
        return _pem(data)
    try:
        cms = _parts(data)
    except DirectError as error:
        # A certificate is a SEQUENCE too, and begins with another.
        if not _is_certificate(data):
            raise _malformed(f"neither CMS nor a certificate: {error.detail}") from None
        return Form.DER, [data], None, None
    inner = _inner(cms)
    if not cms.signed:
        # A signed bundle without its signers is still none whose certificates are anchors: they
        # are those of who signed (TB-004, T-07).
        if inner is not None:
            raise _malformed("a bundle in a bundle whose signature is gone")
        return Form.P7B, cms.certificates, _text(cms.content), None
    if inner is None:
        raise _malformed("what is signed is no bundle")
    if inner.signed or _inner(inner) is not None:
        raise _malformed("a signed bundle inside a signed bundle")
    return Form.P7M, inner.certificates, _text(inner.content), _envelope(data, cms)


def _pem(data: bytes) -> _Opened:
    blocks = _PEM.findall(data)
    if len(blocks) != data.count(_PEM_BEGIN):
        raise _malformed("a PEM block does not end, or is not base64")
    try:
        decoded = [(label, base64.b64decode(b"".join(b.split()), validate=True))
                   for label, b in blocks]  # fmt: skip
    except binascii.Error:
        raise _malformed("a PEM block is not base64") from None
    labels = {label for label, _ in decoded}
    if labels <= _CMS_LABELS and len(decoded) == 1:
        return _opened(decoded[0][1])
    if not labels <= _CERTIFICATE_LABELS:
        raise _malformed("PEM of something else than certificates or one CMS")
    if len(decoded) > ENTRIES:
        raise _malformed(f"more than {ENTRIES} entries")
    return Form.PEM, [content for _, content in decoded], None, None


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a SignedData. `signed`: it has a SignerInfo."""

    content: bytes | None
    certificates: list[bytes]
    signed: bool


def _parts(data: bytes) -> _Parts:
    reader = Reader([data])
    reader.enter(der.SEQUENCE)
    if reader.element(_SMALL_OCTETS).encoded != SIGNED_DATA:
        raise _malformed("not a SignedData")
    reader.enter(_CONTENT)
    reader.enter(der.SEQUENCE)
    reader.skip(_SMALL_OCTETS)  # version
    reader.skip(_SMALL_OCTETS)  # digestAlgorithms
    content = _content(reader)
    certificates: list[bytes] = []
    if reader.peek() == _CERTIFICATES:
        reader.enter(_CERTIFICATES)
        while reader.more():
            if len(certificates) == ENTRIES:
                raise _malformed(f"more than {ENTRIES} entries")
            certificates.append(reader.element(ENTRY_OCTETS).encoded)
        reader.leave()
    if reader.peek() == _CRLS:
        reader.skip(BUNDLE_OCTETS)
    infos = reader.element(_SIGNERS_OCTETS)
    if infos.tag != der.SET:
        raise _malformed("signerInfos is not a SET")
    for _container in range(3):
        reader.leave()
    reader.finish()
    return _Parts(content, certificates, bool(infos.content))


def _content(reader: Reader) -> bytes | None:
    reader.enter(der.SEQUENCE)
    kind = reader.element(_SMALL_OCTETS).encoded
    content = None
    if reader.peek() is not None:
        if kind != DATA:
            raise _malformed("the content is not of type id-data")
        reader.enter(_CONTENT)
        content = b"".join(bytes(piece) for piece in reader.string(der.OCTET_STRING))
        reader.leave()
    reader.leave()
    return content


def _inner(cms: _Parts) -> _Parts | None:
    """Return the SignedData with certificates that is the content of `cms`, if any."""
    try:
        inner = _parts(cms.content or b"")
    except DirectError:
        return None
    return inner if inner.certificates else None


def _envelope(data: bytes, cms: _Parts) -> Envelope:
    # Read again by what reads the signatures of messages: there is one such reader.
    signed = SignedData([data])
    for _piece in signed.content():
        pass
    certificates, signers = signed.finish()
    return Envelope(cms.content or b"", certificates, signers)


def _text(content: bytes | None) -> str | None:
    """Return metadata for people: UTF-8 without what a terminal obeys."""
    if not content or len(content) > METADATA_OCTETS:
        return None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}"
                   for c in text)  # fmt: skip


def _sorted_out(
    entries: Sequence[bytes], now: datetime
) -> tuple[tuple[x509.Certificate, ...], tuple[Skipped, ...]]:
    """Keep what may be an anchor; say of each other entry why not (TB-009)."""
    anchors: dict[bytes, x509.Certificate] = {}
    namesakes: Counter[object] = Counter()
    skipped: list[Skipped] = []
    for entry in entries:
        cert = _certificate(entry)
        if cert is None:
            skipped.append(Skipped("unreadable", hashlib.sha256(entry).hexdigest(), None))
            continue
        sha256, name = sha256_of(cert), name_key(cert.subject)
        why = "duplicate" if sha256 in anchors else _unfit(cert, now)
        if why is None and namesakes[name] == NAMESAKES:
            why = "too-many-of-this-name"
        if why is None:
            anchors[sha256] = cert
            namesakes[name] += 1
        else:
            skipped.append(Skipped(why, sha256.hex(), cert.subject.rfc4514_string()))
    return tuple(anchors.values()), tuple(skipped)


def _certificate(entry: bytes) -> x509.Certificate | None:
    try:
        cert = x509.load_der_x509_certificate(entry)
        cert.public_key()
        extensions_of(cert)
        cert.subject.rfc4514_string()
        _ = cert.not_valid_after_utc, cert.not_valid_before_utc
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, DirectError):
        return None
    return cert


def _unfit(cert: x509.Certificate, now: datetime) -> str | None:
    if cert.not_valid_after_utc < now:
        return "expired"
    # RFC5280 4.2.1.9 and 4.2.1.3. A version 1 certificate cannot say that it is a CA's, and a
    # bundle is no place to take anybody's word for it.
    values = [extension.value for extension in extensions_of(cert)]
    says_ca = any(isinstance(value, x509.BasicConstraints) and value.ca for value in values)
    usages = [value for value in values if isinstance(value, x509.KeyUsage)]
    return None if says_ca and all(usage.key_cert_sign for usage in usages) else "not-a-ca"


def _is_certificate(data: bytes) -> bool:
    return _certificate(data) is not None


def _malformed(detail: str) -> BundleError:
    return BundleError(Status.INVALID_BUNDLE_FORMAT, detail)


_CMS_LABELS: Final = frozenset({b"PKCS7", b"PKCS #7 SIGNED DATA", b"CMS"})
_CERTIFICATE_LABELS: Final = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})
