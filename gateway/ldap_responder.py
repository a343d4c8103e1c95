"""A small read-only LDAP directory of certificates, for self-tests on loopback.

Talks LDAPv3 over TCP. It knows anonymous bind, the rootDSE, and searches for a `mail` value; a real
domain uses a real directory server.

Standards:
    RFC4511 sections 4.2 (bind), 4.5 (search) and 5.1 (BER)
    RFC4512 section 5.1 (rootDSE)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Final

from certs.cms import der
from certs.cms.ber import Element, children, malformed
from certs.errors import DirectError
from certs.ldap_cert import ATTRIBUTES

__all__ = ["LdapResponder"]

MESSAGE_OCTETS: Final = 64 * 1024
IDLE_S: Final = 30.0
SUFFIX: Final = "ou=direct"

ENUMERATED: Final = 0x0A
SUCCESS: Final = 0
PROTOCOL_ERROR: Final = 2
FILTER_AND: Final = 0xA0
FILTER_EQUAL: Final = 0xA3


class _Operation(IntEnum):
    """The operations that are understood, by their tag (RFC4511 4.2 to 4.5)."""

    BIND = 0x60
    BOUND = 0x61
    UNBIND = 0x42
    SEARCH = 0x63
    ENTRY = 0x64
    DONE = 0x65


class LdapResponder:
    """Serves certificates, in DER, by the `mail` value of their entries, in lower case.

    The mapping may be changed while it runs.
    """

    def __init__(self, entries: Mapping[str, Sequence[bytes]]) -> None:
        self._entries = entries
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen; port 0 takes a free one. Return where."""
        self._server = await asyncio.start_server(self._serve, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return host, bound

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def answer(self, content: bytes) -> Iterator[bytes]:
        """Yield the answers to one LDAPMessage, whose content this is.

        Raises:
            DirectError: MESSAGE_MALFORMED.
        """
        number, operation = _exactly(children(content), 2)
        match operation.tag:
            case _Operation.BIND:
                yield _message(number, _result(_Operation.BOUND, SUCCESS))
            case _Operation.SEARCH:
                base, _, _, _, _, _, wanted, _ = _exactly(children(operation.content), 8)
                for name, attribute, values in self._found(base.content, wanted):
                    yield _message(number, _entry(name, attribute, values))
                yield _message(number, _result(_Operation.DONE, SUCCESS))
            case _:
                yield _message(number, _result(_Operation.DONE, PROTOCOL_ERROR))

    def _found(self, base: bytes, wanted: Element) -> Iterator[tuple[str, str, Sequence[bytes]]]:
        if not base:
            # RFC4512 5.1: the rootDSE tells what there is to search.
            yield "", "namingContexts", [SUFFIX.encode("ascii")]
            return
        mail = _mail_in(wanted)
        if mail is not None and mail in self._entries:
            yield f"cn={mail},{SUFFIX}", ATTRIBUTES[0], self._entries[mail]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(IDLE_S):
                while (content := await _read(reader)) is not None:
                    for answer in self.answer(content):
                        writer.write(answer)
                    await writer.drain()
        except (DirectError, asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            return
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    """Return the content of the next message; None where it is to be the last."""
    first = await reader.readexactly(2)
    length = first[1]
    if length & 0x80:
        length = int.from_bytes(await reader.readexactly(length & 0x7F))
    if length > MESSAGE_OCTETS:
        return None
    content = await reader.readexactly(length)
    operation = _exactly(children(content), 2)[1]
    return None if operation.tag == _Operation.UNBIND else content


def _exactly(elements: list[Element], least: int) -> list[Element]:
    # What comes after, such as controls, is optional and not looked at.
    if len(elements) < least:
        raise malformed("LDAP message lacks an element")
    return elements[:least]


def _mail_in(wanted: Element) -> str | None:
    """Return the value that a filter asks of `mail`: alone, or among others that must hold."""
    if wanted.tag == FILTER_AND:
        return next(filter(None, map(_mail_in, children(wanted.content))), None)
    if wanted.tag != FILTER_EQUAL:
        return None
    attribute, value = _exactly(children(wanted.content), 2)
    if attribute.content.lower() != b"mail":
        return None
    return value.content.decode("utf-8", "replace").lower()


def _message(number: Element, operation: bytes) -> bytes:
    return der.sequence(number.encoded, operation)


def _result(operation: _Operation, code: int) -> bytes:
    empty = der.octet_string(b"")
    return der.tlv(operation, der.tlv(ENUMERATED, bytes([code])), empty, empty)


def _entry(name: str, attribute: str, values: Sequence[bytes]) -> bytes:
    listed = der.set_of(map(der.octet_string, values))
    held = der.sequence(der.octet_string(attribute.encode("ascii")), listed)
    return der.tlv(_Operation.ENTRY, der.octet_string(name.encode("utf-8")), der.sequence(held))
