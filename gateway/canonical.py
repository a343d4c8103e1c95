"""Make the body of a submitted message canonical: CRLF, 7 bit, no line over 998 octets.

Pure. A body that is so already, as nearly all are, is copied. In another one only the leaves that
offend are encoded anew, base64 or quoted-printable; every other octet stays.

Standards:
    RFC8551 section 3.1 (AS-031); RFC2045 section 6 (transfer encodings)
    RFC5322 section 2.1.1 (line length, R-004); RFC2046 section 5.1.1 (multipart)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from certs.cms.ber import Octets, malformed
from gateway.header import Field, media_type, parse_header, read_header, transfer_encoding
from gateway.transfer import base64_lines, decoder_for, quoted_printable_lines

__all__ = ["copy_body"]

LINE_OCTETS: Final = 998
DEPTH: Final = 20
PARTS: Final = 1000
_CHUNK_OCTETS: Final = 128 * 1024
_READ_OCTETS: Final = 64 * 1024

_AFTER_BOUNDARY: Final = re.compile(rb"(--)?[ \t]*\r?\n?\Z")
# What is inside is covered by a signature, or nothing we can look into.
_OPAQUE: Final = ("multipart/signed", "multipart/encrypted")
_IDENTITY: Final = ("7bit", "8bit", "binary")


def copy_body(source: BinaryIO, out: BinaryIO, fields: Sequence[Field]) -> None:
    """Write `fields`, the empty line, and what follows in `source`, made canonical.

    Raises:
        DirectError: MESSAGE_MALFORMED; parts are nested too deep, are too many, or do not parse.
    """
    start = source.tell()
    if _is_canonical(_chunks(source)):
        source.seek(start)
        out.write(b"".join(field.raw for field in fields) + b"\r\n")
        for chunk in _chunks(source):
            out.write(chunk)
        return
    source.seek(start)
    _Copy(source, out).entity(fields, ())


def _is_canonical(chunks: Iterator[bytes]) -> bool:
    line = 0  # octets of the present line so far
    carried = b""
    for chunk in chunks:
        data = carried + chunk
        carried = data[-1:] if data.endswith(b"\r") else b""
        data = data[: len(data) - len(carried)]
        ends = data.count(b"\r\n")
        if not data.isascii() or b"\0" in data:
            return False
        if data.count(b"\n") != ends or data.count(b"\r") != ends:
            return False
        at = -line
        # From line end to line end, in the longest steps that miss no long line.
        while len(data) - at > LINE_OCTETS + 2:
            found = data.rfind(b"\n", max(at, 0), at + LINE_OCTETS + 2)
            if found < 0:
                return False
            at = found + 1
        last = data.rfind(b"\n", max(at, 0)) + 1
        line = len(data) - (last or at)
    return not carried


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK_OCTETS):
        yield chunk


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A leaf's body: where it starts and ends, what comes after it, and what is wrong with it."""

    start: int
    end: int
    resume: int  # where the boundary line `terminator` starts
    terminator: bytes
    canonical: bool
    text: bool  # only line ends, length and 8-bit octets are wrong


