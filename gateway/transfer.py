"""Content transfer encodings, in pieces.

Pure. Base64 is the dearest step of a large message in Python; here it costs a tenth of that.

Standards:
    RFC2045 sections 6.7 (quoted-printable) and 6.8 (base64)
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, Protocol

import pybase64

from certs.cms.ber import Octets
from certs.errors import DirectError, Reason

__all__ = ["Decoder", "base64_lines", "base64_octets", "decoder_for", "quoted_printable_lines"]

# RFC2045 6.8: lines of at most 76 characters, each from 57 octets.
_LINE_INPUT: Final = 57
_LINE_OUTPUT: Final = 76 + 2
# Lines are cut and joined in blocks that stay in the processor's cache; the empty last field makes
# the last line end too.
_BLOCK_INPUT: Final = _LINE_INPUT * 512
_BLOCK: Final = struct.Struct("76s" * 512 + "0s")
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_OTHERS: Final = bytes(set(range(256)) - set(_ALPHABET))
# RFC2045 6.7: lines have at most 76 characters. We bear with far longer ones.
_LONGEST_LINE: Final = 64 * 1024


class Decoder(Protocol):
    """Undoes one transfer encoding."""

    def feed(self, data: Octets) -> Octets:
        """Return what the next octets decode to.

        Raises:
            DirectError: MESSAGE_MALFORMED.
        """
        ...

    def finish(self) -> Octets:
        """Return what is left at the end.

        Raises:
            DirectError: MESSAGE_MALFORMED; the encoding breaks off.
        """
        ...


def decoder_for(encoding: str) -> Decoder:
    """Return a decoder for the Content-Transfer-Encoding `encoding`, in lower case.

    Raises:
        DirectError: MESSAGE_MALFORMED; there is no such encoding.
    """
    if encoding == "base64":
        return _Base64()
    if encoding == "quoted-printable":
        return _QuotedPrintable()
    if encoding in ("7bit", "8bit", "binary"):
        return _Identity()
    raise DirectError(Reason.MESSAGE_MALFORMED, "the content transfer encoding is unknown")


def base64_lines(pieces: Iterable[Octets]) -> Iterator[bytes]:
    """Yield `pieces` in base64, in lines of 76 characters that each end in CRLF."""
    carried = b""
    for piece in pieces:
        data = memoryview(b"".join((carried, piece)))
        whole = len(data) - len(data) % _LINE_INPUT
        blocks = whole - whole % _BLOCK_INPUT
        for start in range(0, blocks, _BLOCK_INPUT):
            block = pybase64.b64encode(data[start : start + _BLOCK_INPUT])
            yield b"\r\n".join(_BLOCK.unpack(block))
        if blocks < whole:
            yield pybase64.encodebytes(data[blocks:whole]).replace(b"\n", b"\r\n")
        carried = bytes(data[whole:])
    if carried:
        yield pybase64.b64encode(carried) + b"\r\n"


def quoted_printable_lines(pieces: Iterable[Octets]) -> Iterator[bytes]:
    """Yield text in quoted-printable, with canonical line ends."""
    carried = b""
    for piece in pieces:
        text = carried + bytes(piece)
        whole = text.rfind(b"\n") + 1
        carried = text[whole:]
        yield _quoted_printable(text[:whole])
    yield _quoted_printable(carried)


def base64_octets(size: int) -> int:
    """Return how many octets `base64_lines` makes of `size` octets."""
    lines, rest = divmod(size, _LINE_INPUT)
    return lines * _LINE_OUTPUT + ((rest + 2) // 3 * 4 + 2 if rest else 0)


def _quoted_printable(text: bytes) -> bytes:
    # The line ends are those of `text`, but not the ones put in; all become CRLF.
    quoted = binascii.b2a_qp(text.replace(b"\r\n", b"\n"))
    return quoted.replace(b"\n", b"\r\n")


class _Identity:
    def feed(self, data: Octets) -> Octets:
        return data

    def finish(self) -> Octets:
        return b""


class _Base64:
    def __init__(self) -> None:
        self._line = b""  # the last line, as far as it has come
        self._quantum = b""  # of the alphabet, fewer than four
        self._ended = False

    def feed(self, data: Octets) -> Octets:
        text = b"".join((self._line, data)) if self._line else bytes(data)
        whole = text.rfind(b"\n") + 1
        if len(text) - whole > _LONGEST_LINE:
            whole = len(text)  # There is no line to wait for.
        self._line = text[whole:]
        # Lines of whole quanta, as everybody writes them, need no cleaning first. Padding is in
        # the last one.
        padding = text.find(b"=", 0, whole)
        simple = whole if padding < 0 else text.rfind(b"\n", 0, padding) + 1
        if simple and not self._quantum and not self._ended:
            with suppress(binascii.Error):
                decoded = pybase64.b64decode(memoryview(text)[:simple])
                return decoded + self._decode(text[simple:whole]) if simple < whole else decoded
        return self._decode(text[:whole])

    def finish(self) -> Octets:
        decoded = self._decode(self._line)
        if self._quantum:
            raise DirectError(Reason.MESSAGE_MALFORMED, "base64 breaks off")
        return decoded

    def _decode(self, text: bytes) -> bytes:
        # RFC2045 6.8: whatever is not of the alphabet is passed over.
        text = self._quantum + text.translate(None, _OTHERS)
        if self._ended and text:
            raise DirectError(Reason.MESSAGE_MALFORMED, "base64 goes on after its padding")
        whole = len(text) - len(text) % 4
        text, self._quantum = text[:whole], text[whole:]
        self._ended = self._ended or text.endswith(b"=")
        try:
            return pybase64.b64decode(text, validate=True)
        except binascii.Error:
            raise DirectError(Reason.MESSAGE_MALFORMED, "base64 does not decode") from None


class _QuotedPrintable:
    def __init__(self) -> None:
        self._carried = b""

    def feed(self, data: Octets) -> Octets:
        text = self._carried + bytes(data)
        whole = text.rfind(b"\n") + 1
        self._carried = text[whole:]
        if len(self._carried) > _LONGEST_LINE:
            raise DirectError(Reason.MESSAGE_MALFORMED, "a quoted-printable line is too long")
        return binascii.a2b_qp(text[:whole])

    def finish(self) -> Octets:
        return binascii.a2b_qp(self._carried)
