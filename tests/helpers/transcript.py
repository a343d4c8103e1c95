"""SMTP dialogues as transcripts, played against a real listener over a real socket.

    S: 220 *
    C: EHLO client.example
    S: 250-mx.b.example
    ...

"S:" is one line the server must say next (`*` and `?` as in file names), "C:" one line the client
says, "RAW:" octets as a Python bytes literal without its quotes, "TLS" a handshake, "EOF" the
server's close, and "SHUT" the client's half-close.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from ast import literal_eval
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

from tests.helpers.tls import client_context

__all__ = ["Dialogue", "play"]

PATIENCE_S = 20


class Dialogue:
    """A client that says exactly what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Self:
        """Connect; the greeting is not read yet."""
        return cls(*await asyncio.open_connection(*address))

    @classmethod
    @asynccontextmanager
    async def greeted(cls, address: tuple[str, int]) -> AsyncIterator[Self]:
        """Connect and read the greeting."""
        async with await cls.open(address) as dialogue:
            assert (await dialogue.reply()).startswith("220")
            yield dialogue

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.transport.abort()

    def say(self, data: bytes) -> None:
        """Send octets as they are."""
        self._writer.write(data)

    def shut(self) -> None:
        """Send no more, and go on listening."""
        self._writer.write_eof()

    async def close(self) -> None:
        """Send what is left to send, and close in order."""
        self._writer.close()
        await self._writer.wait_closed()

    def reset(self) -> None:
        """Go away without a word: TCP RST."""
        at_once = struct.pack("ii", 1, 0)
        client = self._writer.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self._writer.transport.abort()

    async def line(self) -> str:
        """Return the server's next line without its CRLF; "" at its close."""
        line = await asyncio.wait_for(self._reader.readline(), PATIENCE_S)
        return line.decode().removesuffix("\r\n")

    async def reply(self) -> str:
        """Return the server's next whole reply, its lines joined by LF."""
        lines = [await self.line()]
        while lines[-1][3:4] == "-":
            lines.append(await self.line())
        return "\n".join(lines)

    async def ask(self, command: str) -> str:
        """Send one command and return the reply."""
        self.say(f"{command}\r\n".encode())
        return await self.reply()

    async def start_tls(self, context: ssl.SSLContext | None = None) -> None:
        """Do the handshake."""
        await self._writer.start_tls(context or client_context())

    async def rest(self) -> str:
        """Return all the server says until its close."""
        try:
            return (await asyncio.wait_for(self._reader.read(), PATIENCE_S)).decode("latin-1")
        except ConnectionError:
            return ""

    async def ended(self) -> bool:
        """Wait for the server to close."""
        try:
            return await asyncio.wait_for(self._reader.read(1), PATIENCE_S) == b""
        except ConnectionError:
            return True


async def play(address: tuple[str, int], transcript: str) -> None:
    """Play a transcript; the first line that differs fails."""
    async with await Dialogue.open(address) as dialogue:
        steps = [step.strip() for step in transcript.splitlines() if step.strip()]
        for number, step in enumerate(steps, 1):
            kind, _, text = step.partition(": ")
            if kind == "S":
                said = await dialogue.line()
                assert fnmatchcase(said, text), f"line {number}: {said!r} is not {text!r}"
            elif kind == "C":
                dialogue.say(f"{text}\r\n".encode())
            elif kind == "RAW":
                dialogue.say(literal_eval(f'b"{text}"'))
            elif kind == "TLS":
                await dialogue.start_tls()
            elif kind == "SHUT":
                dialogue.shut()
            else:
                assert kind == "EOF", f"line {number}: what is {step!r}?"
                assert await dialogue.ended(), f"line {number}: the server has not closed"