class _Copy:
    """Copies one MIME entity after the other; each method returns the boundary line it met.

    That line is read and not written. It is empty at the end of the message.
    """

    def __init__(self, source: BinaryIO, out: BinaryIO) -> None:
        self._source = source
        self._out = out
        self._parts = 0

    def entity(self, fields: Sequence[Field], stops: tuple[bytes, ...], depth: int = 0) -> bytes:
        """Write the entity with the header `fields`, whose body comes next."""
        self._parts += 1
        if self._parts > PARTS or depth > DEPTH:
            raise malformed("the message has too many parts, or parts nested too deep")
        kind, encoding = media_type(fields), transfer_encoding(fields)
        boundary = kind.parameters.get("boundary", "").encode("latin-1")
        if kind.name in _OPAQUE:
            self._header(fields, None)
            return self._verbatim(stops)
        if encoding in _IDENTITY and kind.name.startswith("multipart/") and boundary:
            self._header(fields, "7bit" if encoding != "7bit" else None)
            return self._multipart(b"--" + boundary, stops, depth)
        if encoding in _IDENTITY and kind.name == "message/rfc822":
            self._header(fields, "7bit" if encoding != "7bit" else None)
            return self.entity(self._next_header(), stops, depth + 1)
        return self._leaf(fields, encoding, stops, is_text=kind.name.startswith("text/"))

    def _multipart(self, delimiter: bytes, stops: tuple[bytes, ...], depth: int) -> bytes:
        own = (delimiter, *stops)
        line = self._verbatim(own)
        while _is_boundary(line, delimiter):
            self._out.write(_with_crlf(line))
            if _is_boundary(line, delimiter, closing=True):
                return self._verbatim(stops)
            line = self.entity(self._next_header(), own, depth + 1)
        return line  # The multipart is not closed: its end is that of what it is in.

    def _verbatim(self, stops: tuple[bytes, ...]) -> bytes:
        for line in self._lines():
            if line.startswith(b"--") and any(_is_boundary(line, stop) for stop in stops):
                return line
            self._out.write(_with_crlf(line))
        return b""

    def _leaf(
        self, fields: Sequence[Field], encoding: str, stops: tuple[bytes, ...], *, is_text: bool
    ) -> bytes:
        leaf = self._measure(stops)
        if leaf.canonical:
            self._header(fields, "7bit" if encoding in ("8bit", "binary") else None)
            self._source.seek(leaf.start)
            for piece in self._octets(leaf.start, leaf.resume):
                self._out.write(piece)
        else:
            decoded = self._decoded(leaf, encoding)
            quoted = encoding == "quoted-printable"
            quoted = quoted or (encoding in _IDENTITY and is_text and leaf.text)
            if quoted:
                self._header(fields, "quoted-printable")
                encoded = quoted_printable_lines(decoded)
            else:
                self._header(fields, "base64")
                encoded = base64_lines(decoded)
            for piece in encoded:
                self._out.write(piece)
            # The boundary line takes back the line end that was not part of the body.
            if leaf.terminator and quoted:
                self._out.write(b"\r\n")
        self._source.seek(leaf.resume + len(leaf.terminator))
        return leaf.terminator

    def _measure(self, stops: tuple[bytes, ...]) -> _Leaf:
        start = at = end = self._source.tell()
        canonical = text = True
        for line in self._lines():
            if line.startswith(b"--") and any(_is_boundary(line, stop) for stop in stops):
                return _Leaf(start, end, at, line, canonical, text)
            body = line.rstrip(b"\r\n")
            odd = b"\r" in body or b"\0" in body
            text = text and not odd
            fits = len(line) <= LINE_OCTETS + 2 and line.endswith(b"\r\n")
            canonical = canonical and fits and body.isascii() and not odd
            at += len(line)
            end = at - len(line) + len(body)
        # RFC2046 5.1.1: the last line end is the boundary's, where there is a boundary.
        return _Leaf(start, at, at, b"", canonical, text)

    def _decoded(self, leaf: _Leaf, encoding: str) -> Iterator[Octets]:
        decoder = decoder_for(encoding)
        for piece in self._octets(leaf.start, leaf.end):
            yield decoder.feed(piece)
        yield decoder.finish()

    def _octets(self, start: int, end: int) -> Iterator[bytes]:
        self._source.seek(start)
        while start < end and (piece := self._source.read(min(_CHUNK_OCTETS, end - start))):
            start += len(piece)
            yield piece

    def _lines(self) -> Iterator[bytes]:
        """Yield line after line; a line beyond _READ_OCTETS comes in parts without a line end."""
        while line := self._source.readline(_READ_OCTETS):
            yield line

    def _next_header(self) -> tuple[Field, ...]:
        header = read_header(self._source)
        if not header.isascii():
            raise malformed("the header of a part is not ASCII")
        return parse_header(header)

    def _header(self, fields: Sequence[Field], encoding: str | None) -> None:
        for field in fields:
            if encoding is None or field.name != "content-transfer-encoding":
                self._out.write(_with_crlf(field.raw))
        if encoding is not None:
            self._out.write(f"Content-Transfer-Encoding: {encoding}\r\n".encode("ascii"))
        self._out.write(b"\r\n")


def _is_boundary(line: bytes, delimiter: bytes, *, closing: bool = False) -> bool:
    if not line.startswith(delimiter):
        return False
    match = _AFTER_BOUNDARY.match(line, len(delimiter))
    return match is not None and (not closing or match.group(1) is not None)


def _with_crlf(lines: bytes) -> bytes:
    return lines.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
