"""Read BER and DER, bounded, from octets that arrive in pieces.

Pure. Two readers: `Reader` pulls headers off a stream and hands large strings on in pieces, so a
message of any size passes in constant memory; `children` walks a small element already read. What
`Reader.element` returns has definite lengths throughout, whatever the sender wrote; an element
without an indefinite length in it keeps its very octets, as certificates and signed attributes
must.

Standards:
    X690  section 8.1 (identifier, length, end-of-contents), 8.7 and 8.21 (constructed strings)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from certs.cms import der
from certs.errors import DirectError, Reason

__all__ = [
    "Element",
    "Octets",
    "Reader",
    "canonical",
    "children",
    "leading",
    "malformed",
    "octets",
]

Octets = bytes | bytearray | memoryview

# Budgets for hostile input. CMS itself nests ten deep; names and attributes add a few.
DEPTH: Final = 16
LENGTH_OCTETS: Final = 6
ELEMENTS: Final = 100_000  # looked at because there may be an indefinite length among them
# A constructed string is cut as its maker's buffers were: OpenSSL 1 KiB and up, Bouncy Castle
# 1000. Below an average of 64 octets it only serves to cost time.
FREE_SEGMENTS: Final = 10_000
SEGMENT_OCTETS: Final = 64
GATHERED_OCTETS: Final = 64 * 1024

_CONSTRUCTED: Final = 0x20
_END_OF_CONTENTS: Final = b"\x00\x00"
# What a NamedTuple's own constructor calls; a hundred are made of every message.
_new: Final = tuple.__new__


class _Header(NamedTuple):
    """Identifier and length octets. `length` is None where indefinite."""

    tag: int
    length: int | None
    encoded: bytes


class Element(NamedTuple):
    """One whole element of definite length: its tag, its content, and all of it."""

    tag: int
    content: bytes
    encoded: bytes


def malformed(detail: str) -> DirectError:
    """Return the error for octets that are not what the standard says."""
    return DirectError(Reason.MESSAGE_MALFORMED, detail)


def children(content: bytes, *, limit: int = 64) -> list[Element]:
    """Return the elements that `content`, of an element from `Reader.element`, consists of.

    Raises:
        DirectError: MESSAGE_MALFORMED; they do not fill it exactly, or are more than `limit`.
    """
    found = leading(content, limit + 1)
    if len(found) > limit:
        raise malformed(f"more than {limit} elements in one place")
    return found


def leading(content: bytes, count: int) -> list[Element]:
    """Return the first `count` elements of `content`, or as many as there are.

    Raises:
        DirectError: MESSAGE_MALFORMED; one of them does not end within `content`.
    """
    found: list[Element] = []
    at, end = 0, len(content)
    while at < end and len(found) < count:
        # Most headers are of two octets, and of recipients of four; a call for each would be a
        # third of all the time here.
        tag, length, start = content[at], content[at + 1] if at + 1 < end else 0x80, at + 2
        if length == 0x82 and tag & 0x1F != 0x1F and at + 4 <= end:
            length, start = content[at + 2] << 8 | content[at + 3], at + 4
        elif length >= 0x80 or tag & 0x1F == 0x1F:
            tag, long, start = _header(content, at)
            if long is None:
                raise malformed("an indefinite length is where none can be")
            length = long
        stop = start + length
        if stop > end:
            raise malformed("an element runs over the end of its container")
        found.append(_new(Element, (tag, content[start:stop], content[at:stop])))
        at = stop
    return found


def octets(element: Element, *, tag: int = der.OCTET_STRING, depth: int = 0) -> bytes:
    """Return the value of the OCTET STRING `element`, primitive or constructed.

    `tag` is the primitive tag, other than OCTET STRING where the type is tagged implicitly.
    """
    if element.tag == tag:
        return element.content
    # X690 8.7.3.2: the segments of a constructed string are OCTET STRINGs, whatever its own tag.
    if element.tag != tag | _CONSTRUCTED or depth > DEPTH:
        raise malformed("an octet string was expected")
    segments = children(element.content, limit=ELEMENTS)
    return b"".join(octets(segment, depth=depth + 1) for segment in segments)


def canonical(element: Element, depth: int = 0) -> bytes:
    """Return `element` in DER: shortest lengths, whole octet strings, sets in order."""
    if depth > DEPTH:
        raise malformed("elements are nested too deep")
    if element.tag == der.OCTET_STRING | _CONSTRUCTED:
        return der.octet_string(octets(element))
    if not element.tag & _CONSTRUCTED:
        return der.tlv(element.tag, element.content)
    parts = [canonical(part, depth + 1) for part in children(element.content, limit=ELEMENTS)]
    return der.set_of(parts) if element.tag == der.SET else der.tlv(element.tag, *parts)


class Reader:
    """Pulls elements off `pieces`; a piece may be reused by its maker once the next is asked for.

    `enter` and `leave` walk into containers, `more` and `peek` look ahead in the present one,
    `element` takes a small element whole, `skip` passes over one and `string` streams a large one.
    """

    def __init__(self, pieces: Iterable[Octets], *, budget: list[int] | None = None) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""
        self._at = 0
        self._before = 0  # octets of the stream before the buffer
        # Where each ends (None: at end-of-contents), and `_end` as it was outside it.
        self._containers: list[tuple[int | None, int | None]] = []
        self._end: int | None = None  # where the innermost of definite length ends
        self._budget = [ELEMENTS] if budget is None else budget

    @property
    def _position(self) -> int:
        return self._before + self._at

    def enter(self, tag: int) -> None:
        """Step into the container `tag`, which must come next."""
        head = self._header()
        if head.tag != tag:
            raise malformed(f"tag {tag:#04x} was expected and {head.tag:#04x} found")
        self._open(head)

    def leave(self) -> None:
        """Step out of the present container, which must be read to its end."""
        if self.more():
            raise malformed("a container has more elements than its type")
        own, outside = self._containers.pop()
        if own is None:
            self._take(2)
        self._end = outside

    def more(self) -> bool:
        """Say whether the present container holds another element."""
        end, _outside = self._containers[-1]
        if end is not None:
            return self._before + self._at < end
        return self._look(2) != _END_OF_CONTENTS

    def peek(self) -> int | None:
        """Return the tag of the next element, or None at the end of the present container."""
        return self._look(1)[0] if self.more() else None

    def element(self, limit: int) -> Element:
        """Return the next element whole, in definite lengths; `limit` is in octets."""
        head = self._header()
        return self._whole(head, limit, 0)

    def skip(self, limit: int) -> None:
        """Pass over the next element; `limit` is in octets."""
        head = self._header()
        if head.length is None:
            self._whole(head, limit, 0)
        elif head.length > limit:
            raise malformed(f"an element is longer than {limit} octets")
        else:
            self._take(head.length)

    def string(self, tag: int) -> Iterator[memoryview]:
        """Yield the value of the next octet string in pieces, each valid until the next.

        `tag` is the primitive tag; the constructed form is read too.
        """
        head = self._header()
        if head.tag == tag:
            yield from self._stream(head)
        elif head.tag == tag | _CONSTRUCTED:
            yield from _gathered(self._segments(head))
        else:
            raise malformed(f"tag {tag:#04x} was expected and {head.tag:#04x} found")

    def finish(self) -> None:
        """Return where nothing but line ends follows what was read."""
        # A binary transfer encoding leaves the line end that closes the mail after the CMS.
        rest = self._buffer[self._at :]
        while not rest.strip(b"\r\n"):
            piece = next(self._pieces, None)
            if piece is None:
                return
            rest = bytes(piece)
        raise malformed("there is more after the end of the CMS object")

    def _whole(self, head: _Header, limit: int, depth: int) -> Element:
        if depth > DEPTH:
            raise malformed("elements are nested too deep")
        if head.length is None:
            content = self._until_end_of_contents(limit, depth)
        else:
            if head.length > limit:
                raise malformed(f"an element is longer than {limit} octets")
            content = self._take(head.length)
            # Only what contains an end-of-contents can contain an indefinite length.
            if not head.tag & _CONSTRUCTED or _END_OF_CONTENTS not in content:
                return _new(Element, (head.tag, content, head.encoded + content))
            rewritten = self._definite(content, depth)
            if rewritten == content:
                return _new(Element, (head.tag, content, head.encoded + content))
            content = rewritten
        return Element(head.tag, content, der.tlv(head.tag, content))

    def _until_end_of_contents(self, limit: int, depth: int) -> bytes:
        parts: list[bytes] = []
        while (inner := self._header()).encoded != _END_OF_CONTENTS:
            self._spend()
            parts.append(self._whole(inner, limit, depth + 1).encoded)
            limit -= len(parts[-1])
        return b"".join(parts)

    def _definite(self, content: bytes, depth: int) -> bytes:
        inner = Reader([content], budget=self._budget)
        parts: list[bytes] = []
        while inner._position < len(content):
            self._spend()
            parts.append(inner._whole(inner._header(), len(content), depth + 1).encoded)
        return b"".join(parts)

    def _spend(self) -> None:
        self._budget[0] -= 1
        if self._budget[0] < 0:
            raise malformed(f"more than {ELEMENTS} elements in indefinite lengths")

    def _segments(self, head: _Header) -> Iterator[memoryview]:
        outermost = len(self._containers)
        self._open(head)
        segments = received = 0
        while len(self._containers) > outermost:
            if not self.more():
                self.leave()
                continue
            segment = self._header()
            segments += 1
            if segments > FREE_SEGMENTS + received // SEGMENT_OCTETS:
                raise malformed("a constructed string is cut into too many segments")
            if segment.tag == der.OCTET_STRING | _CONSTRUCTED:
                self._open(segment)
            elif segment.tag == der.OCTET_STRING:
                received += segment.length or 0
                yield from self._stream(segment)
            else:
                raise malformed("a constructed string holds something else than octet strings")

    def _open(self, head: _Header) -> None:
        if len(self._containers) >= DEPTH:
            raise malformed("elements are nested too deep")
        end = None if head.length is None else self._position + head.length
        self._containers.append((end, self._end))
        if end is not None:
            self._end = end

    def _stream(self, head: _Header) -> Iterator[memoryview]:
        left = head.length or 0
        while left:
            if self._at == len(self._buffer):
                self._next_piece()
            piece = memoryview(self._buffer)[self._at : self._at + left]
            self._at += len(piece)
            left -= len(piece)
            yield piece

    def _header(self) -> _Header:
        # The longest header is one identifier, one length and LENGTH_OCTETS more octets.
        if len(self._buffer) - self._at < 2 + LENGTH_OCTETS:
            self._fill(2 + LENGTH_OCTETS)
        at = self._at
        tag, length, start = _header(self._buffer, at)
        encoded = self._buffer[at:start]
        self._at = start
        if self._end is not None and self._before + start + (length or 0) > self._end:
            raise malformed("an element runs over the end of its container")
        return _new(_Header, (tag, length, encoded))

    def _look(self, count: int) -> bytes:
        if len(self._buffer) - self._at < count:
            self._fill(count)
        found = self._buffer[self._at : self._at + count]
        if len(found) < count:
            raise malformed("the CMS object is cut short")
        return found

    def _take(self, count: int) -> bytes:
        taken = self._look(count)
        self._at += count
        return taken

    def _fill(self, count: int) -> None:
        """Put `count` octets into the buffer, or as many as there are."""
        parts = [self._buffer[self._at :]] if self._at < len(self._buffer) else []
        buffered = sum(map(len, parts))
        while buffered < count and (piece := next(self._pieces, None)) is not None:
            parts.append(bytes(piece))
            buffered += len(piece)
        self._before += self._at
        # A piece that is enough by itself is not copied.
        self._buffer, self._at = parts[0] if len(parts) == 1 else b"".join(parts), 0

    def _next_piece(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise malformed("the CMS object is cut short")
        self._before += len(self._buffer)
        self._buffer, self._at = bytes(piece), 0


def _gathered(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield `pieces`, small ones put together: what comes after pays for each."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(bytes(piece))
        size += len(piece)
        if size >= GATHERED_OCTETS:
            yield memoryview(b"".join(held))
            held, size = [], 0
    if held:
        yield memoryview(b"".join(held))


def _header(data: bytes, at: int) -> tuple[int, int | None, int]:
    """Return tag, length (None: indefinite) and where the content starts."""
    try:
        tag, length = data[at], data[at + 1]
        at += 2
        if tag & 0x1F == 0x1F:
            raise malformed("a tag number is above 30")
        if length < 0x80:
            return tag, length, at
        if length == 0x80:
            if not tag & _CONSTRUCTED:
                raise malformed("a primitive element has an indefinite length")
            return tag, None, at
        size = length & 0x7F
        if size > LENGTH_OCTETS:
            raise malformed("a length takes too many octets")
        if at + size > len(data):
            raise malformed("the CMS object is cut short")
        return tag, int.from_bytes(data[at : at + size], "big"), at + size
    except IndexError:
        raise malformed("the CMS object is cut short") from None
