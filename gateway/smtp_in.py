"""A listener for SMTP: the edge (submission) or the backbone (from other HISPs).

Talks to a listening socket; each connection gets an `SmtpStream` and an `SmtpSession`.
"""

from __future__ import annotations

import asyncio
import ssl

from gateway.ports import Reception, Role
from gateway.smtp_limits import Census, Limits
from gateway.smtp_session import SmtpSession
from gateway.smtp_stream import SmtpStream
from gateway.status import Reply

__all__ = ["Limits", "Listener"]

_SHUTTING_DOWN = Reply(421, "4.3.2", "Service is shutting down")
_LONG_SESSION = Reply(421, "4.3.2", "Connection was open long enough")


class Listener:
    """Serves SMTP on one address in one role."""

    def __init__(
        self,
        *,
        role: Role,
        reception: Reception,
        hostname: str,
        tls: ssl.SSLContext,
        limits: Limits | None = None,
    ) -> None:
        self._role = role
        self._reception = reception
        self._hostname = hostname
        self._tls = tls
        self._limits = limits or Limits()
        self._census = Census(self._limits)
        self._server: asyncio.Server | None = None
        self._sessions: dict[asyncio.Task[None], SmtpStream] = {}

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and return address and port; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SmtpStream(self._connected), host, port, backlog=512
        )
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
        for stream in self._sessions.values():
            stream.interrupt(_SHUTTING_DOWN)
        await self._ended(grace_s)
        for stream in self._sessions.values():
            stream.abort()
        await self._ended(grace_s)
        await self._server.wait_closed()

    async def _ended(self, timeout_s: float) -> None:
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=timeout_s)

    def _connected(self, stream: SmtpStream) -> None:
        session = asyncio.get_running_loop().create_task(self._serve(stream))
        self._sessions[session] = stream
        session.add_done_callback(self._sessions.pop)

    async def _serve(self, stream: SmtpStream) -> None:
        loop = asyncio.get_running_loop()
        refusal = self._census.admit(stream.peer, loop.time())
        if refusal is not None:
            stream.send(f"{refusal}\r\n".encode())
            stream.close()
            return
        end = loop.call_later(self._limits.session_s, stream.interrupt, _LONG_SESSION)
        try:
            await self._session(stream).run()
        finally:
            end.cancel()
            self._census.leave(stream.peer)

    def _session(self, stream: SmtpStream) -> SmtpSession:
        return SmtpSession(
            stream,
            role=self._role,
            reception=self._reception,
            hostname=self._hostname,
            tls=self._tls,
            limits=self._limits,
            census=self._census,
        )
