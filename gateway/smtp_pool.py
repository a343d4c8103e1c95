"""Connections to SMTP servers: made, secured, and kept for the next message.

Talks to SMTP servers up to the point where a message can be sent.

Standards:
    RFC3207 · RFC7435 (opportunistic security): AS-066 asks for no TLS between HISPs
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.smtp_client import BrokenError, PeerError, SmtpClient, Timeouts

__all__ = ["Connections", "Target", "UnreachableError", "opportunistic_tls"]

_log = structlog.get_logger(__name__)

# How long a connection is kept for the next message, and how many to one target.
IDLE_S: Final = 15.0
IDLE_CONNECTIONS: Final = 5


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one host."""

    host: str
    address: str
    port: int


class UnreachableError(Exception):
    """There is no usable connection to a target; its text is for our log and the attempt."""


class Connections:
    """Makes connections and keeps those that are given back."""

    def __init__(self, *, hostname: str, timeouts: Timeouts, tls: ssl.SSLContext) -> None:
        self._hostname = hostname
        self._timeouts = timeouts
        self._tls = tls
        self._kept: defaultdict[Target, list[SmtpClient]] = defaultdict(list)
        self._leaving: set[asyncio.Task[None]] = set()

    def kept(self, target: Target) -> SmtpClient | None:
        """Return a connection that served before; the server may have tired of it."""
        clients = self._kept[target]
        while clients:
            client = clients.pop()
            if client.alive:
                return client
        return None

    async def new(self, target: Target) -> SmtpClient:
        """Return a new connection, under TLS where the server can.

        Raises:
            UnreachableError: there is none to be had.
        """
        try:
            client = await self._connect(target)
            if "starttls" in client.offers:
                client = await self._secure(target, client)
        except PeerError as error:
            raise UnreachableError(f"refused by {target.host}: {error}") from error
        except BrokenError as error:
            raise UnreachableError(f"no connection to {target.host}: {error}") from error
        return client

    def keep(self, target: Target, client: SmtpClient) -> None:
        """Take a connection back for the next message to `target`."""
        clients = self._kept[target]
        if len(clients) == IDLE_CONNECTIONS:
            self._leave(clients.pop(0))
        clients.append(client)
        asyncio.get_running_loop().call_later(IDLE_S, self._expire, target, client)

    async def close(self) -> None:
        """Say QUIT on every connection that is kept."""
        for clients in self._kept.values():
            for client in clients:
                self._leave(client)
        self._kept.clear()
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _connect(self, target: Target) -> SmtpClient:
        return await SmtpClient.connect(
            target.address, target.port, hostname=self._hostname, timeouts=self._timeouts
        )

    async def _secure(self, target: Target, client: SmtpClient) -> SmtpClient:
        try:
            await client.start_tls(self._tls, target.host)
        except (ssl.SSLError, PeerError, BrokenError) as error:
            # RFC7435: a peer whose TLS is broken is no worse off than one without.
            client.abort()
            _log.info("smtp tls failed, going on in clear", host=target.host, error=str(error))
            return await self._connect(target)
        return client

    def _expire(self, target: Target, client: SmtpClient) -> None:
        clients = self._kept.get(target, [])
        if client in clients:
            clients.remove(client)
            self._leave(client)

    def _leave(self, client: SmtpClient) -> None:
        task = asyncio.get_running_loop().create_task(client.quit())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def opportunistic_tls() -> ssl.SSLContext:
    """Return a context that encrypts to whoever answers.

    HISPs' certificates for SMTP are often self-signed, and confidentiality is S/MIME's (R-063).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
