"""Who sends to a benchmarked mail server, and who receives from it.

Talks to loopback. Both ends do as little as the protocol allows, so that what is measured is the
server between them.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from certs.errors import DirectError, Reason
from gateway.tls import unverified_context

__all__ = ["Load", "Sink", "connect", "submit_all"]

HELO: Final = b"EHLO peer.example\r\n"
MESSAGE_LIMIT: Final = 128 * 1024 * 1024


class Load:
    """One connection to a server, over which messages are submitted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def greet(self) -> None:
        """Read the greeting and say EHLO."""
        await self._expect(b"220")
        await self._hello()

    async def log_in(self, user: str, password: str) -> None:
        """Secure the connection and authenticate, as an EHR's mail client does."""
        self._writer.write(b"STARTTLS\r\n")
        await self._expect(b"220")
        await self._writer.start_tls(unverified_context())
        await self._hello()
        proof = base64.b64encode(f"\0{user}\0{password}".encode())
        self._writer.write(b"AUTH PLAIN " + proof + b"\r\n")
        await self._expect(b"235")

    async def submit(self, envelope: tuple[str, str], content: bytes) -> None:
        """Send a message, its lines ended by CRLF and none of them beginning with a dot."""
        sender, recipient = envelope
        commands = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n"
        self._writer.write(commands.encode("ascii"))
        for code in (b"250", b"250", b"354"):
            await self._expect(code)
        self._writer.write(content + b".\r\n")
        await self._writer.drain()
        await self._expect(b"250")

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _hello(self) -> None:
        self._writer.write(HELO)
        await self._expect(b"250")

    async def _expect(self, code: bytes) -> None:
        line = await self._reader.readline()
        while line[3:4] == b"-":
            line = await self._reader.readline()
        if not line.startswith(code):
            raise DirectError(Reason.INTERNAL, f"the server said {line.decode('ascii', 'replace')}")


async def connect(port: int, count: int, login: tuple[str, str] | None = None) -> Sequence[Load]:
    """Return so many connections, ready for messages."""
    loads = []
    for _ in range(count):
        load = Load(*await asyncio.open_connection("127.0.0.1", port))
        await load.greet()
        if login is not None:
            await load.log_in(*login)
        loads.append(load)
    return loads


class Sink:
    """An SMTP server that takes everything and keeps the last message; `tls` is for STARTTLS."""

    def __init__(self) -> None:
        self.tls: ssl.SSLContext | None = None
        self.received = 0
        self.last = b""
        self._server: asyncio.Server | None = None
        self._awaited: dict[int, asyncio.Event] = {}

    async def start(self) -> int:
        """Listen, and return the port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MESSAGE_LIMIT)
        self._server = server
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def until(self, count: int, timeout_s: float) -> None:
        """Return when `count` messages have been received in all.

        Raises:
            DirectError: INTERNAL; they have not in `timeout_s` seconds.
        """
        event = self._awaited.setdefault(count, asyncio.Event())
        if self.received >= count:
            event.set()
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            detail = f"{self.received} of {count} messages have come out"
            raise DirectError(Reason.INTERNAL, detail) from None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            writer.write(b"220 sink.example ESMTP\r\n")
            while line := await reader.readline():
                await self._answer(line[:4].upper(), reader, writer)
        writer.close()

    async def _answer(
        self, verb: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match verb:
            case b"EHLO":
                writer.write(b"250-sink.example\r\n250-PIPELINING\r\n250 STARTTLS\r\n")
            case b"STAR" if self.tls is not None:
                writer.write(b"220 Go\r\n")
                await writer.start_tls(self.tls)
            case b"DATA":
                writer.write(b"354 Go\r\n")
                message = await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 Ok\r\n")
                self._take(message[:-3])
            case b"QUIT":
                writer.write(b"221 Bye\r\n")
                writer.close()
            case _:
                writer.write(b"250 Ok\r\n")

    def _take(self, message: bytes) -> None:
        self.last = message
        self.received += 1
        if self.received in self._awaited:
            self._awaited[self.received].set()


async def submit_all(
    loads: Sequence[Load], envelope: tuple[str, str], contents: Sequence[bytes]
) -> None:
    """Submit all of `contents`, over all connections at once, each with an equal share."""

    async def one(load: Load, share: Sequence[bytes]) -> None:
        for content in share:
            await load.submit(envelope, content)

    count = len(loads)
    await asyncio.gather(*(one(load, contents[n::count]) for n, load in enumerate(loads)))
