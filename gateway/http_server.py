"""One HTTP listener for an ASGI application.

Talks to a listening socket through uvicorn, without its signal handlers: the composition root
decides when to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from certs.errors import DirectError, Reason

__all__ = ["HttpServer", "listening_socket"]

BACKLOG: Final = 512
WEBSOCKET_OCTETS: Final = 16 * 1024  # what clients say on one is a few words


class HttpServer:
    """Serves one application on one address; plain HTTP where `tls` is None."""

    def __init__(self, *, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    def bind(self, host: str, port: int) -> tuple[str, int]:
        """Take the address, and return it; port 0 takes a free one.

        Raises:
            DirectError: CONFIGURATION_INVALID; it cannot be had.
        """
        return self.share(listening_socket(host, port))

    def share(self, bound: socket.socket) -> tuple[str, int]:
        """Serve on a socket that is bound already, and return its address."""
        self._socket = bound
        # Connections inherit it. asyncio sets it only on sockets that name their protocol, and
        # without it an answer's body waits 40 ms for the acknowledgement of its head.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address, port = self._socket.getsockname()[:2]
        return address, port

    async def start(self, app: ASGIApp) -> None:
        """Serve `app`; return when it accepts connections.

        Raises:
            DirectError: INTERNAL; it never will.
        """
        if self._socket is None:
            raise DirectError(Reason.INTERNAL, "start before bind")
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=WEBSOCKET_OCTETS,
            ws_per_message_deflate=False,
        )
        config.load()
        config.ssl = self._tls
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            error = self._task.exception()
            detail = f"the HTTP server did not start: {type(error).__name__}"
            raise DirectError(Reason.INTERNAL, detail)

    async def stop(self, grace_s: float) -> None:
        """Let requests in progress end within `grace_s` seconds, then close."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            done, _ = await asyncio.wait([self._task], timeout=grace_s)
            if not done:
                self._server.force_exit = True
                await asyncio.wait([self._task])
        if self._socket is not None:
            self._socket.close()


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises:
        DirectError: CONFIGURATION_INVALID; the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        detail = f"cannot listen on {host}:{port}: {error.strerror}"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when connections are accepted."""
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield
