"""The files in a `winmail.dat`, the envelope that Outlook and Exchange put attachments in.

Pure; streaming. The envelope stays where it is, in the message: a file is a stretch of it. Nothing
is packed in it, so that it cannot be a bomb. What is not read: the body as RTF, embedded messages
and objects, and files that are nothing but a MAPI property.

Standards:
    MS-OXTNEF   sections 2.1.3 (attributes), 2.1.3.3.15 (attAttachRendData), 2.1.3.4 (properties)
    MS-OXPROPS  PidTagAttachLongFilename, PidTagAttachFilename, PidTagAttachMimeTag
    fhir.md     section 3.3, row on TNEF
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from certs.errors import DirectError
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
_READ: Final = frozenset({_TITLE, _PROPERTIES, _CODEPAGE})
_LONG_NAME: Final = 0x3707
_SHORT_NAME: Final = 0x3704
_MIME_TAG: Final = 0x370E
_MULTIPLE: Final = 0x1000
_STRING, _UNICODE = 0x001E, 0x001F
_VARIABLE: Final = frozenset({_STRING, _UNICODE, 0x0102, 0x000D})
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
    properties: bytes = b""
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
            for block in forward.blocks(length):
                value.add(block)
            if value.size < length:
                return (), False
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
        self.size = 0
        self.kept = b""

    def add(self, block: bytes) -> None:
        self.size += len(block)
        self._measure.add(block)
        if self._keep and self.size <= VALUE_OCTETS_MAX:
            self.kept += block

    def measured(self) -> Measured:
        return self._measure.result()


def _take(file: _File, name: int, value: _Value, where: str) -> None:
    if name == _TITLE:
        file.title = value.kept
    elif name == _PROPERTIES:
        file.properties = value.kept
    elif name == _DATA:
        file.where, file.measured = where, value.measured()


def _enclosed(file: _File, codepage: str) -> Enclosed | None:
    if file.measured is None:
        return None
    texts = dict(_texts(file.properties, codepage))
    title = decode_charset(file.title.partition(b"\0")[0], codepage)[0]
    name = clean(texts.get(_LONG_NAME) or texts.get(_SHORT_NAME) or title)
    media_type = texts.get(_MIME_TAG) or None
    return Enclosed(name[:TITLE_CHARACTERS] or None, media_type, file.where, file.measured)


def _texts(properties: bytes, codepage: str) -> Iterator[tuple[int, str]]:
    """Yield the properties that are texts, as far as they can be read."""
    try:
        at, (count,) = 4, struct.unpack_from("<I", properties)
        for _ in range(min(count, PROPERTIES_MAX)):
            kind, name = struct.unpack_from("<HH", properties, at)
            at = _after_name(properties, at + 4, name)
            base = kind & ~_MULTIPLE
            values = 1
            if kind & _MULTIPLE or base in _VARIABLE:
                (values,) = struct.unpack_from("<I", properties, at)
                at += 4
            for _ in range(min(values, PROPERTIES_MAX)):
                if at > len(properties):
                    return
                size = _OCTETS.get(base)
                if size is None:
                    (size,) = struct.unpack_from("<I", properties, at)
                    at += 4
                if base in (_STRING, _UNICODE):
                    charset = "utf-16-le" if base == _UNICODE else codepage
                    text = decode_charset(properties[at : at + size], charset)[0]
                    yield name, text.partition("\0")[0]
                at += size + -size % 4
    except struct.error:
        return


def _after_name(properties: bytes, at: int, name: int) -> int:
    # 2.1.3.4: a property from 0x8000 on has a GUID and a number, or a name of its own.
    if name < 0x8000:
        return at
    by_name, size = struct.unpack_from("<II", properties, at + 16)
    return at + 24 + (size + -size % 4 if by_name else 0)
