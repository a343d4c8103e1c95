"""The octets of one SMTP connection, at either end: lines and blocks in, out, and TLS.

Talks to one TCP connection. Reading is pulled by its user, a session or a client; what has not been
asked for waits in a bounded buffer while the socket is paused. What is sent is held until its user
has to wait, so that a group of pipelined commands, or of replies to one, leaves in one write.

Standards:
    RFC5321 section 2.3.8 (lines end in CRLF; bare CR and LF are refused)
    RFC2920 section 3.2 (pipelining)
    RFC3207 section 4.2 (what was received before the handshake is discarded)
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

from gateway.status import CommandError, Reply

__all__ = ["DisconnectedError", "SmtpStream"]

# Reading pauses above this many octets that nobody has asked for yet.
BUFFER_OCTETS: Final = 256 * 1024
# A peer has this long to take our last reply.
LINGER_S: Final = 5.0


class DisconnectedError(Exception):
    """The peer is gone, or will send nothing more."""


class SmtpStream(asyncio.Protocol):
    """One connection, seen from the session or client that drives it.

    `connected` is called once, when the connection is made. Every wait is bounded by its
    `timeout_s` and ends in `CommandError` 421 where that is over, and in `DisconnectedError`
    where the peer is gone.
    """

    def __init__(self, connected: Callable[[SmtpStream], None] = lambda _: None) -> None:
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._input = bytearray()
        self._output: list[bytes] = []
        self._ended = False
        self._may_write = True
        self._waiter: asyncio.Future[None] | None = None
        self._interruption: CommandError | None = None
        self.peer = ""
        self.tls: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the session."""
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else "unknown"
        self._connected(self)

    def data_received(self, data: bytes) -> None:
        """Keep what has come until the session asks for it."""
        self._input += data
        if len(self._input) > BUFFER_OCTETS and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Let the session end by itself: replies may still go out over plain TCP."""
        self._ended = True
        self._wake()
        return self.tls is None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the session at its next wait; work in progress is not disturbed."""
        self._transport = None
        self._ended = True
        self._wake()

    def pause_writing(self) -> None:
        """Hold the session back: the peer does not read our replies."""
        self._may_write = False

    def resume_writing(self) -> None:
        """Let the session go on."""
        self._may_write = True
        self._wake()

    def send(self, data: bytes) -> None:
        """Queue octets; they leave at the next wait, `start_tls` or `close`."""
        self._output.append(data)

    async def line(self, limit_octets: int, timeout_s: float) -> bytes:
        """Return the next line without its CRLF.

        Raises:
            CommandError: 500; the line was too long or held a bare CR or LF, and is skipped.
                421; nothing came in time, or the session was interrupted.
            DisconnectedError: the peer is gone.
        """
        too_long = False
        deadline_s = self._loop.time() + timeout_s
        while (end := self._input.find(b"\n")) < 0 or not self._may_write:
            if end < 0 and len(self._input) > limit_octets:
                too_long = True
                self._input.clear()
            if self._interruption is not None:
                raise self._interruption
            await self._more(deadline_s)
        line = bytes(self._input[: end + 1])
        del self._input[: end + 1]
        self._resume()
        if too_long or len(line) > limit_octets:
            # RFC5321 4.5.3.1.9
            raise CommandError(Reply(500, "5.5.2", "Line too long"))
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise CommandError(Reply(500, "5.5.2", "Lines end in CR LF"))
        return line[:-2]

    async def block(self, timeout_s: float) -> bytes:
        """Return the next octets, as many as there are.

        Raises:
            CommandError: 421; nothing came in time.
            DisconnectedError: the peer is gone.
        """
        deadline_s = self._loop.time() + timeout_s
        while not self._input:
            await self._more(deadline_s)
        block = bytes(self._input)
        self._input.clear()
        self._resume()
        return block

    def unread(self, data: bytes) -> None:
        """Put octets back that the session does not want yet."""
        self._input[:0] = data

    def interrupt(self, reply: Reply) -> None:
        """End the session with `reply` when it next waits for a command."""
        self._interruption = CommandError(reply)
        self._wake()

    async def drain(self, timeout_s: float) -> None:
        """Send what is queued and wait until the peer has taken most of it.

        Raises:
            CommandError: 421; it did not in time.
            DisconnectedError: the peer is gone.
        """
        deadline_s = self._loop.time() + timeout_s
        self._flush()
        while not self._may_write or self._transport is None:
            await self._more(deadline_s)

    async def start_tls(
        self, context: ssl.SSLContext, timeout_s: float, peer_name: str | None = None
    ) -> None:
        """Send what is queued, drop all input, and do the handshake.

        `peer_name` is the name of the server; without one, we are the server.

        Raises:
            ssl.SSLError: the handshake failed; the connection is closed.
            DisconnectedError: so did the peer.
        """
        self._flush()
        if self._transport is None:
            raise DisconnectedError
        # RFC3207 4.2: what came in clear before the handshake must not count after it.
        self._input.clear()
        try:
            secured = await self._loop.start_tls(
                self._transport,
                self,
                context,
                server_side=peer_name is None,
                server_hostname=peer_name,
                ssl_handshake_timeout=timeout_s,
            )
        except OSError as error:
            self.connection_lost(error)
            if isinstance(error, ssl.SSLError):
                raise
            raise DisconnectedError from error
        if secured is None:
            raise DisconnectedError
        self._transport = secured
        tunnel = cast(ssl.SSLObject, secured.get_extra_info("ssl_object"))
        cipher = tunnel.cipher()
        self.tls = f"{tunnel.version()} {cipher[0] if cipher else ''}".rstrip()

    def close(self) -> None:
        """Send what is queued and close the connection, soon also on a peer that reads nothing."""
        self._flush()
        if not self._may_write:
            self.abort()
        elif self._transport is not None:
            self._transport.close()
            self._loop.call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _more(self, deadline_s: float) -> None:
        """Wait until something has happened to the connection."""
        self._flush()
        if self._transport is None or (self._ended and self._may_write):
            raise DisconnectedError
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_at(deadline_s, _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _flush(self) -> None:
        if self._transport is not None and self._output:
            self._transport.write(b"".join(self._output))
        self._output.clear()

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        # RFC5321 4.5.3.2: the session is over; RFC3463 X.4.2 bad connection.
        waiter.set_exception(CommandError(Reply(421, "4.4.2", "Timed out, closing connection")))
