"""Where the parts of a MIME message lie, and what each decodes to.

Pure; streaming: the message is read once, line by line, from an open binary file, and a part is
decoded in blocks, so that memory does not grow with the message. The octets are never copied:
an attachment is a stretch of the stored message. Nothing raises on hostile input; where a limit
is met the rest stays undivided and `Index.partial` says so (fhir.md 3.7).

Standards:
    RFC2045 sections 5.2 (default type) and 6 (content transfer encodings)
    RFC2046 section 5.1: multipart; section 5.2.1: message/rfc822
    RFC2183 Content-Disposition
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import pybase64

from fhir_bridge.archive import unpacked
from fhir_bridge.headers import parameters, unfold

__all__ = ["BLOCK_OCTETS", "Index", "Part", "blocks_of", "decoded", "decoder", "index"]

# fhir.md 3.7
DEPTH_MAX: Final = 20
PARTS_MAX: Final = 1000
# Ours: many times what real headers take.
HEADER_OCTETS_MAX: Final = 64 * 1024
LINE_OCTETS: Final = 64 * 1024
BLOCK_OCTETS: Final = 64 * 1024
BOUNDARY_OCTETS_MAX: Final = 200  # RFC2046 5.1.1 says 70; real ones are longer

_ENCODINGS: Final = frozenset({"7bit", "8bit", "binary", "base64", "quoted-printable"})
_NOT_BASE64: Final = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
)


@dataclass(frozen=True, slots=True)
class Part:
    """One entity: its header, and where its body lies.

    `path` numbers parts as IMAP does ("2.1"); "" is the message. `headers` keeps the raw field
    bodies in order, by lower-case name. `offset` and `length` are octets of the encoded body.
    """

    path: str
    headers: Mapping[str, tuple[bytes, ...]]
    content_type: str
    type_parameters: Mapping[str, str]
    disposition: str
    filename: str | None
    content_id: str | None
    encoding: str
    offset: int
    length: int
    children: tuple[Part, ...]

    @property
    def coding(self) -> str:
        """How its octets are decoded: an encoding that is not known leaves them as they are."""
        return self.encoding if self.encoding in _ENCODINGS else "binary"  # RFC2045 6.4

    def header(self, name: str) -> str | None:
        """Return the first field `name` (in lower case) as one line, or None."""
        values = self.headers.get(name)
        return unfold(values[0]) if values else None

    def leaves(self) -> Iterator[Part]:
        """Yield every part that is not a multipart, in order."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True, slots=True)
class Index:
    """The tree of parts. `partial`: a limit was met."""

    root: Part
    partial: bool


def index(message: BinaryIO) -> Index:
    """Return where each part of `message` lies; it is read from the start, once."""
    message.seek(0)
    return _Scan(message).run()


def decoded(message: BinaryIO, part: Part) -> Iterator[bytes]:
    """Yield the body of `part` without its content transfer encoding, in blocks."""
    return decoder(part.coding, blocks_of(message, part.offset, part.length))


def blocks_of(file: BinaryIO, offset: int, length: int) -> Iterator[bytes]:
    """Yield `length` octets of `file` from `offset` on, in blocks."""
    file.seek(offset)
    while length > 0 and (block := file.read(min(BLOCK_OCTETS, length))):
        length -= len(block)
        yield block


