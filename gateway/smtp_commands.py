"""SMTP command lines: verb and argument, and the strict form of MAIL and RCPT.

Pure.

Standards:
    RFC5321 sections 4.1.1 (commands), 4.1.2 (path syntax), 4.1.1.11 (parameters)
    RFC1870 SIZE · RFC6152 BODY · RFC4954 section 5 AUTH= · RFC6531 section 3 (SMTPUTF8, refused)
    RFC3461 section 4 (RET, ENVID, NOTIFY, ORCPT)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from certs.address import DirectAddress, parse_address
from gateway.notify import USUAL_WISH, Notify, Wish
from gateway.status import CommandError, Reply

__all__ = [
    "IN_CLEAR",
    "NOT_OFFERED",
    "OFFERED",
    "Mail",
    "Rcpt",
    "parse_command",
    "parse_mail",
    "parse_rcpt",
]

OFFERED: Final = frozenset(
    {"EHLO", "HELO", "STARTTLS", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "VRFY", "QUIT"}
)
# RFC5321 4.2.4: known, not offered.
NOT_OFFERED: Final = frozenset({"AUTH", "BDAT", "EXPN", "HELP", "TURN", "ETRN", "SEND", "SAML"})
# RFC3207 4: what a client may say before STARTTLS, where that is required.
IN_CLEAR: Final = frozenset({"EHLO", "HELO", "NOOP", "QUIT", "RSET", "STARTTLS"})

# RFC1870 4: at most 20 digits. RFC3461 4.4 and 4.2.
SIZE_DIGITS: Final = 20
ENVID_OCTETS: Final = 100
ORCPT_OCTETS: Final = 500

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
# RFC5321 4.1.2. A quoted local part may hold "<", ">" and spaces.
_PATH: Final = re.compile(r'<((?:"(?:[^"\\]|\\.)*"|[^"<> ])*)>')
# RFC5321 C: a source route is accepted and ignored.
_SOURCE_ROUTE: Final = re.compile(r"@[^:\"]*:")
_PARAMETER: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e]+))?")
# RFC3461 4
_XTEXT: Final = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+")
_HEXCHAR: Final = re.compile(r"\+([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Mail:
    """A MAIL command. `sender` None is the null reverse-path; `size` is in octets, if told."""

    sender: DirectAddress | None
    size: int | None = None
    envelope_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rcpt:
    """A RCPT command, and what the sender wishes to hear of this recipient."""

    recipient: DirectAddress
    wish: Wish = USUAL_WISH


def parse_command(line: bytes) -> tuple[str, str]:
    """Return the verb, in upper case, and the argument of a command line without its CRLF.

    Raises:
        CommandError: 500; control characters. 553 or 500; octets that are not ASCII.
    """
    verb, _, argument = line.partition(b" ")
    if not line.isascii():
        if verb.upper() in (b"MAIL", b"RCPT"):
            # RFC6531 3.5: an address that needs SMTPUTF8, which Direct has no form for.
            raise CommandError(Reply(553, "5.6.7", "Direct addresses are ASCII"))
        raise CommandError(Reply(500, "5.5.2", "Commands are ASCII"))
    if _CONTROL.search(line):
        raise CommandError(Reply(500, "5.5.2", "Control character in command"))
    return verb.decode().upper(), argument.decode().strip(" ")


def parse_mail(argument: str, *, dsn: bool) -> Mail:
    """Return the MAIL command with this argument; `dsn`: RFC3461 was offered to the client.

    Raises:
        CommandError: 501, 553 or 555; not well-formed, or a parameter nobody offered.
        DirectError: ADDRESS_MALFORMED.
    """
    path, parameters = _split(argument, "FROM")
    _refuse_utf8(parameters)
    body = parameters.pop("BODY", "7BIT")
    size = parameters.pop("SIZE", None)
    parameters.pop("AUTH", None)  # RFC4954 5: a client we do not trust for this is treated as "<>"
    envelope_id = None
    if dsn:
        returned = parameters.pop("RET", "HDRS")
        # RFC3461 4.3 lets the sender ask for the whole message; we return headers alone, since
        # the body is PHI and the sender has it.
        _require(returned.upper() in ("FULL", "HDRS"), "RET")
        envelope_id = _xtext(parameters.pop("ENVID", None), ENVID_OCTETS, "ENVID")
    _require(body.upper() in ("7BIT", "8BITMIME"), "BODY")
    _require(size is None or (size.isdecimal() and len(size) <= SIZE_DIGITS), "SIZE")
    _nothing_left(parameters)
    return Mail(
        sender=_address(path) if path else None,
        size=int(size) if size else None,
        envelope_id=envelope_id,
    )


def parse_rcpt(argument: str, *, dsn: bool) -> Rcpt:
    """Return the RCPT command with this argument; `dsn`: RFC3461 was offered to the client.

    Raises:
        CommandError: 501, 553 or 555; not well-formed, or a parameter nobody offered.
        DirectError: ADDRESS_MALFORMED.
    """
    path, parameters = _split(argument, "TO")
    _refuse_utf8(parameters)
    wish = USUAL_WISH
    if dsn:
        notify = _notify(parameters.pop("NOTIFY", "FAILURE"))
        wish = Wish(notify, _original(parameters.pop("ORCPT", None)))
    _nothing_left(parameters)
    return Rcpt(_address(path), wish)


def _split(argument: str, keyword: str) -> tuple[str, dict[str, str]]:
    """Return what is between the angle brackets, and the parameters."""
    name, colon, rest = argument.partition(":")
    # RFC5321 4.1.1.2 has no space after the colon; so many clients send one that we take it.
    path = _PATH.match(rest.lstrip(" "))
    if name.upper() != keyword or not colon or path is None:
        raise CommandError(Reply(501, "5.5.4", f"Syntax: {keyword}:<address>"))
    return path[1], _parameters(rest.lstrip(" ")[path.end() :])


def _parameters(text: str) -> dict[str, str]:
    if text and not text.startswith(" "):
        raise CommandError(Reply(501, "5.5.4", "Space expected after the address"))
    parameters: dict[str, str] = {}
    for word in text.split():
        match = _PARAMETER.fullmatch(word)
        if match is None or match[1].upper() in parameters:
            raise CommandError(Reply(501, "5.5.4", "Malformed or repeated parameter"))
        parameters[match[1].upper()] = match[2] or ""
    return parameters


def _address(path: str) -> DirectAddress:
    return parse_address(_SOURCE_ROUTE.sub("", path, count=1) if path.startswith("@") else path)


def _refuse_utf8(parameters: dict[str, str]) -> None:
    # SMTPUTF8 is not offered; say plainly why, rather than "parameter unknown".
    if "SMTPUTF8" in parameters:
        raise CommandError(Reply(555, "5.6.7", "Direct addresses are ASCII: no SMTPUTF8"))


def _notify(text: str) -> frozenset[Notify]:
    words = text.upper().split(",")
    _require(all(word in Notify.__members__ for word in words), "NOTIFY")
    # RFC3461 4.1: NEVER stands alone.
    _require("NEVER" not in words or words == ["NEVER"], "NOTIFY")
    return frozenset(Notify(word) for word in words)


def _original(text: str | None) -> str | None:
    # RFC3461 4.2: addr-type ";" xtext; the first is an atom, and not encoded.
    kind, semicolon, address = (text or "").partition(";")
    if text is None:
        return None
    _require(bool(_ATOM.fullmatch(kind)) and bool(semicolon) and len(text) <= ORCPT_OCTETS, "ORCPT")
    return f"{kind};{_xtext(address, ORCPT_OCTETS, 'ORCPT')}"


def _xtext(text: str | None, octets: int, name: str) -> str | None:
    if text is None:
        return None
    _require(bool(_XTEXT.fullmatch(text)) and 0 < len(text) <= octets, name)
    decoded = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text)
    _require(decoded.isascii() and decoded.isprintable(), name)
    return decoded


def _require(holds: bool, name: str) -> None:
    if not holds:
        raise CommandError(Reply(501, "5.5.4", f"Bad value of {name}"))


def _nothing_left(parameters: dict[str, str]) -> None:
    if parameters:
        # RFC5321 4.1.1.11
        raise CommandError(Reply(555, "5.5.4", "Parameter not recognized"))
