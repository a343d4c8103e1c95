"""The listeners of one gateway: the two of SMTP, and the FHIR API's.

Talks to listening sockets; `gateway.app` runs it.
"""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from dataclasses import replace
from socket import socket
from typing import Final

from starlette.types import ASGIApp

from gateway.config import Config, Fhir, Smtp
from gateway.http_server import HttpServer
from gateway.ports import Reception, Role
from gateway.smtp_in import Limits, Listener
from gateway.tls import server_context

__all__ = ["HTTP_GRACE_S", "SMTP_GRACE_S", "HttpListener", "listen_for_mail"]

# How long what is in progress may take to end, in seconds, at each listener: they stop one after
# the other, then the worker does, and a whole stop takes at most ten.
HTTP_GRACE_S: Final = 2.0
SMTP_GRACE_S: Final = 2.0


async def listen_for_mail(
    stack: AsyncExitStack,
    config: Config,
    smtp: Smtp,
    role: Role,
    reception: Reception,
    shared: socket | None = None,
    processes: int = 1,
) -> tuple[str, int] | None:
    """Listen, and return where; None where this listener is switched off.

    `shared` is bound already: other processes listen on it too, `processes` with this one.

    Raises:
        DirectError: CONFIGURATION_INVALID; the certificate cannot be used.
        OSError: the address cannot be had.
    """
    if smtp.listen is None:
        return None
    listener = Listener(
        role=role,
        reception=reception,
        hostname=config.gateway.hostname,
        tls=_tls(config, smtp),
        limits=_limits(config, smtp, role).shared_by(processes),
        proxies=smtp.proxies,
    )
    bound = await listener.start(smtp.listen.host, smtp.listen.port, shared)
    stack.push_async_callback(listener.stop, SMTP_GRACE_S)
    return bound


def _limits(config: Config, smtp: Smtp, role: Role) -> Limits:
    limits = Limits(size_octets=smtp.size_octets, idle_s=smtp.idle_s)
    if role is Role.BACKBONE:
        return limits
    # R-052, T-48: what the edge announces must still fit once it is sealed.
    fitting = config.known_peers.clear_octets(limits.recipients)
    return replace(limits, size_octets=min(limits.size_octets, fitting))


class HttpListener:
    """The HTTP listener, bound at once, so that its URL is known before its application is."""

    def __init__(self, stack: AsyncExitStack, config: Config, shared: socket | None = None) -> None:
        self._stack = stack
        self._fhir = config.fhir
        self.bound: tuple[str, int] | None = None
        if config.fhir.listen is not None:
            tls = _tls(config, config.fhir) if config.fhir.tls_certificate else None
            self._server = HttpServer(tls=tls)
            if shared is not None:
                self.bound = self._server.share(shared)
            else:
                self.bound = self._server.bind(config.fhir.listen.host, config.fhir.listen.port)

    @property
    def base_url(self) -> str:
        """The public URL of the FHIR API."""
        if self._fhir.base_url or self.bound is None:
            return self._fhir.base_url.rstrip("/")
        scheme = "https" if self._fhir.tls_certificate else "http"
        return f"{scheme}://{self.bound[0]}:{self.bound[1]}/fhir/R4"

    async def serve(self, app: ASGIApp) -> None:
        """Serve `app`, unless this listener is switched off."""
        if self.bound is not None:
            await self._server.start(app)
            self._stack.push_async_callback(self._server.stop, HTTP_GRACE_S)


def _tls(config: Config, section: Smtp | Fhir) -> ssl.SSLContext:
    data = config.gateway.data
    return server_context(
        section.tls_certificate or data / "tls.crt", section.tls_key or data / "tls.key"
    )
