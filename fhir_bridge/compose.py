"""Write a message as RFC 5322 and MIME, streaming.

Pure: everything that varies (Message-ID, date, boundary) is an argument. Nothing that holds CR,
LF or NUL becomes a header field: such a value raises.

Standards:
    RFC5322 sections 2.1.1 (line lengths), 2.2.3 (folding), 3.6 (fields; References)
    RFC2045, RFC2046, RFC2047 (encoded words), RFC2183 (disposition), RFC2231 (file names)
    DNIG    Implementation Guide for Delivery Notification in Direct, section 1.3
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import quote

import pybase64

from certs.errors import DirectError, Reason
from certs.ports import Writable
from fhir_bridge.headers import Mailbox

__all__ = ["Ancestry", "Attachment", "Letter", "compose"]

LINE_CHARACTERS: Final = 78  # RFC5322 2.1.1, SHOULD
LINE_OCTETS_MAX: Final = 998  # RFC5322 2.1.1, MUST
REFERENCES_MAX: Final = 20  # fhir.md 3.4
_BASE64_LINE: Final = 57  # octets that make a line of 76 characters
_BASE64_BLOCK: Final = _BASE64_LINE * 1024
_WORD_OCTETS: Final = 42  # of UTF-8, so that a word with its frame is within 75 (RFC2047 2)
_BREAKING: Final = re.compile(r"[\x00-\x1f\x7f]")
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~ ]+")
_QP_PLAIN: Final = frozenset(range(0x21, 0x7F)) - {0x3D}


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Where a new message stands in its thread. Message-IDs are with angle brackets."""

    in_reply_to: str | None = None
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attachment:
    """One part beside the body. `blocks` may be called again and yields the octets anew.

    `content_type` may carry parameters. With `inline` it is shown within the HTML body.
    """

    content_type: str
    title: str | None
    content_id: str | None
    inline: bool
    blocks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Letter:
    """A message before it is written. Message-IDs are with angle brackets."""

    sender: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    subject: str
    message_id: str
    date: datetime
    in_reply_to: str | None
    references: tuple[str, ...]
    priority: str | None  # a FHIR request-priority
    wants_dispatched: bool
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...]


def compose(letter: Letter, out: Writable, *, boundary: str) -> None:
    """Write `letter` to `out` with CRLF line ends, in 7-bit.

    `boundary` must not occur in the content; a nested multipart adds a letter to it.

    Raises:
        DirectError: MESSAGE_MALFORMED; a header field would hold a line break or a control.
    """
    for line in _header(letter):
        out.write(line)
    _entity(_Tree(letter, boundary).root(), out)


# An entity: its MIME header lines, and what writes its body.
_Entity = tuple[list[bytes], Callable[[Writable], None]]


def _entity(entity: _Entity, out: Writable) -> None:
    header, write = entity
    for line in header:
        out.write(line)
    out.write(b"\r\n")
    write(out)


@dataclass(frozen=True, slots=True)
class _Tree:
    """The usual nesting: mixed of related of alternative, each only where it is needed."""

    letter: Letter
    boundary: str

    def root(self) -> _Entity:
        letter = self.letter
        inline = [a for a in letter.attachments if a.inline and letter.html is not None]
        others = [a for a in letter.attachments if a not in inline]
        alone = not letter.attachments and letter.html is None
        bodies: list[_Entity] = []
        if letter.text is not None or alone:
            bodies.append(_text(letter.text or "", "plain", ends_message=alone))
        if letter.html is not None:
            html = _text(letter.html, "html", ends_message=letter.text is None and not others)
            related = [html, *(_attached(a) for a in inline)]
            bodies.append(self.multipart("related", "r", related) if inline else html)
        body = self.multipart("alternative", "a", bodies) if len(bodies) > 1 else None
        parts = [body] if body else bodies
        parts.extend(_attached(a) for a in others)
        return parts[0] if len(parts) == 1 and not others else self.multipart("mixed", "m", parts)

    def multipart(self, kind: str, suffix: str, parts: list[_Entity]) -> _Entity:
        boundary = f"{self.boundary}{suffix}"

        def write(out: Writable) -> None:
            for part in parts:
                out.write(f"--{boundary}\r\n".encode())
                _entity(part, out)
                out.write(b"\r\n")  # RFC2046 5.1.1: belongs to the delimiter that follows
            out.write(f"--{boundary}--\r\n".encode())

        # RFC2387 3.1: the type of the root, which is first.
        extra = '; type="text/html"' if kind == "related" else ""
        return [f'Content-Type: multipart/{kind}; boundary="{boundary}"{extra}\r\n'.encode()], write


