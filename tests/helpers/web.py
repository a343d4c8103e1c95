"""A small HTTP server on loopback that serves, or misbehaves, as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

__all__ = ["Exchange", "Handler", "Web", "web"]


@dataclass(frozen=True)
class Exchange:
    """One request, and the stream to answer it on."""

    method: str
    path: str
    body: bytes
    writer: asyncio.StreamWriter

    async def answer(self, body: bytes, *, status: str = "200 OK", headers: str = "") -> None:
        """Answer with a whole response."""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()


Handler = Callable[[Exchange], Awaitable[None]]


@dataclass
class Web:
    """Where the server is, what it serves by path, and what was asked of it."""

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    handlers: dict[str, Handler] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        """The URL of a path."""
        return self.base + path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split("\r\n", 1)[0].split(" ")
            length = next(
                (
                    int(v)
                    for k, _, v in (h.partition(":") for h in head.split("\r\n"))
                    if k.lower() == "content-length"
                ),
                0,
            )
            exchange = Exchange(method, path, await reader.readexactly(length), writer)
            self.asked.append(path)
            if path in self.handlers:
                await self.handlers[path](exchange)
            elif path in self.files:
                await exchange.answer(self.files[path])
            else:
                await exchange.answer(b"", status="404 Not Found")
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def web() -> AsyncIterator[Web]:
    """Run one on a free port of loopback."""
    served = Web()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield served
