"""Message and MIME headers on raw octets: fields as written, and what MIME's own fields say.

Pure. Nothing here is ever written back: a field keeps its octets, folding and all.

Standards:
    RFC5322 sections 2.2 (fields), 3.2.2 (comments) and 3.2.4 (quoted strings)
    RFC2045 sections 5 (Content-Type) and 6 (Content-Transfer-Encoding)
    RFC2183 (Content-Disposition)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Final, NamedTuple

from certs.errors import DirectError, Reason

__all__ = [
    "HEADER_OCTETS",
    "Field",
    "MediaType",
    "end_of_header",
    "media_type",
    "parse_header",
    "part_kind",
    "read_header",
    "transfer_encoding",
    "value_of",
]

HEADER_OCTETS: Final = 64 * 1024
FIELDS: Final = 1000
COMMENT_DEPTH: Final = 8
_CHUNK_OCTETS: Final = 8 * 1024
_USUAL_OCTETS: Final = 256

# RFC5322 2.2: printable ASCII but colon; obsolete syntax (4.5) lets blanks precede the colon.
_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|\Z)")
_END: Final = re.compile(rb"\n\r?\n")
_FOLD: Final = re.compile(r"\r?\n(?=[ \t])")
_PARENTHESIS: Final = re.compile(r"[()]")
_TYPE: Final = re.compile(r"[ \t]*([!#$%&'*+\-.^_`{|}~\w]+/[!#$%&'*+\-.^_`{|}~\w]+)[ \t]*(?=;|\Z)")
_PARAMETER: Final = re.compile(
    r";[ \t]*(?:([!#$%&'*+\-.^_`{|}~\w]+)[ \t]*=[ \t]*"
    r"(?:\"((?:[^\"\\]|\\.)*)\"|([^\s\";]+))[ \t]*)?"
)
_ESCAPE: Final = re.compile(r"\\(.)")


class Field(NamedTuple):
    """One header field: its name in lower case, and all of its octets with the line end."""

    name: str
    raw: bytes

    @property
    def value(self) -> str:
        """The unfolded value; octets outside ASCII stand for themselves (Latin-1)."""
        body = self.raw.partition(b":")[2].decode("latin-1").strip(" \t\r\n")
        return _FOLD.sub("", body) if "\n" in body else body


@dataclass(frozen=True, slots=True)
class MediaType:
    """A Content-Type: type/subtype in lower case, and parameters by lower-case name."""

    name: str
    parameters: Mapping[str, str]


def end_of_header(data: bytes) -> tuple[int, int] | None:
    """Return where the last field ends and the body starts, or None where `data` has no end."""
    if data.startswith((b"\n", b"\r\n")):
        return 0, data.index(b"\n") + 1
    match = _END.search(data)
    return None if match is None else (match.start() + 1, match.end())


def read_header(message: BinaryIO) -> bytes:
    """Return the header of `message`, without the empty line, and leave it at the body.

    Raises:
        DirectError: MESSAGE_MALFORMED; it has no end within HEADER_OCTETS.
    """
    start = message.tell()
    data = b""
    while len(data) <= HEADER_OCTETS:
        chunk = message.read(_CHUNK_OCTETS)
        data += chunk
        found = end_of_header(data)
        if found is not None and found[0] <= HEADER_OCTETS:
            message.seek(start + found[1])
            return data[: found[0]]
        if not chunk:
            # RFC5322 3.5: a message may end with its header.
            return data
    raise _malformed(f"the header is longer than {HEADER_OCTETS} octets")


def parse_header(header: bytes) -> tuple[Field, ...]:
    """Return the fields of `header`, in order.

    Raises:
        DirectError: MESSAGE_MALFORMED; a line is no field, a carriage return or a NUL is in one,
            or there are more than FIELDS.
    """
    if b"\0" in header or header.count(b"\r") != header.count(b"\r\n"):
        raise _malformed("the header has a carriage return or a NUL in it")
    fields: list[Field] = []
    at = 0
    while at < len(header):
        match = _FIELD.match(header, at)
        if match is None:
            raise _malformed("a line of the header is no header field")
        if len(fields) == FIELDS:
            raise _malformed(f"the header has more than {FIELDS} fields")
        fields.append(Field(match[1].decode("ascii").lower(), match[0]))
        at = match.end()
    return tuple(fields)


def value_of(fields: Iterable[Field], name: str) -> str | None:
    """Return the value of the only field `name`, or None where there is none.

    Raises:
        DirectError: MESSAGE_MALFORMED; there are several, and readers would disagree on which
            counts (R-013).
    """
    found = [field for field in fields if field.name == name]
    if len(found) > 1:
        raise _malformed(f"the header has several {name} fields")
    return found[0].value if found else None


def media_type(fields: Iterable[Field]) -> MediaType:
    """Return what Content-Type says; text/plain where it is absent (RFC2045 5.2).

    Raises:
        DirectError: MESSAGE_MALFORMED; it does not parse, is there twice or names a parameter
            twice.
    """
    value = value_of(fields, "content-type")
    if value is None:
        return MediaType("text/plain", {})
    return _media_type(value)


@lru_cache(maxsize=64)  # S/MIME agents write the same few again and again
def _media_type(value: str) -> MediaType:
    text = _without_comments(value)
    match = _TYPE.match(text)
    if match is None:
        raise _malformed("a content type does not parse")
    parameters: dict[str, str] = {}
    at = match.end()
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is None:
            raise _malformed("the parameters of a content type do not parse")
        at = parameter.end()
        if parameter.group(1) is None:
            continue  # A semicolon with nothing after it is common and means nothing.
        name = parameter.group(1).lower()
        if name in parameters:
            raise _malformed("a content type has a parameter twice")
        quoted, token = parameter.group(2), parameter.group(3)
        parameters[name] = token if quoted is None else _ESCAPE.sub(r"\1", quoted)
    return MediaType(match.group(1).lower(), parameters)


def transfer_encoding(fields: Iterable[Field]) -> str:
    """Return the Content-Transfer-Encoding in lower case; "7bit" where it is absent.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is there twice, or its comments do not end.
    """
    value = value_of(fields, "content-transfer-encoding")
    return "7bit" if value is None else _without_comments(value).strip().lower()


def part_kind(header: bytes) -> tuple[MediaType, str]:
    """Return media type and transfer encoding of the MIME part that has this `header`.

    Raises:
        DirectError: as `parse_header`, `media_type` and `transfer_encoding`.
    """
    return _remembered(header) if len(header) <= _USUAL_OCTETS else _part_kind(header)


@lru_cache(maxsize=64)  # an agent writes the same before every signature, and around every message
def _remembered(header: bytes) -> tuple[MediaType, str]:
    return _part_kind(header)


def _part_kind(header: bytes) -> tuple[MediaType, str]:
    fields = parse_header(header)
    return media_type(fields), transfer_encoding(fields)


def _without_comments(value: str) -> str:
    # RFC5322 3.2.2: comments nest, and a parenthesis in a quoted string is none. Such a string is
    # rare in these fields, and left alone.
    if "(" not in value or '"' in value:
        return value
    kept, depth, at = [], 0, 0
    for match in _PARENTHESIS.finditer(value):
        if match[0] == "(":
            if depth == 0:
                kept.append(value[at : match.start()])
            depth += 1
            if depth > COMMENT_DEPTH:
                raise _malformed(f"comments are nested deeper than {COMMENT_DEPTH}")
        elif depth:
            depth -= 1
            at = match.end()
    if depth:
        raise _malformed("a comment does not end")
    return "".join([*kept, value[at:]])


def _malformed(detail: str) -> DirectError:
    return DirectError(Reason.MESSAGE_MALFORMED, detail)