def _header(letter: Letter) -> Iterator[bytes]:
    yield _addresses("From", (letter.sender,))
    for name, listed in (("To", letter.to), ("Cc", letter.cc)):
        if listed:
            yield _addresses(name, listed)
    yield _field("Subject", _words(letter.subject))
    yield _field("Date", [format_datetime(letter.date)])
    yield _field("Message-ID", [letter.message_id])
    if letter.in_reply_to:
        yield _field("In-Reply-To", [letter.in_reply_to])
    if letter.references:
        # The root of the thread and the nearest ancestors (RFC5322 3.6.4 sets no limit).
        kept = letter.references
        if len(kept) > REFERENCES_MAX:
            kept = (kept[0], *kept[1 - REFERENCES_MAX :])
        yield _field("References", kept)
    for name, value in _PRIORITY.get(letter.priority or "", ()):
        yield _field(name, [value])
    if letter.wants_dispatched:
        # DNIG 1.3: ask for a dispatched notification.
        yield _field("Disposition-Notification-To", [str(letter.sender.address)])
        option = "X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"
        yield _field("Disposition-Notification-Options", [option])
    yield b"MIME-Version: 1.0\r\n"


# fhir.md 3.4
_PRIORITY: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "urgent": (("Importance", "high"), ("X-Priority", "2")),
    "asap": (("X-Priority", "1"), ("Priority", "urgent")),
    "stat": (("X-Priority", "1"), ("Priority", "urgent")),
}


def _field(name: str, words: Iterable[str]) -> bytes:
    """Return a folded field; `words` are separated by one space."""
    lines, line = [], f"{name}:"
    for word in words:
        if _BREAKING.search(word):
            raise DirectError(Reason.MESSAGE_MALFORMED, f"{name} would hold a control character")
        if len(line) + 1 + len(word) > LINE_CHARACTERS and line.strip() and line != f"{name}:":
            lines.append(line)
            line = ""
        line += f" {word}"
    lines.append(line)
    field = "\r\n".join(lines) + "\r\n"
    if any(len(each) > LINE_OCTETS_MAX for each in lines) or not field.isascii():
        raise DirectError(Reason.MESSAGE_MALFORMED, f"{name} cannot be written")
    return field.encode("ascii")


def _words(text: str) -> list[str]:
    """Return unstructured text as words to fold between; in encoded words where it needs them."""
    if _BREAKING.search(text):
        raise DirectError(Reason.MESSAGE_MALFORMED, "text for a header holds a control character")
    words = text.split(" ")
    if text.isascii() and "=?" not in text and all(0 < len(w) <= LINE_CHARACTERS for w in words):
        return words
    return _encoded(text) if text else []


def _encoded(text: str) -> list[str]:
    # RFC2047 5: a multi-octet character is not split between words.
    words, chunk = [], b""
    for character in text:
        octets = character.encode("utf-8")
        if len(chunk) + len(octets) > _WORD_OCTETS:
            words.append(chunk)
            chunk = b""
        chunk += octets
    words.append(chunk)
    return [f"=?utf-8?B?{pybase64.b64encode(word).decode()}?=" for word in words]


def _addresses(name: str, listed: tuple[Mailbox, ...]) -> bytes:
    words: list[str] = []
    for position, mailbox in enumerate(listed):
        comma = "," if position < len(listed) - 1 else ""
        if mailbox.name:
            words.extend(_phrase(mailbox.name))
            words.append(f"<{mailbox.address}>{comma}")
        else:
            words.append(f"{mailbox.address}{comma}")
    return _field(name, words)


def _phrase(name: str) -> list[str]:
    if not name.isascii() or "=?" in name or len(name) > LINE_CHARACTERS:
        return _words(name) if not name.isascii() else _encoded(name)
    if _ATOMS.fullmatch(name) and "  " not in name:
        return name.split(" ")
    return ['"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"']


