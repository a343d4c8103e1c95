"""The serial numbers of a CRL's entries, also where there are hundreds of thousands.

Pure. The usual entries have one of a few forms, which one regular expression tells apart: 200,000
of them are read in 0.06 s, where making an object of each takes 0.3 s. A list that holds anything
else is read entry by entry; both ways give the same set, which a test checks.

Standards:
    RFC5280 sections 5.1.2.6 (revokedCertificates) and 5.3 (entry extensions)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from certs.issuers import name_key

__all__ = ["Entries", "read_entries", "serial_contents"]

# In DER: SEQUENCE { serialNumber, revocationDate, crlEntryExtensions OPTIONAL }, where the
# extensions are a reasonCode (but not removeFromCRL) or an invalidityDate, or both.
# What CAs mostly write comes first, since the alternatives are tried in their order.
_LENGTHS: Final = (20, 16, 17, 19, 18, 8, 9, 10, *range(1, 8), *range(11, 16), 21)
_SERIAL: Final = b"|".join(rb"\x%02x.{%d}" % (octets, octets) for octets in _LENGTHS)
_DATE: Final = rb"(?:\x17\x0d.{13}|\x18\x0f.{15})"
_REASON: Final = rb"\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01[\x00-\x07\x09\x0a]"
_INVALIDITY: Final = rb"\x30\x18\x06\x03\x55\x1d\x18\x04\x11\x18\x0f.{15}"
_EXTENSIONS: Final = rb"\x30[\x0c\x1a\x26](?:%s|%s){1,2}" % (_REASON, _INVALIDITY)
_ENTRY: Final = rb"\x30[\x00-\x7f]\x02(%s)%s(?:%s)?" % (_SERIAL, _DATE, _EXTENSIONS)
_USUAL: Final = re.compile(_ENTRY, re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entries:
    """Serial numbers, each as in its INTEGER with the length before it.

    `removed` are those that a delta list takes back. `understood` is False where an entry has a
    critical extension that is not processed: then RFC5280 5.3 lets nobody rely on the list.
    """

    revoked: frozenset[bytes]
    removed: frozenset[bytes] = frozenset()
    understood: bool = True


def read_entries(contents: bytes, parsed: x509.CertificateRevocationList) -> Entries:
    """Return the entries of `parsed`; `contents` is what its revokedCertificates hold.

    Of an indirect list only the entries of its own issuer are returned.

    Raises:
        ValueError: an entry does not parse.
    """
    # What lies between usual entries, before the first and after the last: nothing, if all are.
    parts = _USUAL.split(contents)
    if not any(parts[::2]):
        return Entries(frozenset(parts[1::2]))
    revoked: set[bytes] = set()
    removed: set[bytes] = set()
    understood = own = True
    for entry in parsed:
        target = revoked
        for extension in entry.extensions:
            match extension.value:
                case x509.CRLReason(reason=x509.ReasonFlags.remove_from_crl):
                    target = removed
                case x509.CRLReason():
                    pass
                case x509.CertificateIssuer() as issuer:
                    # RFC5280 5.3.3: it holds for the entries after it, too.
                    own = _names(issuer, parsed.issuer)
                case _ if extension.critical:
                    understood = False
        if own:
            target.add(serial_contents(entry.serial_number))
    return Entries(frozenset(revoked), frozenset(removed), understood)


def _names(issuer: x509.CertificateIssuer, name: x509.Name) -> bool:
    return name_key(name) in map(name_key, issuer.get_values_for_type(x509.DirectoryName))


def serial_contents(serial: int) -> bytes:
    """Return a serial number as it stands in an entry: length, then two's complement."""
    octets = serial.to_bytes((serial + (serial < 0)).bit_length() // 8 + 1, signed=True)
    return bytes([len(octets) & 0xFF]) + octets
