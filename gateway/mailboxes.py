"""Address lists of message headers: which mailboxes a From, To or Cc names.

Pure. Display names are passed over: nothing is ever decided by one.

Standards:
    RFC5322 sections 3.2.2 (comments), 3.2.4 (quoted strings) and 3.4 (mailboxes and groups)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason

__all__ = ["parse_mailboxes"]

_COMMENT_DEPTH: Final = 8
_LEXEME: Final = re.compile(r'\s+|"(?:[^"\\]|\\.)*"|[()<>,;:]|\[[^\[\]]*\]|[^\s"()<>,;:\[\]]+')
_QUOTED_OR_PARENTHESIS: Final = re.compile(r"\\.|[()]")


def parse_mailboxes(text: str) -> tuple[DirectAddress, ...]:
    """Return the mailboxes in the address list `text`, in order; a group is its members.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is not an address list, or names a mailbox that is no
            Direct address.
    """
    found: list[DirectAddress] = []
    words: list[str] = []  # of the entry at hand, since the last comma
    inside: list[str] | None = None  # of the angle brackets, while in them
    bracketed, in_group = False, False
    for lexeme in (*_lexemes(text), ","):
        if inside is not None:
            if lexeme == ">":
                found.append(_mailbox(inside))
                inside, bracketed = None, True
            else:
                inside.append(lexeme)
        elif lexeme == "<" and not bracketed:
            inside, words = [], []
        elif lexeme == ":" and words and not in_group and not bracketed:
            in_group, words = True, []
        elif lexeme == "," or (lexeme == ";" and in_group):
            if words and bracketed:
                raise _malformed("there are words after an address in angle brackets")
            if words:
                found.append(_mailbox(words))
            words, bracketed = [], False
            in_group = in_group and lexeme != ";"
        elif lexeme in "<>;:":
            raise _malformed("an address list does not parse")
        else:
            words.append(lexeme)
    if inside is not None or in_group:
        raise _malformed("an address list breaks off")
    return tuple(found)


def _lexemes(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _LEXEME.match(text, at)
        if match is None or match.group() == ")":
            raise _malformed("an address list does not parse")
        at = match.end()
        lexeme = match.group()
        if lexeme == "(":
            at = _end_of_comment(text, at)
        elif not lexeme.isspace():
            yield lexeme


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    while depth:
        match = _QUOTED_OR_PARENTHESIS.search(text, at)
        if match is None or depth > _COMMENT_DEPTH:
            raise _malformed("a comment in an address list does not end")
        depth += {"(": 1, ")": -1}.get(match.group(), 0)
        at = match.end()
    return at


def _mailbox(words: list[str]) -> DirectAddress:
    # RFC5322 4.4 allows blanks around the dots and the @ of an address; they mean nothing.
    try:
        return parse_address("".join(words))
    except DirectError:
        raise _malformed("a mailbox in the header is no Direct address") from None


def _malformed(detail: str) -> DirectError:
    return DirectError(Reason.MESSAGE_MALFORMED, detail)
