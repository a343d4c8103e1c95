"""What in the octets of a message matters to SMTP: line ends that are none, NUL, and eight bits.

Pure. What we seal is right by construction. What a peer has sealed may hold any octets, and goes
to a mail server as it is but for this: a server that takes LF "." LF for the end of the content, as
Dovecot does, would take what follows for commands of ours; and so would one that drops NUL, which
is left out here.

Standards:
    RFC5321 sections 2.3.8 (a client sends no bare CR or LF) and 4.1.1.4 (end of data)
    RFC6152 section 3 (BODY=8BITMIME)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO, Final

__all__ = ["PLAIN", "LineEnds", "Text", "survey"]

CHUNK_OCTETS: Final = 256 * 1024

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Text:
    """How many bare CR and LF there are, each an octet short of CRLF, and NUL; and is all ASCII.

    `growth` is in octets: what the content is longer by as it goes out.
    """

    bare: int = 0
    eight_bit: bool = False
    nul: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the content goes out as it is."""
        return not self.bare and not self.nul

    @property
    def growth(self) -> int:
        """How many octets more than it has the content takes."""
        return self.bare - self.nul


PLAIN: Final = Text()


def survey(content: BinaryIO) -> Text:
    """Read `content` from where it is to its end, and return what there is."""
    singles = pairs = nul = 0
    eight_bit = False
    last = b""
    while read := content.read(CHUNK_OCTETS):
        chunk = read.replace(b"\0", b"")
        nul += len(read) - len(chunk)
        singles += chunk.count(b"\r") + chunk.count(b"\n")
        pairs += chunk.count(b"\r\n") + (last == b"\r" and chunk[:1] == b"\n")
        eight_bit = eight_bit or not chunk.isascii()
        last = chunk[-1:] or last
    return Text(singles - 2 * pairs, eight_bit, nul)


class LineEnds:
    """Makes every line end CRLF, and leaves NUL out, in chunks of any size."""

    __slots__ = ("_carried",)

    def __init__(self) -> None:
        self._carried = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return the next octets; a CR at the end waits for what may belong to it."""
        data = self._carried + chunk.replace(b"\0", b"")
        self._carried = b"\r" if data.endswith(b"\r") else b""
        return _LINE_END.sub(b"\r\n", data[: len(data) - len(self._carried)])

    def finish(self) -> bytes:
        """Return what is left."""
        return b"\r\n" if self._carried else b""
