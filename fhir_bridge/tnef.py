"""The files in a `winmail.dat`, the envelope that Outlook and Exchange put attachments in.

Pure; streaming. The envelope stays where it is, in the message: a file is a stretch of it. Nothing
is packed in it, so that it cannot be a bomb. What is not read: the body as RTF, embedded messages
and objects.

Standards:
    MS-OXTNEF   sections 2.1.3 (attributes), 2.1.3.3.15 (attAttachRendData), 2.1.3.4 (properties)
    MS-OXPROPS  PidTagAttachLongFilename, PidTagAttachFilename, PidTagAttachMimeTag
    fhir.md     section 3.3, row on TNEF
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from certs.errors import DirectError, Reason
from fhir_bridge.archive import Forward, packed
from fhir_bridge.binary_rows import TITLE_CHARACTERS, Measure, Measured, clean
from fhir_bridge.headers import decode_charset

__all__ = ["Enclosed", "enclosed_in", "is_tnef"]

FILES_MAX: Final = 100
ATTRIBUTES_MAX: Final = 5000
PROPERTIES_MAX: Final = 1000
VALUE_OCTETS_MAX: Final = 64 * 1024  # of what is read but for files; longer ones are passed over

_SIGNATURE: Final = b"\x78\x9f\x3e\x22"
_HEAD: Final = struct.Struct("<BII")
_ATTACHMENT: Final = 2  # lvlAttachment; lvlMessage is 1
_REND_DATA: Final = 0x00069002  # begins each attachment
_TITLE: Final = 0x00018010
_DATA: Final = 0x0006800F
_PROPERTIES: Final = 0x00069005
_CODEPAGE: Final = 0x00069007
_READ: Final = frozenset({_TITLE, _CODEPAGE})
_LONG_NAME: Final = 0x3707
_SHORT_NAME: Final = 0x3704
_MIME_TAG: Final = 0x370E
_TEXTS: Final = frozenset({_LONG_NAME, _SHORT_NAME, _MIME_TAG})
_OCTETS_OF_FILE: Final = 0x3701  # PidTagAttachDataBinary, where there is no attAttachData
_MULTIPLE: Final = 0x1000
_STRING, _UNICODE, _BINARY = 0x001E, 0x001F, 0x0102
_VARIABLE: Final = frozenset({_STRING, _UNICODE, _BINARY, 0x000D})
_OCTETS: Final = {
    **dict.fromkeys((0x0002, 0x0003, 0x0004, 0x000A, 0x000B), 4),
    **dict.fromkeys((0x0005, 0x0006, 0x0007, 0x0014, 0x0040), 8),
    0x0048: 16,
}


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A file: the stretch of the envelope that it is, as an encoding (see `archive.packed`)."""

    name: str | None
    media_type: str | None
    where: str
    measured: Measured


@dataclass(slots=True)
class _File:
    title: bytes = b""
    texts: dict[int, str] = field(default_factory=dict)
    where: str = ""
    measured: Measured | None = None


def is_tnef(start: bytes) -> bool:
    """Say whether octets that begin with `start` are such an envelope."""
    return start.startswith(_SIGNATURE)


def enclosed_in(blocks: Iterator[bytes]) -> tuple[tuple[Enclosed, ...], bool]:
    """Return the files in order, and whether that is all; of one that is cut off there are none."""
    files: list[_File] = []
    codepage = "cp1252"
    forward = Forward(blocks)
    try:
        forward.skip(6)  # signature and key
        for _ in range(ATTRIBUTES_MAX):
            head = b"".join(forward.blocks(_HEAD.size))
            if len(head) < _HEAD.size or head[0] not in (1, _ATTACHMENT):
                break  # the end; some makers pad it
            level, name, length = _HEAD.unpack(head)
            if level == _ATTACHMENT and (name == _REND_DATA or not files):
                files.append(_File())
            start, value = forward.position, _Value(keep=name in _READ)
            if level == _ATTACHMENT and name == _PROPERTIES:
                _Properties(forward, length, files[-1], codepage).read()
            else:
                value.take(forward, length)
            # 2.1.3.1: a sum of the octets, which many makers get wrong, or leave out at the end;
            # the signature covers all.
            _checksum = b"".join(forward.blocks(2))
            if name == _CODEPAGE:
                codepage = f"cp{int.from_bytes(value.kept[:4], 'little')}"
            elif level == _ATTACHMENT:
                _take(files[-1], name, value, packed(0, start, length))
    except DirectError:
        return (), False
    found = [_enclosed(file, codepage) for file in files if file.measured is not None]
    return tuple(each for each in found[:FILES_MAX] if each is not None), len(found) <= FILES_MAX


