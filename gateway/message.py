"""What a message says of itself, and how one is made ready to be sealed.

Pure. `facts_of` reads the header that counts: the inner one, once a message is open. `prepare`
makes a submission canonical, once, at the edge; after that its octets never change.

Standards:
    RFC5322 section 3.6 (header fields, R-013, R-014)
    RFC8098 section 2 (Disposition-Notification-To and -Options)
    RFC8551 section 3.1 (canonical MIME, 7 bit)
    AS      AS-023 to AS-027, AS-031 and AS-032
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import format_datetime, parsedate_to_datetime
from typing import BinaryIO, Final

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway.canonical import copy_body
from gateway.header import Field, media_type, parse_header, read_header, value_of
from gateway.mailboxes import parse_mailboxes

__all__ = ["Facts", "facts_from", "facts_of", "header_of", "outer_header", "prepare"]

# what may be there once at most. Where it is there twice, readers disagree on which counts.
_ONCE: Final = ("date", "reply-to", "mime-version", "content-transfer-encoding")
# AS-024: no Subject, and nothing else that tells of the content.
_OUTER: Final = frozenset(
    ("mime-version", "from", "to", "cc", "date", "message-id", "in-reply-to", "references")
)
# AS-025; and the trace field of a delivery that is over (RFC5321 4.4).
_DROPPED: Final = frozenset(("bcc", "resent-bcc", "return-path"))
AUTHORS_MAX: Final = 20
_MESSAGE_ID: Final = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True, slots=True)
class Facts:
    """What an authoritative header says.

    `message_id`, `in_reply_to` and `references` have their angle brackets. `report_type` is that
    of a multipart/report. Notification values are those of the Disposition-Notification fields.
    """

    author: DirectAddress
    sender: DirectAddress | None
    to: tuple[DirectAddress, ...]
    cc: tuple[DirectAddress, ...]
    subject: str
    message_id: str | None
    date: datetime | None
    in_reply_to: str | None
    references: tuple[str, ...]
    notification_to: tuple[DirectAddress, ...]
    notification_options: str | None
    report_type: str | None


def header_of(message: BinaryIO) -> bytes:
    """Return the header of `message` from its start, without the empty line after it.

    Raises:
        DirectError: MESSAGE_MALFORMED.
    """
    message.seek(0)
    return read_header(message)


def facts_of(message: BinaryIO, author: DirectAddress | None = None) -> Facts:
    """Return what the header of `message` says; nothing after the header is read.

    `author` is the one that counts of several, where that was decided before.

    Raises:
        DirectError: MESSAGE_MALFORMED; it has not exactly one author, doubles a field that may be
            there once, names a mailbox that is no Direct address, or is too long.
    """
    vouched = None if author is None else author.__eq__
    return facts_from(parse_header(header_of(message)), vouched)


def facts_from(
    fields: Sequence[Field], vouched: Callable[[DirectAddress], bool] | None = None
) -> Facts:
    """Return what these fields, a whole header, say.

    Of several authors (RFC5322 3.6.2) the first who is `vouched` for counts, and where nobody is,
    the first; without `vouched` there must be one.

    Raises:
        DirectError: MESSAGE_MALFORMED; as `facts_of`, but for the length.
    """
    authors = _mailboxes(fields, "from")
    if not authors or (len(authors) > 1 and vouched is None):
        # AS-029 and the binding of the signer need one author.
        raise DirectError(Reason.MESSAGE_MALFORMED, "the message has not exactly one author")
    senders = _mailboxes(fields, "sender")
    if len(senders) > 1:
        raise DirectError(Reason.MESSAGE_MALFORMED, "the message has more than one sender")
    if len(authors) > AUTHORS_MAX or (len(authors) > 1 and not senders):
        raise DirectError(Reason.MESSAGE_MALFORMED, "too many authors, or no sender of several")
    for name in _ONCE:
        value_of(fields, name)
    kind = media_type(fields)
    report = kind.parameters.get("report-type", "").lower()
    ids = _message_ids(value_of(fields, "message-id"))
    replied = _message_ids(value_of(fields, "in-reply-to"))
    return Facts(
        author=next(filter(vouched, authors), authors[0]) if len(authors) > 1 else authors[0],
        sender=senders[0] if senders else None,
        to=_mailboxes(fields, "to"),
        cc=_mailboxes(fields, "cc"),
        subject=_decoded(value_of(fields, "subject") or ""),
        message_id=ids[0] if ids else None,
        date=_date(value_of(fields, "date")),
        in_reply_to=replied[0] if replied else None,
        references=_message_ids(value_of(fields, "references")),
        notification_to=_mailboxes(fields, "disposition-notification-to"),
        notification_options=value_of(fields, "disposition-notification-options"),
        report_type=report or None if kind.name == "multipart/report" else None,
    )


def prepare(source: BinaryIO, out: BinaryIO, *, message_id: str, date: datetime) -> Facts:
    """Write the submitted message `source` to `out` as canonical 7-bit MIME.

    `message_id` (with angle brackets) and `date` go in where the submission has none. A body that
    is canonical already is copied as it is.

    Raises:
        DirectError: MESSAGE_MALFORMED.
    """
    header = header_of(source)
    body = source.tell()
    if not header.isascii():
        # AS-032: a submission with raw UTF-8 in its header needs SMTPUTF8, which Direct has not.
        raise DirectError(Reason.MESSAGE_MALFORMED, "the header is not ASCII")
    fields = parse_header(header)
    dropped = _DROPPED
    if not _message_ids(value_of(fields, "message-id")):
        # AS-027: what stands there cannot be answered (T-18), and is as good as none.
        dropped |= {"message-id"}
    kept = [_canonical(field) for field in fields if field.name not in dropped]
    added = _missing(kept, message_id, date)
    fields = tuple(kept) + parse_header(added)
    facts = facts_from(fields)
    source.seek(body)
    copy_body(source, out, fields)
    return facts


def outer_header(facts: Facts, header: bytes) -> bytes:
    """Return the header to go outside of the sealed message whose own is `header`.

    The fields are byte for byte those inside, and end without the empty line.
    """
    fields = parse_header(header)
    outer = b"".join(field.raw for field in fields if field.name in _OUTER)
    return outer if value_of(fields, "mime-version") else b"MIME-Version: 1.0\r\n" + outer


def _mailboxes(fields: Sequence[Field], name: str) -> tuple[DirectAddress, ...]:
    value = value_of(fields, name)
    return () if value is None else parse_mailboxes(value)


def _message_ids(value: str | None) -> tuple[str, ...]:
    return tuple(_MESSAGE_ID.findall(value or ""))


def _date(value: str | None) -> datetime | None:
    # A date that does not parse decides nothing, and is shown as none.
    try:
        date = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, OverflowError):
        return None
    # RFC5322 3.3: "-0000" says UTC, of unknown place.
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _decoded(value: str) -> str:
    # RFC2047, for display only.
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        return value


def _missing(fields: Sequence[Field], message_id: str, date: datetime) -> bytes:
    names = {field.name for field in fields}
    added = ""
    if "date" not in names:
        added += f"Date: {format_datetime(date)}\r\n"
    if "message-id" not in names:
        # AS-026: before wrapping, so that inner and outer agree.
        added += f"Message-ID: {message_id}\r\n"
    if "mime-version" not in names:
        added += "MIME-Version: 1.0\r\n"
    return added.encode("ascii")


def _canonical(field: Field) -> Field:
    lines = field.raw.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    return Field(field.name, b"\r\n".join(lines) + b"\r\n")
