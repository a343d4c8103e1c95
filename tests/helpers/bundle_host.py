"""A publisher of trust bundles on loopback: a real TLS server that serves or misbehaves."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from tests.helpers.tls import ServerCertificate, server_certificate, server_context

__all__ = ["BundleHost", "bundle_host", "bundle_host_in_thread"]

HOST = "localhost"


@dataclass
class BundleHost:
    """What it serves by path, and what was asked. `hang` paths are never answered to the end."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    hang: set[str] = field(default_factory=set)
    truncate: set[str] = field(default_factory=set)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"https://{HOST}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = head.strip().split("\r\n")
            path = request.split(" ")[1]
            fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
            self.asked.append((path, fields))
            if path in self.hang:
                await reader.read()
                return
            writer.write(self._answer(path, fields))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return
        finally:
            writer.close()

    def _answer(self, path: str, fields: dict[str, str]) -> bytes:
        etag = self.etags.get(path)
        more = f"ETag: {etag}\r\n" if etag else ""
        more += self.headers.get(path, "")
        if path in self.redirects:
            return _head("302 Found", 0, f"Location: {self.redirects[path]}\r\n")
        if path not in self.files:
            return _head("404 Not Found", 0, "")
        if etag and fields.get("if-none-match") == etag:
            return _head("304 Not Modified", 0, more)
        body = self.files[path]
        sent = body[: len(body) // 2] if path in self.truncate else body
        return _head("200 OK", len(body), more) + sent


def _head(status: str, length: int, more: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n".encode()


@asynccontextmanager
async def bundle_host(*names: str) -> AsyncIterator[tuple[BundleHost, ServerCertificate]]:
    """Run one with a certificate for `names`, by default its own."""
    host, certificate = BundleHost(), server_certificate(*(names or (HOST,)))
    context = server_context(*(names or (HOST,)))
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=context)
    host.port = server.sockets[0].getsockname()[1]
    async with server:
        yield host, certificate


@contextmanager
def bundle_host_in_thread() -> Iterator[tuple[BundleHost, ServerCertificate]]:
    """Run one beside a test that is not a coroutine."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    host, certificate = BundleHost(), server_certificate(HOST)

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=server_context(HOST))
        host.port = server.sockets[0].getsockname()[1]
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield host, certificate
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