class _Value:
    """The octets of one attribute as they pass."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._measure = Measure()
        self.kept = b""

    def take(self, forward: Forward, length: int) -> None:
        for block in forward.blocks(length):
            length -= len(block)
            self._measure.add(block)
            if self._keep and len(self.kept) <= VALUE_OCTETS_MAX:
                self.kept += block
        forward.skip(length)  # which there is not, where it is cut off

    def measured(self) -> Measured:
        return self._measure.result()


def _take(file: _File, name: int, value: _Value, where: str) -> None:
    if name == _TITLE:
        file.title = value.kept
    elif name == _DATA:
        file.where, file.measured = where, value.measured()


def _enclosed(file: _File, codepage: str) -> Enclosed | None:
    if file.measured is None:
        return None
    texts = file.texts
    title = decode_charset(file.title.partition(b"\0")[0], codepage)[0]
    name = clean(texts.get(_LONG_NAME) or texts.get(_SHORT_NAME) or title)
    media_type = texts.get(_MIME_TAG) or None
    return Enclosed(name[:TITLE_CHARACTERS] or None, media_type, file.where, file.measured)


class _Properties:
    """The properties of an attachment: its names, its type, and perhaps its octets."""

    def __init__(self, forward: Forward, length: int, file: _File, codepage: str) -> None:
        self._forward = forward
        self._end = forward.position + length
        self._file = file
        self._codepage = codepage

    def read(self) -> None:
        """Take what is wanted, as far as it can be read, and pass over the rest.

        Raises:
            DirectError: MESSAGE_MALFORMED; there is no rest.
        """
        with suppress(DirectError):
            for _ in range(min(self._number(), PROPERTIES_MAX)):
                self._property()
        self._forward.skip(self._end - self._forward.position)

    def _property(self) -> None:
        kind, name = struct.unpack("<HH", self._exactly(4))
        if name >= 0x8000:
            # 2.1.3.4: it has a GUID and a number, or a name of its own.
            self._exactly(16)
            by_name, size = self._number(), self._number()
            self._skip(size + -size % 4 if by_name else 0)
        base = kind & ~_MULTIPLE
        several = kind & _MULTIPLE or base in _VARIABLE
        for _ in range(min(self._number(), PROPERTIES_MAX) if several else 1):
            fixed = _OCTETS.get(base)
            self._value(base, name, self._number() if fixed is None else fixed)

    def _value(self, kind: int, name: int, size: int) -> None:
        start = self._forward.position
        if name in _TEXTS and kind in (_STRING, _UNICODE) and size <= VALUE_OCTETS_MAX:
            charset = "utf-16-le" if kind == _UNICODE else self._codepage
            text = decode_charset(self._exactly(size), charset)[0]
            self._file.texts[name] = text.partition("\0")[0]
        elif kind == _BINARY and name == _OCTETS_OF_FILE and start + size <= self._end:
            value = _Value(keep=False)
            value.take(self._forward, size)
            if self._file.measured is None:
                self._file.where = packed(0, start, size)
                self._file.measured = value.measured()
        else:
            self._skip(size)
        self._skip(-size % 4)

    def _number(self) -> int:
        return int.from_bytes(self._exactly(4), "little")

    def _exactly(self, size: int) -> bytes:
        self._require(size)
        return self._forward.exactly(size)

    def _skip(self, size: int) -> None:
        self._require(size)
        self._forward.skip(size)

    def _require(self, size: int) -> None:
        if self._forward.position + size > self._end:
            raise DirectError(Reason.MESSAGE_MALFORMED, "tnef: a property has no end")
