"""Write DER: tags, lengths and the few types CMS is made of.

Pure. Everything is definite-length, so a reader that refuses BER can read what we make; the caller
knows every length before it writes (two passes).

Standards:
    X690    sections 8 (encoding rules) and 10 to 11 (DER)
    RFC5280 section 4.1.2.5 (UTCTime until 2049)
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

__all__ = [
    "BIT_STRING",
    "GENERALIZED_TIME",
    "INTEGER",
    "NULL",
    "OCTET_STRING",
    "OID",
    "SEQUENCE",
    "SET",
    "UTC_TIME",
    "context",
    "header",
    "integer",
    "octet_string",
    "oid",
    "sequence",
    "set_of",
    "time",
    "tlv",
]

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

NULL: Final = b"\x05\x00"

_CONSTRUCTED: Final = 0x20
_CONTEXT: Final = 0x80


def context(number: int, *, constructed: bool = True) -> int:
    """Return the tag octet of context-specific `[number]`."""
    return _CONTEXT | (_CONSTRUCTED if constructed else 0) | number


def header(tag: int, length: int) -> bytes:
    """Return tag and length octets for a content of `length` octets."""
    if length < 0x80:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return one element whose content is `parts`, one after the other."""
    content = b"".join(parts)
    return header(tag, len(content)) + content


def sequence(*parts: bytes) -> bytes:
    """Return a SEQUENCE of already encoded parts."""
    return tlv(SEQUENCE, *parts)


def set_of(parts: Iterable[bytes], tag: int = SET) -> bytes:
    """Return a SET OF already encoded parts, in DER's order (X690 11.6)."""
    return tlv(tag, *sorted(parts))


def integer(value: int) -> bytes:
    """Return an INTEGER."""
    # The shortest two's complement leaves room for the sign bit, also of negative values.
    bits = value.bit_length() if value >= 0 else (value + 1).bit_length()
    return tlv(INTEGER, value.to_bytes(bits // 8 + 1, "big", signed=True))


def octet_string(content: bytes) -> bytes:
    """Return an OCTET STRING."""
    return tlv(OCTET_STRING, content)


def oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    return tlv(OID, b"".join(map(_base128, (first * 40 + second, *rest))))


def time(moment: datetime) -> bytes:
    """Return `moment`, which is in UTC, as UTCTime until 2049 and GeneralizedTime after."""
    # RFC5652 11.3 and RFC5280 4.1.2.5
    if 1950 <= moment.year < 2050:
        return tlv(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(GENERALIZED_TIME, f"{moment.year:04d}{moment:%m%d%H%M%S}Z".encode())


def _base128(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(0x80 | (value & 0x7F))
    return bytes(reversed(groups))
