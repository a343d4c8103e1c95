"""The files in a ZIP archive: where they lie, and what they inflate to.

Pure; streaming: the archive is read forwards, by an iterator that can be had anew, and no more of
it is held than its directory. What could be meant to harm is refused: too many files, files that
overlap, that inflate to more than they say or than is allowed, that are encrypted, or whose names
lead out of the archive. An archive within the archive is a file like any other.

Standards:
    ZIP     APPNOTE 6.3: 4.3.6 to 4.3.16 (structure), 4.4.4 (flags), 4.4.5 (methods); no ZIP64
    RFC1951 DEFLATE
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from certs.errors import DirectError, Reason

__all__ = [
    "Entry",
    "Forward",
    "Octets",
    "contents",
    "entries_of",
    "is_archive",
    "packed",
    "unpacked",
]

ENTRIES_MAX: Final = 1000
DIRECTORY_OCTETS_MAX: Final = 256 * 1024
INFLATED_OCTETS_MAX: Final = 100 * 1024 * 1024
RATIO_MAX: Final = 200  # clinical XML comes to 30
RATIO_FROM_OCTETS: Final = 1024 * 1024  # below this nothing is a bomb
_BLOCK_OCTETS: Final = 64 * 1024
_STORED, _DEFLATED = 0, 8
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_COMMENT_MAX: Final = 0xFFFF
_PACKED: Final = re.compile(r"zip(\d)@(\d{1,10})\+(\d{1,10})")

# The octets of the archive, from its start; each call begins anew.
Octets = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: `path` with "/" and no way out; `offset` of its local header; sizes in octets."""

    path: str
    method: int
    offset: int
    compressed: int
    size: int
    crc: int
    encrypted: bool


def is_archive(start: bytes) -> bool:
    """Say whether octets that begin with `start` may be an archive."""
    return start.startswith(b"PK\x03\x04")


def entries_of(octets: Octets, size: int, folder: str) -> tuple[Entry, ...]:
    """Return the files below `folder`, in the order of the archive; none where there is none.

    `size` is that of the archive. What lies outside of `folder` is not judged.

    Raises:
        DirectError: MESSAGE_MALFORMED; there is such a folder, but the archive cannot be trusted.
    """
    found = _directory(octets, size)
    if found is None:
        return ()
    directory, count = found
    if folder.lower().encode() not in directory.lower():
        return ()
    if count > ENTRIES_MAX or len(directory) == DIRECTORY_OCTETS_MAX:
        raise _refused("too many files")
    listed = sorted(_listed(directory), key=lambda entry: entry.offset)
    for before, after in pairwise(listed):
        if before.offset + _LOCAL.size + before.compressed > after.offset:
            raise _refused("files overlap")
    inside = [e for e in listed if e.path.split("/")[0].lower() == folder.lower()]
    files = [e for e in inside if not e.path.endswith("/")]
    if len({entry.path.lower() for entry in files}) < len(files):
        raise _refused("two files of one name")
    for entry in files:
        _judge(entry)
    if sum(entry.size for entry in files) > INFLATED_OCTETS_MAX:
        raise _refused("too much content")
    return tuple(files)


def contents(octets: Octets, entries: Sequence[Entry]) -> Iterator[tuple[Entry, str, bytes | None]]:
    """Yield for each entry, in order, its blocks one by one, then None once it was good.

    The text is what `unpacked` takes. One pass over the archive.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is not what the directory says.
    """
    forward = Forward(octets())
    for entry in entries:
        forward.skip(entry.offset - forward.position)
        header = _LOCAL.unpack(forward.exactly(_LOCAL.size))
        if header[0] != b"PK\x03\x04":
            raise _refused("no local header")
        forward.skip(header[9] + header[10])
        where = packed(entry.method, forward.position, entry.compressed)
        size, crc = 0, 0
        for block in _inflated(entry.method, forward.blocks(entry.compressed)):
            size, crc = size + len(block), zlib.crc32(block, crc)
            if size > entry.size:
                break
            yield entry, where, block
        if (size, crc) != (entry.size, entry.crc):
            raise _refused("a file is not what the directory says")
        yield entry, where, None


