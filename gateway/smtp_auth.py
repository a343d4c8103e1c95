"""AUTH PLAIN and AUTH LOGIN as an exchange of challenges and responses.

Pure: the exchange is a generator that yields challenges, is sent the client's lines, and returns
the credentials.

Standards:
    RFC4954 section 4 (base64 exchanges; "*" cancels, "=" is an empty initial response)
    RFC4616 (PLAIN); LOGIN has no standard, only the two prompts every client expects
"""

from __future__ import annotations

import binascii
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

from gateway.status import CommandError, Reply

__all__ = ["MECHANISMS", "Credentials", "exchange"]

MECHANISMS: Final = ("PLAIN", "LOGIN")

# "Username:" and "Password:"
_ASK_USER: Final = "VXNlcm5hbWU6"
_ASK_PASSWORD: Final = "UGFzc3dvcmQ6"  # noqa: S105 - the prompt, not a password


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client claims. The password shows in no representation."""

    user: str
    password: str = field(repr=False)


def exchange(argument: str) -> Generator[str, bytes, Credentials]:
    """Yield each challenge, take each response line, and return what the client claims.

    Raises:
        CommandError: 501; malformed or cancelled. 504; no such mechanism. 535; one user asks to
            act as another, which we never allow.
    """
    mechanism, _, initial = argument.partition(" ")
    first = _decoded(initial.encode()) if initial else None
    if mechanism.upper() == "PLAIN":
        return _plain(first if first is not None else _decoded((yield "")))
    if mechanism.upper() == "LOGIN":
        user = first if first is not None else _decoded((yield _ASK_USER))
        return Credentials(_text(user), _text(_decoded((yield _ASK_PASSWORD))))
    raise CommandError(Reply(504, "5.5.4", "Authentication mechanism not offered"))


def _plain(response: bytes) -> Credentials:
    # RFC4616 2: [authzid] NUL authcid NUL passwd
    fields = response.split(b"\0")
    if len(fields) != 3:
        raise CommandError(Reply(501, "5.5.2", "Malformed PLAIN response"))
    acting_as, user, password = (_text(octets) for octets in fields)
    if acting_as not in ("", user):
        raise CommandError(Reply(535, "5.7.8", "Authentication credentials invalid"))
    return Credentials(user, password)


def _decoded(line: bytes) -> bytes:
    if line == b"*":
        raise CommandError(Reply(501, "5.7.0", "Authentication cancelled"))
    if line == b"=":
        return b""
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except binascii.Error:
        raise CommandError(Reply(501, "5.5.2", "Not base64")) from None


def _text(octets: bytes) -> str:
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise CommandError(Reply(501, "5.5.2", "Not UTF-8")) from None
    if "\0" in text:
        raise CommandError(Reply(501, "5.5.2", "Not text"))
    return text
