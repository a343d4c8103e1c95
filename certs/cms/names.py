"""How CMS names a certificate: by issuer and serial number, or by subject key identifier.

Pure. Both are cut out of the certificate's own octets: a name that is encoded anew need not match
what the peer holds (T-37).

Standards:
    RFC5652 sections 5.3 and 6.2.1 (SignerIdentifier, RecipientIdentifier), 10.2.4
    RFC5280 section 4.2.1.2 (subject key identifier)
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from certs.cms import der
from certs.cms.ber import Element, children, leading, malformed, octets
from certs.errors import DirectError

__all__ = ["Comparable", "comparable", "issuer_and_serial", "key_identifier", "named"]

Comparable = tuple[tuple[frozenset[tuple[bytes, str | bytes]], ...], int]

# DirectoryString and IA5String: UTF8, Printable, T61, IA5, Universal, BMP.
_STRINGS: Final = {
    0x0C: "utf-8",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
_VERSION: Final = der.context(0)
_UNREADABLE: Final = (x509.UnsupportedGeneralNameType, UnsupportedAlgorithm)
_KEY_IDENTIFIER: Final = der.context(0, constructed=False)


@lru_cache(maxsize=256)  # our own certificates, and those of busy peers
def issuer_and_serial(certificate: x509.Certificate) -> bytes:
    """Return the encoded IssuerAndSerialNumber of `certificate`."""
    (body,) = children(certificate.tbs_certificate_bytes, limit=1)
    # RFC5280 4.1: version [0] (absent in v1), serialNumber, signature, issuer.
    fields = leading(body.content, 4)
    first = 1 if fields[0].tag == _VERSION else 0
    return der.sequence(fields[first + 2].encoded, fields[first].encoded)


def key_identifier(certificate: x509.Certificate) -> bytes | None:
    """Return the subject key identifier: the extension's, else the first method of RFC5280.

    None where the certificate has neither, since its key is not one that we can read.
    """
    with suppress(ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, *_UNREADABLE):
        extensions = certificate.extensions
        return extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    with suppress(ValueError, UnsupportedAlgorithm):
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    return None


def comparable(name: bytes) -> Comparable | None:
    """Return an encoded IssuerAndSerialNumber as values to compare, None where it does not parse.

    Peers that take certificates apart write the issuer anew, in other string types and another
    case (T-37). RFC5280 7.1 compares names without regard to either.
    """
    try:
        (whole,) = children(name, limit=1)
        issuer, serial = children(whole.content, limit=2)
        names = (children(relative.content) for relative in children(issuer.content))
        values = tuple(frozenset(map(_value, attributes)) for attributes in names)
    except (DirectError, ValueError):
        return None
    return values, int.from_bytes(serial.content, "big", signed=True)


def named(identifier: Element) -> tuple[bytes | None, bytes | None]:
    """Return the issuer and serial number, or the key identifier, that `identifier` holds.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is neither.
    """
    if identifier.tag == der.SEQUENCE:
        return identifier.encoded, None
    if identifier.tag in (_KEY_IDENTIFIER, der.context(0)):
        return None, octets(identifier, tag=_KEY_IDENTIFIER)
    raise malformed("a certificate is named neither by issuer and serial nor by key identifier")


def _value(attribute: Element) -> tuple[bytes, str | bytes]:
    oid, value = children(attribute.content, limit=2)
    encoding = _STRINGS.get(value.tag)
    if encoding is None:
        return oid.content, value.content
    return oid.content, " ".join(value.content.decode(encoding).casefold().split())