def packed(method: int, start: int, length: int) -> str:
    """Return the name of a stretch of an archive, as an encoding of its octets."""
    return f"zip{method}@{start}+{length}"


def unpacked(name: str, octets: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the file that lies in the stretch `name` of an archive."""
    match = _PACKED.fullmatch(name)
    if match is None:
        return
    method, start, length = map(int, match.groups())
    forward = Forward(octets)
    forward.skip(start)
    yield from _inflated(method, forward.blocks(length))


class Forward:
    """Reads octets forwards only; `position` is how many were passed."""

    def __init__(self, octets: Iterator[bytes]) -> None:
        self._octets = octets
        self._rest = b""
        self.position = 0

    def blocks(self, length: int) -> Iterator[bytes]:
        """Yield the next `length` octets; fewer where there are no more."""
        while length > 0:
            block = self._rest or next(self._octets, b"")
            if not block:
                return
            taken, self._rest = block[:length], block[length:]
            length -= len(taken)
            self.position += len(taken)
            yield taken

    def skip(self, length: int) -> None:
        """Pass over `length` octets.

        Raises:
            DirectError: MESSAGE_MALFORMED; there are fewer.
        """
        if length < 0 or sum(map(len, self.blocks(length))) < length:
            raise _refused("the archive is cut off")

    def exactly(self, length: int) -> bytes:
        """Return the next `length` octets.

        Raises:
            DirectError: MESSAGE_MALFORMED; there are fewer.
        """
        found = b"".join(self.blocks(length))
        if len(found) < length:
            raise _refused("the archive is cut off")
        return found


def _directory(octets: Octets, size: int) -> tuple[bytes, int] | None:
    """Return the central directory, as much as may be, and how many files it says it has."""
    start = max(0, size - _END.size - _COMMENT_MAX)
    forward = Forward(octets())
    forward.skip(start)
    tail = forward.exactly(size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        return None
    _, disk, first_disk, _, count, length, offset, _ = _END.unpack_from(tail, at)
    if disk or first_disk or offset + length > start + at:
        return None
    forward = Forward(octets())
    forward.skip(offset)
    return forward.exactly(min(length, DIRECTORY_OCTETS_MAX)), count


def _listed(directory: bytes) -> Iterator[Entry]:
    at = 0
    while at + _CENTRAL.size <= len(directory):
        fields = _CENTRAL.unpack_from(directory, at)
        if fields[0] != b"PK\x01\x02":
            break
        flags, method, crc, compressed, size = fields[3], fields[4], *fields[7:10]
        name_length, extra, comment, offset = fields[10], fields[11], fields[12], fields[16]
        at += _CENTRAL.size
        name = directory[at : at + name_length]
        at += name_length + extra + comment
        # APPNOTE 4.4.4: bit 11 says UTF-8, bit 0 encrypted.
        text = name.decode("utf-8" if flags & 0x800 else "cp437", "replace")
        path = text.replace("\\", "/")  # XD-003: some makers write backslashes
        yield Entry(path, method, offset, compressed, size, crc, bool(flags & 1))


def _judge(entry: Entry) -> None:
    steps = entry.path.split("/")
    if ".." in steps or "." in steps or "" in steps or "\0" in entry.path:
        raise _refused("a name leads out of the archive")
    if entry.encrypted or entry.method not in (_STORED, _DEFLATED):
        raise _refused("a file is encrypted, or packed in a way of its own")
    if entry.size > max(RATIO_FROM_OCTETS, RATIO_MAX * entry.compressed):
        raise _refused("a file inflates too much")


def _inflated(method: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if method == _STORED:
        yield from blocks
        return
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for block in blocks:
            rest = block
            while rest and not inflating.eof:
                yield inflating.decompress(rest, _BLOCK_OCTETS)
                rest = inflating.unconsumed_tail
        while last := inflating.decompress(b"", _BLOCK_OCTETS):
            yield last
    except zlib.error as error:
        raise _refused("a file does not inflate") from error


def _refused(text: str) -> DirectError:
    return DirectError(Reason.MESSAGE_MALFORMED, f"archive: {text}")
