"""Read the values of mail header fields: words, mailboxes, parameters, Message-IDs, dates.

Pure. Nothing here raises on hostile input: what cannot be read is left as it is, because the raw
message stays the source of truth. Work is linear in the size of the value, which `mime` bounds.

Standards:
    RFC5322 sections 3.2.2 (comments), 3.2.4 (quoted strings), 3.4 (addresses), 3.6.4 (msg-id)
    RFC2047 encoded words
    RFC2045 section 5.1, RFC2231: parameters, their continuations and charsets
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote_to_bytes

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError

__all__ = [
    "Mailbox",
    "decode_charset",
    "decode_words",
    "mailboxes",
    "message_ids",
    "parameters",
    "parse_date",
    "unfold",
]

MAILBOXES_MAX: Final = 1000
PARAMETERS_MAX: Final = 100

_WORD: Final = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?\s]*)\?=")
# Python's own text codecs that no mail is written in, and whose cost may be quadratic.
_NO_CHARSETS: Final = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape"})
_MESSAGE_ID: Final = re.compile(r"<[^<>\s]{1,996}>")
_LEXEME: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[(),:;<>]|[^"(),:;<>]+')
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)
_PARAMETER: Final = re.compile(
    r';\s*([^\s=;*"]+)(?:\*(\d{1,3}))?(\*)?\s*=\s*("(?:[^"\\]|\\.)*"?|[^;]*)'
)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One mailbox of an address list: its display name, possibly empty, and its address."""

    name: str
    address: DirectAddress


def unfold(value: bytes) -> str:
    """Return a field body as one line of text (RFC5322 2.2.3); raw octets are read as UTF-8."""
    text = re.sub(rb"\r?\n(?=[ \t])", b"", value).strip()
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def decode_charset(data: bytes, charset: str) -> tuple[str, bool]:
    """Return `data` as text, and whether nothing had to be replaced."""
    try:
        # `bytes.decode` refuses codecs that are no charset, such as "zlib".
        if codecs.lookup(charset).name not in _NO_CHARSETS:
            return data.decode(charset), True
    except (LookupError, ValueError):  # of which UnicodeError is a kind
        pass
    return data.decode("utf-8", "replace"), False


def decode_words(text: str) -> str:
    """Return `text` with its encoded words (RFC2047) decoded."""
    out: list[str] = []
    pending: list[bytes] = []  # adjacent words of one charset may split a character between them
    charset = ""
    end = 0
    for word in _WORD.finditer(text):
        between = text[end : word.start()]
        # RFC2047 6.2: white space between two encoded words is not shown.
        if not (pending and not between.strip()) or word[1].lower() != charset:
            _flush(out, pending, charset)
            out.append(between if not (end and not between.strip()) else "")
        charset = word[1].lower()
        pending.append(_word_octets(word[2], word[3]))
        end = word.end()
    _flush(out, pending, charset)
    out.append(text[end:])
    return "".join(out)


def mailboxes(value: str) -> tuple[Mailbox, ...]:
    """Return the mailboxes of an address list in order, those of groups too; at most 1,000.

    What is no Direct address (no ASCII addr-spec in a full domain) is left out.
    """
    found: list[Mailbox] = []
    for name, address in _entries(value):
        try:
            found.append(Mailbox(decode_words(name).strip(), parse_address(address.strip())))
        except DirectError:
            continue
        if len(found) == MAILBOXES_MAX:
            break
    return tuple(found)


def message_ids(value: str) -> tuple[str, ...]:
    """Return each Message-ID in `value`, with its angle brackets."""
    return tuple(_MESSAGE_ID.findall(value))


def parse_date(value: str) -> datetime | None:
    """Return the aware time of a Date field, with the offset it was written in; None if bad."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    # RFC5322 3.3: "-0000" is a time in UTC of which the local offset is not known.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """Return the main value in lower case, and the decoded parameters by lower-case name."""
    main, separator, rest = value.partition(";")
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for count, match in enumerate(_PARAMETER.finditer(separator + rest)):
        if count == PARAMETERS_MAX:
            break
        name, index, extended, raw = match.groups()
        pieces.setdefault(name.lower(), []).append(
            (int(index) if index else -1, bool(extended), _unquoted(raw.strip()))
        )
    return main.strip().lower(), {name: _joined(parts) for name, parts in pieces.items()}


def _joined(parts: list[tuple[int, bool, str]]) -> str:
    # RFC2231 3 and 4: sections in order; charset and language stand in the first extended one.
    # A plain form beside an extended one is there for old readers.
    exact = sorted(p for p in parts if p[0] >= 0 or p[1])
    if not any(extended for _, extended, _ in exact):
        return decode_words("".join(text for _, _, text in exact or parts[:1]))
    charset, octets = "utf-8", b""
    for position, (_, extended, text) in enumerate(exact):
        rest = text
        if position == 0 and extended and text.count("'") >= 2:
            charset, _, rest = text.split("'", 2)
        octets += unquote_to_bytes(rest) if extended else rest.encode("utf-8", "replace")
    return decode_charset(octets, charset or "utf-8")[0]


def _entries(value: str) -> Iterator[tuple[str, str]]:
    """Split an address list into (display name, address) pairs."""
    name: list[str] = []
    address: list[str] | None = None  # the inside of <...> once it was seen
    inside = False
    depth = 0
    for lexeme in _LEXEME.findall(value):
        if lexeme == "(":
            depth += 1
        elif lexeme == ")":
            depth = max(0, depth - 1)
        elif depth:
            continue
        elif inside:
            inside = lexeme != ">"
            if inside and address is not None:
                address.append(lexeme)
        elif lexeme == "<":
            inside, address = True, []
        elif lexeme in ",;":
            yield _entry(name, address)
            name, address = [], None
        elif lexeme == ":":
            name = []  # the display name of a group
        else:
            name.append(lexeme)
    yield _entry(name, address)


def _entry(name: list[str], address: list[str] | None) -> tuple[str, str]:
    if address is None:
        return "", "".join(name)
    # RFC5322 4.4: an obsolete route "@a,@b:" before the address is read over.
    return "".join(_unquoted(part) for part in name), "".join(address).rpartition(":")[2]


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return _QUOTED_PAIR.sub(r"\1", text[1:].removesuffix('"'))


def _word_octets(encoding: str, text: str) -> bytes:
    if encoding in "bB":
        data = re.sub(r"[^A-Za-z0-9+/]", "", text)
        data = data[: len(data) - 1] if len(data) % 4 == 1 else data
        return binascii.a2b_base64(data + "=" * (-len(data) % 4))
    # RFC2047 4.2: "_" is a space, whatever the charset.
    return binascii.a2b_qp(text.replace("_", "=20").encode("utf-8", "replace"))


def _flush(out: list[str], pending: list[bytes], charset: str) -> None:
    if pending:
        out.append(decode_charset(b"".join(pending), charset)[0])
        pending.clear()