def decoder(encoding: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what `blocks` decode to; an encoding we do not know is passed on as it is.

    A file of an attached archive is two encodings, the archive's own after a space.
    """
    outer, _, inner = encoding.partition(" ")
    if outer == "base64":
        blocks = _from_base64(blocks)
    elif outer == "quoted-printable":
        blocks = _from_quoted_printable(blocks)
    return unpacked(inner, blocks) if inner else blocks


@dataclass(slots=True)
class _Open:
    """An entity whose end was not seen yet; `boundary` while its delimiters are looked for."""

    path: str
    headers: dict[str, tuple[bytes, ...]]
    offset: int
    boundary: bytes | None = None
    children: list[Part] = field(default_factory=list)


class _Scan:
    """One pass over a message. `open` holds the entities around the present line."""

    def __init__(self, message: BinaryIO) -> None:
        self.message = message
        self.position = 0
        self.line_end = 0  # octets of the line end before `position`
        self.open: list[_Open] = []
        self.parts = 0
        self.partial = False

    def run(self) -> Index:
        self.enter("")
        while self.skip() and (line := self.read_line()):
            start, before = self.position - len(line), self.line_end
            self.line_end = len(line) - len(line.rstrip(b"\r\n"))
            found = self.delimiter(line)
            if found is None:
                continue
            level, closing = found
            # RFC2046 5.1.1: the line end before a delimiter belongs to the delimiter.
            while len(self.open) > level + 1:
                self.leave(start - before)
            parent = self.open[level]
            if closing:
                parent.boundary = None  # the rest is its epilogue
            elif self.parts == PARTS_MAX:
                self.partial = True
                break
            else:
                self.enter(f"{parent.path}.{len(parent.children) + 1}".removeprefix("."))
        end = self.message.seek(0, 2)
        while len(self.open) > 1:
            self.leave(end)
        return Index(self.leave(end), self.partial)

    def skip(self) -> bool:
        """Go on to the next line that begins with two hyphens; say whether there is one.

        To read a large attachment by its lines would cost more than to decode it.
        """
        if all(entity.boundary is None for entity in self.open):
            return False
        # What is before the present position decides whether a line begins there.
        data = b"\n" if self.line_end else b" "
        start = self.position - 1
        # To look for one octet is ten times as quick as for several, and base64 has no hyphen.
        while (found := data.find(b"\n--") if b"-" in data else -1) < 0:
            block = self.message.read(BLOCK_OCTETS)
            if not block:
                return False
            kept = data[-3:]  # "\r\n-" may be the start of what is looked for
            start += len(data) - len(kept)
            data = kept + block
        if start + found >= self.position:
            self.line_end = 2 if data[found - 1 : found] == b"\r" else 1
            self.position = start + found + 1
        self.message.seek(self.position)
        return True

    def read_line(self) -> bytes:
        line = self.message.readline(LINE_OCTETS)
        self.position += len(line)
        return line

    def delimiter(self, line: bytes) -> tuple[int, bool] | None:
        """Return which open multipart `line` delimits, innermost first, and whether it closes."""
        if not line.startswith(b"--"):
            return None
        text = line.rstrip()
        for level in range(len(self.open) - 1, -1, -1):
            boundary = self.open[level].boundary
            if boundary is not None and text in (boundary, boundary + b"--"):
                return level, text != boundary
        return None

    def enter(self, path: str) -> None:
        self.parts += 1
        entity = _Open(path, self.read_header(), self.position)
        content_type, given = _content_type(entity.headers)
        boundary = given.get("boundary", "").encode("utf-8", "replace")
        if content_type.startswith("multipart/") and 0 < len(boundary) <= BOUNDARY_OCTETS_MAX:
            if len(self.open) < DEPTH_MAX:
                entity.boundary = b"--" + boundary
            else:
                self.partial = True
        self.open.append(entity)

    def read_header(self) -> dict[str, tuple[bytes, ...]]:
        fields: list[tuple[str, list[bytes]]] = []
        size = 0
        while line := self.read_line():
            if self.delimiter(line):  # a part that ends within its header
                self.position = self.message.seek(self.position - len(line))
                break
            self.line_end = len(line) - len(line.rstrip(b"\r\n"))
            size += len(line)
            if not line.rstrip(b"\r\n"):
                break
            if size > HEADER_OCTETS_MAX:
                self.partial = True
                break
            name, colon, value = line.partition(b":")
            if line[:1] in b" \t":
                if fields:
                    fields[-1][1].append(line)
            elif colon:
                fields.append((name.strip().lower().decode("latin-1"), [value]))
        headers: dict[str, tuple[bytes, ...]] = {}
        for name_, lines in fields:
            headers[name_] = (*headers.get(name_, ()), b"".join(lines))
        return headers

    def leave(self, end: int) -> Part:
        """Close the innermost open entity at `end`, and give it to its parent."""
        entity = self.open.pop()
        part = _part(entity, max(0, end - entity.offset))
        if self.open:
            self.open[-1].children.append(part)
        return part


def _part(entity: _Open, length: int) -> Part:
    content_type, given = _content_type(entity.headers)
    disposition, options = parameters(_first(entity.headers, "content-disposition"))
    return Part(
        path=entity.path or ("" if entity.children else "1"),
        headers=entity.headers,
        content_type=content_type,
        type_parameters=given,
        disposition=disposition,
        filename=options.get("filename") or given.get("name"),
        content_id=_first(entity.headers, "content-id").strip("<> \t") or None,
        encoding=parameters(_first(entity.headers, "content-transfer-encoding"))[0] or "7bit",
        offset=entity.offset,
        length=length,
        children=tuple(entity.children),
    )


def _content_type(headers: Mapping[str, tuple[bytes, ...]]) -> tuple[str, dict[str, str]]:
    content_type, given = parameters(_first(headers, "content-type"))
    # RFC2045 5.2: no or an unreadable type is text in US-ASCII.
    if content_type.count("/") != 1 or " " in content_type:
        return "text/plain", {}
    return content_type, given


def _first(headers: Mapping[str, tuple[bytes, ...]], name: str) -> str:
    values = headers.get(name)
    return unfold(values[0]) if values else ""


def _from_base64(blocks: Iterator[bytes]) -> Iterator[bytes]:
    # RFC2045 6.8: characters outside the alphabet are passed over.
    rest = b""
    for block in blocks:
        data = rest + block.translate(None, _NOT_BASE64)
        whole = len(data) - len(data) % 4
        rest = data[whole:]
        if whole:
            yield pybase64.b64decode(data[:whole])
    if len(rest) > 1:  # a single character is less than one octet
        yield pybase64.b64decode(rest + b"=" * (4 - len(rest)))


def _from_quoted_printable(blocks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        data = rest + block
        # An escape or a soft line break must not be split: cut after a line, or before the
        # last "=" of a line that has no end yet.
        cut = data.rfind(b"\n") + 1 or _before_escape(data)
        rest = data[cut:]
        if cut:
            yield binascii.a2b_qp(data[:cut])
    if rest:
        yield binascii.a2b_qp(rest)


def _before_escape(data: bytes) -> int:
    tail = data.rfind(b"=", max(0, len(data) - 3))
    cut = len(data) if tail < 0 else tail
    # A trailing CR may belong to a line end that is yet to come.
    return cut - 1 if data[cut - 1 : cut] == b"\r" else cut