def _text(text: str, subtype: str, *, ends_message: bool) -> _Entity:
    """Return a text part, exactly: its last line gets no line end that `text` has not."""
    octets = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8")
    charset = "us-ascii" if octets.isascii() else "utf-8"
    # A message ends in CRLF on the wire; in a multipart that CRLF is the delimiter's.
    exact = octets.endswith(b"\n") or not ends_message
    lines = octets.split(b"\n")
    plain = octets.isascii() and exact and all(len(line) <= LINE_OCTETS_MAX for line in lines)
    encoding = "7bit" if plain and b"\x7f" not in octets else "quoted-printable"
    content = b"\r\n".join(lines) if encoding == "7bit" else _quoted_printable(lines, exact)
    return [
        f"Content-Type: text/{subtype}; charset={charset}\r\n".encode(),
        f"Content-Transfer-Encoding: {encoding}\r\n".encode(),
    ], lambda out: _discard(out.write(content))


def _quoted_printable(lines: list[bytes], exact: bool) -> bytes:
    # RFC2045 6.7: at most 76 characters; no white space at the end of a line.
    written: list[bytes] = []
    for line in lines:
        current = b""
        for position, octet in enumerate(line):
            last = position == len(line) - 1
            plain = octet in _QP_PLAIN or (octet in b" \t" and not last)
            piece = bytes([octet]) if plain else b"=%02X" % octet
            if len(current) + len(piece) > 75:
                written.append(current + b"=")
                current = b""
            current += piece
        written.append(current)
    # A soft line break at the very end keeps the text without a final line end.
    return b"\r\n".join(written) + (b"" if exact else b"=\r\n")


def _attached(attachment: Attachment) -> _Entity:
    content_type = attachment.content_type
    if _BREAKING.search(content_type) or not content_type.isascii():
        raise DirectError(Reason.MESSAGE_MALFORMED, "a content type holds a control character")
    # RFC2046 5.2.1: an attached message is not encoded; one that is not 7-bit mail is, because
    # its octets matter more than that rule.
    bare = content_type.startswith("message/") and _is_seven_bit(attachment.blocks())
    disposition = "inline" if attachment.inline else "attachment"
    named = _named("filename", attachment.title) if attachment.title else ""
    header = [
        f"Content-Type: {content_type}\r\n".encode(),
        f"Content-Transfer-Encoding: {'7bit' if bare else 'base64'}\r\n".encode(),
        f"Content-Disposition: {disposition}{named}\r\n".encode(),
    ]
    if attachment.content_id:
        header.append(_field("Content-ID", [f"<{attachment.content_id}>"]))

    def write(out: Writable) -> None:
        for block in attachment.blocks() if bare else _base64(attachment.blocks()):
            out.write(block)

    return header, write


def _named(parameter: str, value: str) -> str:
    """Return the parameter with an ASCII form for old readers and the exact one (RFC2231)."""
    simple = re.sub(r'[^\x20-\x7e]|["\\]', "_", value)
    written = f';\r\n {parameter}="{simple}"'
    if simple == value:
        return written
    # RFC2231 3: sections of a long value, each on its own line.
    encoded = quote(value, safe="")
    pieces = re.findall(r"(?:%..|.){1,20}", encoded)
    if len(pieces) == 1:
        return f"{written};\r\n {parameter}*=utf-8''{encoded}"
    return written + "".join(
        f";\r\n {parameter}*{number}*={chr(39).join(['utf-8', '', piece]) if not number else piece}"
        for number, piece in enumerate(pieces)
    )


def _is_seven_bit(blocks: Iterator[bytes]) -> bool:
    """Say whether the octets are 7-bit lines of at most 998 octets with CRLF."""
    rest = b""
    for block in blocks:
        lines = (rest + block).split(b"\r\n")
        rest = lines.pop()
        if any(len(line) > LINE_OCTETS_MAX or b"\n" in line or b"\r" in line for line in lines):
            return False
        if not block.isascii() or b"\x00" in block or len(rest) > LINE_OCTETS_MAX:
            return False
    return b"\n" not in rest and b"\r" not in rest


def _base64(blocks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        data = rest + block
        whole = len(data) - len(data) % _BASE64_LINE
        rest = data[whole:]
        for start in range(0, whole, _BASE64_BLOCK):
            lines = pybase64.encodebytes(data[start : min(start + _BASE64_BLOCK, whole)])
            yield lines.replace(b"\n", b"\r\n")
    if rest:
        yield pybase64.encodebytes(rest).replace(b"\n", b"\r\n").removesuffix(b"\r\n")


def _discard(_: int) -> None:
    return None
