"""A listener for SMTP: the edge (submission) or the backbone (from other HISPs).

Talks to a listening socket; each connection gets an `SmtpServer`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from typing import Final

from gateway import smtp_limits
from gateway.ports import Reception, Role
from gateway.smtp_connection import Service
from gateway.smtp_proxy import Network
from gateway.smtp_server import SmtpServer
from gateway.status import Reply

__all__ = ["Limits", "Listener"]

# Who makes a listener needs this too.
Limits = smtp_limits.Limits

BACKLOG: Final = 512
_SHUTTING_DOWN = Reply(421, "4.3.2", "Service is shutting down")


class Listener:
    """Serves SMTP on one address in one role.

    Connections from `proxies` must begin with the PROXY protocol, and count as the client's.
    """

    def __init__(
        self,
        *,
        role: Role,
        reception: Reception,
        hostname: str,
        tls: ssl.SSLContext,
        limits: Limits | None = None,
        proxies: Sequence[Network] = (),
    ) -> None:
        limits = limits or Limits()
        self._service = Service(
            role=role,
            reception=reception,
            hostname=hostname,
            tls=tls,
            limits=limits,
            census=smtp_limits.Census(limits),
            proxies=proxies,
        )
        self._server: asyncio.Server | None = None

    async def start(
        self, host: str, port: int, shared: socket.socket | None = None
    ) -> tuple[str, int]:
        """Listen, and return address and port; port 0 takes a free one.

        `shared` is bound already, in their place: several processes listen on it.
        """
        # aiosmtpd logs each command there, with addresses, which may be patients'.
        logging.getLogger("mail.log").setLevel(logging.WARNING)
        loop = asyncio.get_running_loop()
        make = partial(SmtpServer, self._service)
        if shared is not None:
            self._server = await loop.create_server(make, sock=shared, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(make, host, port, backlog=BACKLOG)
        address, bound = self._server.sockets[0].getsockname()[:2]
        return address, bound

    async def stop(self, grace_s: float) -> None:
        """Stop listening; let commands, content and commits in progress end in `grace_s`.

        A connection that waits for a command is closed with 421 at once. What is still open
        after the grace time is cut off; its commits have run to their end or never began.
        """
        if self._server is None:
            return
        self._server.close()
        for connection in self._service.connections.values():
            connection.interrupt(_SHUTTING_DOWN)
        await self._ended(grace_s)
        for connection in self._service.connections.values():
            connection.abort()
        await self._ended(grace_s)
        await self._server.wait_closed()

    async def _ended(self, timeout_s: float) -> None:
        at_work = [*self._service.connections, *self._service.commits]
        if at_work:
            await asyncio.wait(at_work, timeout=timeout_s)
