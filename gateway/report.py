"""multipart/report: what MDN and DSN have in common, built and read.

Pure. Building is exact; reading is tolerant of what deployed systems send (AS-096): any case, extra
blank lines, folding, lines that are no fields. What is read is bounded; the part that matters is
always near the beginning.

Standards:
    RFC6522 section 3 (multipart/report, its parts and their order)
    RFC3464 section 2.1 and RFC8098 section 3.1 (fields in groups, separated by empty lines)
    RFC3834 section 5 (Auto-Submitted)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import BinaryIO, Final

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from gateway.header import end_of_header, media_type, parse_header, read_header, transfer_encoding
from gateway.transfer import decoder_for

__all__ = [
    "Group",
    "Notice",
    "Part",
    "Report",
    "address_of",
    "compose",
    "crlf_lines",
    "one_line",
    "read_report",
]

# How much of a report is read, and how many parts and groups of fields are looked at.
REPORT_OCTETS: Final = 512 * 1024
PARTS: Final = 20
GROUPS: Final = 1000

# RFC5322 2.1.1
LINE_OCTETS: Final = 998

_FOLD: Final = re.compile(r"\r?\n[ \t]+")

Group = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Notice:
    """The header of a report. `about` is the Message-ID it answers, as written."""

    sender: DirectAddress
    recipient: DirectAddress
    subject: str
    message_id: str
    about: str | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """One part to be built: its content type, and its content in lines that end in CRLF."""

    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says: the groups of fields of its machine part, by lower-case name.

    `returned` are the header fields of the message it returns, where it returns one.
    """

    groups: tuple[Group, ...]
    returned: Group


def compose(notice: Notice, report_type: str, boundary: str, parts: Sequence[Part]) -> bytes:
    """Return a whole message: text, machine part, and what else there is, in this order.

    Raises:
        DirectError: MESSAGE_MALFORMED; a value of the header would end its line.
    """
    fields = {
        "Date": format_datetime(notice.now),
        "From": str(notice.sender),
        "To": str(notice.recipient),
        "Message-ID": notice.message_id,
        "Subject": notice.subject,
        # RFC8098 3: both should name the original.
        "In-Reply-To": notice.about,
        "References": notice.about,
        "Auto-Submitted": "auto-replied",
        "MIME-Version": "1.0",
        "Content-Type": f'multipart/report; report-type={report_type};\r\n\tboundary="{boundary}"',
    }
    header = "".join(f"{name}: {_safe(value)}\r\n" for name, value in fields.items() if value)
    delimiter = f"\r\n--{boundary}"
    body = b"".join(
        f"{delimiter}\r\nContent-Type: {part.content_type}\r\n\r\n".encode() + part.content
        for part in parts
    )
    return header.encode("ascii") + body + f"{delimiter}--\r\n".encode()


def crlf_lines(lines: Iterable[str]) -> bytes:
    """Return text lines or fields as octets, each with its CRLF.

    Raises:
        DirectError: MESSAGE_MALFORMED; one would not stay one line of ASCII.
    """
    return "".join(f"{_safe(line)}\r\n" for line in lines).encode("ascii")


def one_line(text: str, octets: int = 300) -> str:
    """Return `text`, which may come from a peer, fit to stand in a field: short printable ASCII."""
    return "".join(c if " " <= c <= "~" else " " for c in text)[:octets].strip()


def read_report(message: BinaryIO, machine_type: str) -> Report:
    """Return what a report says, from its part of type `machine_type`.

    Raises:
        DirectError: MESSAGE_MALFORMED; not a multipart, or without such a part.
    """
    whole = media_type(parse_header(read_header(message)))
    boundary = whole.parameters.get("boundary", "")
    if not whole.name.startswith("multipart/") or not boundary:
        raise _malformed("a report is not a multipart")
    groups: tuple[Group, ...] | None = None
    returned: Group = {}
    for name, content in _parts(message.read(REPORT_OCTETS), boundary.encode("latin-1")):
        if name == machine_type and groups is None:
            groups = tuple(_groups(content))
        elif name in ("text/rfc822-headers", "message/rfc822-headers", "message/rfc822"):
            returned = next(_groups(content), {})
    if groups is None:
        raise _malformed(f"a report has no {machine_type}")
    return Report(groups, returned)


def address_of(value: str | None) -> DirectAddress | None:
    """Return the address in "rfc822; address", or None where there is none that parses.

    RFC3464 2.3.1: the type comes first; systems that leave it out mean rfc822.
    """
    if value is None:
        return None
    kind, separator, rest = value.partition(";")
    if separator and kind.strip().lower() != "rfc822":
        return None
    address = rest if separator else value
    try:
        return parse_address(address.strip().removeprefix("<").removesuffix(">"))
    except DirectError:
        return None


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[str, bytes]]:
    # RFC2046 5.1.1: the line end before a boundary belongs to it; blanks may follow it.
    line = re.compile(rb"(?:\A|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r?\n|\Z)")
    for piece in line.split(body, maxsplit=PARTS)[2::2]:
        entity = piece.removeprefix(b"\r").removeprefix(b"\n")
        found = end_of_header(entity)
        if found is None:
            continue
        try:
            fields = parse_header(entity[: found[0]])
            decoder = decoder_for(transfer_encoding(fields))
            content = bytes(decoder.feed(entity[found[1] :])) + bytes(decoder.finish())
            name = media_type(fields).name
        except DirectError:
            continue
        yield name, content


def _groups(content: bytes) -> Iterator[Group]:
    """Yield each group of fields; of a repeated field the first counts."""
    group: dict[str, str] = {}
    count = 0
    for line in [*_FOLD.sub(" ", content.decode("latin-1")).splitlines(), ""]:
        name, colon, value = line.partition(":")
        if colon:
            group.setdefault(name.strip().lower(), value.strip())
        elif not line.strip() and group:
            yield group
            group, count = {}, count + 1
            if count == GROUPS:
                return


def _safe(value: str) -> str:
    lines = value.split("\r\n\t")
    if not value.isascii() or not all(line.isprintable() for line in lines):
        raise _malformed("a header value has a control or non-ASCII character")
    if any(len(line) > LINE_OCTETS - len("Content-Type: ") for line in lines):
        raise _malformed("a header value is too long")
    return value


def _malformed(detail: str) -> DirectError:
    return DirectError(Reason.MESSAGE_MALFORMED, detail)
