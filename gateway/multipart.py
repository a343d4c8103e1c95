"""Take a multipart apart on raw octets that arrive in pieces.

Pure. The octets of a part are exactly those between its boundary lines, without the line end
before the second one: what a signature is over (R-016).

Standards:
    RFC2046 section 5.1.1 (boundary delimiter lines)
    RFC1847 section 2.1 (multipart/signed)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from certs.cms.ber import Octets, malformed
from gateway.header import HEADER_OCTETS, end_of_header

__all__ = ["Window"]

# RFC2046 5.1.1: blanks may pad a boundary line.
_AFTER_BOUNDARY: Final = re.compile(rb"(--)?[ \t]*(\r?\n|\Z)")
_LONGEST_PADDING: Final = 128
_SHORT_HEADER_OCTETS: Final = 2048
_NEAR_OCTETS: Final = 2048


class Window:
    """A moving view of a MIME entity. `line_end` and `closed` tell of the last boundary line."""

    def __init__(self, pieces: Iterable[Octets]) -> None:
        self._pieces = iter(pieces)
        self._data = b""
        self._at = 0
        self._ended = False
        self.line_end = b""
        self.closed = False

    def header(self) -> bytes:
        """Return the header that comes next, without the empty line after it.

        Raises:
            DirectError: MESSAGE_MALFORMED; it has no end within HEADER_OCTETS.
        """
        while True:
            # Most headers are short: the long piece is not copied for nothing.
            start = self._data[self._at : self._at + _SHORT_HEADER_OCTETS]
            found = end_of_header(start)
            if found is None:
                start = self._data[self._at : self._at + HEADER_OCTETS + 2]
                found = end_of_header(start)
            if found is not None:
                self._at += found[1]
                return start[: found[0]]
            if self._ended or len(start) > HEADER_OCTETS:
                raise malformed("a header has no end within its limit")
            self._more()

    def part(self, boundary: bytes) -> Iterator[memoryview]:
        """Yield the octets up to the next boundary line, and step over that line.

        Raises:
            DirectError: MESSAGE_MALFORMED; there is no boundary line any more.
        """
        needle = b"\n--" + boundary
        while True:
            found = self._find(needle)
            if found is not None:
                yield from self._up_to(found[0])
                self._at = found[1]
                return
            if self._ended:
                raise malformed("a boundary line is missing")
            # All but what may be the start of a boundary line is the part's.
            yield from self._up_to(len(self._data) - len(needle) - _LONGEST_PADDING - 1)
            self._more()

    def rest(self, limit: int) -> bytes:
        """Return everything to the end.

        Raises:
            DirectError: MESSAGE_MALFORMED; it is more than `limit` octets.
        """
        while not self._ended:
            if len(self._data) - self._at > limit:
                raise malformed("there is too much after the last part")
            self._more()
        return self._data[self._at :]

    def remaining(self) -> Iterator[Octets]:
        """Yield everything to the end in pieces."""
        yield memoryview(self._data)[self._at :]
        yield from self._pieces

    def _find(self, needle: bytes) -> tuple[int, int] | None:
        """Return where the part ends and where the octets after its boundary line start."""
        # The line end before the present position may belong to a boundary line: an empty part.
        at = max(self._at - 1, 0)
        # To look for one octet is ten times as quick as for several, and base64 has no hyphen.
        hyphen = self._data.find(b"-", at)
        if hyphen < 0:
            return None
        at = max(at, hyphen - 1)
        # Close by, as after a short part or none, `find` is quick; that there is none far off is
        # said by `rfind` in a third of the time.
        near = self._data.find(needle, at, at + _NEAR_OCTETS)
        if near < 0 and self._data.rfind(needle, at) < 0:
            return None
        while (at := self._data.find(needle, at)) >= 0:
            after = at + len(needle)
            if not self._ended and len(self._data) - after < _LONGEST_PADDING:
                return None
            match = _AFTER_BOUNDARY.match(self._data, after)
            # A longer boundary may begin with ours.
            if match is not None:
                self.closed = match.group(1) is not None
                self.line_end = match.group(2)
                start = at - 1 if self._data[at - 1 : at] == b"\r" else at
                return max(start, self._at), match.end()
            at = after
        return None

    def _up_to(self, end: int) -> Iterator[memoryview]:
        if end > self._at:
            piece = memoryview(self._data)[self._at : end]
            self._at = end
            yield piece

    def _more(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            self._ended = True
            return
        # One octet stays behind: see `_find`.
        start = max(self._at - 1, 0)
        self._data = b"".join((memoryview(self._data)[start:], piece))
        self._at -= start
