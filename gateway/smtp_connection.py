"""How one SMTP connection runs: admission, time, replies, errors, and its end.

Talks to one client through `aiosmtpd.smtp.SMTP`, whose connection, command loop, session, envelope
and STARTTLS are kept. What is overridden here and why (`transport.md` 1.5):

    the reader         bare LF ended a command; 2 KiB were read at a time
    push               one write for each reply, also where commands were pipelined
    the timer          it closed the connection without a word, also during a commit
    eof_received       a half-close cancelled the command in progress
    handle_exception   it told the client the error's text, and bounced the message with 500
    size limits        they were one table for all connections, which clients could grow

Standards:
    RFC5321 sections 3.8, 4.2 and 4.5.3.2 · RFC2034 (enhanced codes) · RFC2920 section 3.2
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, AnyStr, ClassVar, Final, cast
from uuid import UUID
from weakref import WeakValueDictionary

import structlog
from aiosmtpd.smtp import SMTP, TLSSetupException

from certs.errors import DirectError
from gateway.ports import Reception, Role
from gateway.smtp_limits import AUTH_LINE_OCTETS, Census, Limits, client_key
from gateway.smtp_proxy import Network, ProxyError, is_proxy, proxied_peer
from gateway.smtp_reader import SmtpReader
from gateway.status import CommandError, Reply, reply_to

__all__ = ["Service", "SmtpConnection"]

_log = structlog.get_logger(__name__)

# A client has this long to take our last reply.
LINGER_S: Final = 5.0
# Replies to pipelined commands are held back until there are this many; then others are served.
HELD_REPLIES: Final = 100

# RFC5321 3.8, 4.2.2: the server closes the channel after these.
_LAST_WORDS: Final = (b"221", b"421")
_LONG_SESSION: Final = Reply(421, "4.3.2", "Connection was open long enough")
_IDLE: Final = Reply(421, "4.7.0", "Too many commands without a message")
# RFC2034 4 wants the code that aiosmtpd leaves out in the one reply of its own that we let it say.
_READY: Final = {b"220 Ready to start TLS": b"220 2.0.0 Ready to start TLS"}


@dataclass(frozen=True)
class Service:
    """What the connections of one listener have in common.

    `commits` are those in progress, also where the client is gone.
    """

    role: Role
    reception: Reception
    hostname: str
    tls: ssl.SSLContext
    limits: Limits
    census: Census
    proxies: Sequence[Network] = ()
    connections: dict[asyncio.Task[None], SmtpConnection] = field(default_factory=dict)
    commits: set[asyncio.Task[UUID]] = field(default_factory=set)
    turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def turn(self, peer: str) -> asyncio.Lock:
        """Return what lets one password from this client at a time be looked at.

        Else each of many connections would be looked at before any other has failed.
        """
        return self.turns.setdefault(client_key(peer), asyncio.Lock())


class SmtpConnection(SMTP):
    """One connection, from greeting to close; a subclass adds the commands."""

    _commands: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._commands = tuple(name for name in dir(cls) if name.startswith(("smtp_", "auth_")))

    def __init__(self, service: Service) -> None:
        self._service = service
        self._errors = 0
        self._idle_commands = 0
        self._crowd_idle_s = service.limits.crowd_idle_s
        self._active_s = 0.0
        self._deadline_s = 0.0
        self._held: list[bytes] = []
        self._proxied: str | None = None
        self._tls_told: str | None = None  # a connection has one handshake at most
        # aiosmtpd clears this, the class's own, in each constructor. What is enforced is decided
        # in `check_command`.
        self.command_size_limit = AUTH_LINE_OCTETS
        self.command_size_limits = defaultdict(lambda: AUTH_LINE_OCTETS)
        super().__init__(
            None,
            hostname=service.hostname,
            ident="ESMTP",  # and no version
            data_size_limit=service.limits.size_octets,
            tls_context=service.tls,
            timeout=service.limits.idle_s,
            loop=asyncio.get_running_loop(),
        )
        self._input = SmtpReader(self.check_command)
        # Once more, to put our reader where aiosmtpd has put its own.
        asyncio.StreamReaderProtocol.__init__(
            self, self._input, self._cb_client_connected, self.loop
        )

    def __dir__(self) -> Iterable[str]:
        """Return the names of the commands: aiosmtpd asks at each connection, for these alone.

        Without this it reads every attribute there is: 0.2 ms of CPU, and 0.05 with (measured).
        """
        return self._commands

    def check_command(self, line: bytes) -> None:
        """Return where the command loop may have this line; a subclass refuses some.

        Raises:
            CommandError: what is to be said instead.
            DirectError: why not.
        """

    @property
    def peer(self) -> str:
        """The client's IP address."""
        if self._proxied is not None:
            return self._proxied
        name = self.session.peer if self.session is not None else None
        return str(name[0]) if isinstance(name, tuple) else "unknown"

    @property
    def tls(self) -> str | None:
        """TLS version and cipher, or None in clear."""
        facts = self._tls_facts()
        if facts is not None and self._tls_told is None:
            tunnel = cast(ssl.SSLObject, facts["ssl_object"])
            cipher = tunnel.cipher()
            self._tls_told = f"{tunnel.version()} {cipher[0] if cipher else ''}".rstrip()
        return self._tls_told

    def _tls_facts(self) -> dict[str, Any] | None:
        return self.session.ssl if self.session is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the conversation; called once more when a TLS handshake is done."""
        super().connection_made(transport)
        conversation = self._handler_coroutine
        if self._tls_protocol is None and conversation is not None:
            self._service.connections[conversation] = self
            conversation.add_done_callback(self._service.connections.pop)

    def eof_received(self) -> bool:
        """Let the command in progress end: its reply may still go out over plain TCP."""
        self._input.feed_eof()
        return self._tls_facts() is None

    def interrupt(self, reply: Reply) -> None:
        """End the conversation with `reply` when it next waits for a command."""
        self._input.interrupt(reply)

    def abort(self) -> None:
        """Close the connection at once; aiosmtpd then cancels the command in progress."""
        self._writer.transport.abort()

    async def _handle_client(self) -> None:
        service = self._service
        if is_proxy(self.peer, service.proxies):
            try:
                self._proxied = await proxied_peer(self._input, service.limits.handshake_s)
            except ProxyError as error:
                _log.warning("proxy header refused", peer=self.peer, error=str(error))
                self.abort()
                return
        refusal = service.census.admit(self.peer, self.loop.time())
        if refusal is not None:
            await self.push(str(refusal))
            return
        end = self.loop.call_later(service.limits.session_s, self.interrupt, _LONG_SESSION)
        try:
            await super()._handle_client()
        except ConnectionResetError:
            pass  # The client is gone, and the connection closed.
        finally:
            end.cancel()
            service.census.leave(self.peer)

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Move the deadline. A timer that goes off too early is set anew: most never do."""
        self._active_s = self.loop.time()
        self._deadline_s = self._active_s + (duration or self._timeout_duration)
        timer = self._timeout_handle
        if timer is None or timer.when() > self._deadline_s:
            self._look_in(self._deadline_s - self._active_s)

    def _timeout_cb(self) -> None:
        """End a wait for the client; while the gateway is at work nobody is late."""
        left_s = self._deadline_s - self.loop.time()
        if self._input.waits_for_line and self._service.census.crowded:
            left_s = min(left_s, self._active_s + self._crowd_idle_s - self.loop.time())
        self._look_in(left_s if left_s > 0 else self._timeout_duration)
        if left_s > 0:
            return
        shaking_hands = self._tls_protocol is not None and self._tls_facts() is None
        if self._input.expire():
            return
        unsent = self._writer.transport.get_write_buffer_size()
        if self.transport is None or unsent or shaking_hands:
            self.abort()

    def _look_in(self, wait_s: float) -> None:
        # Often enough to see that there is a crowd.
        super()._reset_timeout(min(wait_s, self._crowd_idle_s))

    def idled(self) -> None:
        """Count a command that brings no message further.

        Raises:
            CommandError: 421; there were too many since the last message.
        """
        self._idle_commands += 1
        limits = self._service.limits
        crowded = self._service.census.crowded
        if self._idle_commands > (limits.crowd_idle_commands if crowded else limits.idle_commands):
            raise CommandError(_IDLE)

    async def push(self, status: AnyStr) -> None:
        """Say one reply, or hold it back while the next command is here already (RFC2920 3.2)."""
        line = status.encode("ascii") if isinstance(status, str) else status
        self._held.append(_READY.get(line, line) + b"\r\n")
        self._reset_timeout()
        if line.startswith(_LAST_WORDS):
            self._leave()
        elif not self._input.has_line:
            await self.flush()
        elif len(self._held) >= HELD_REPLIES:
            await self.flush()
            await asyncio.sleep(0)  # It is the other connections' turn.

    async def say(self, reply: Reply) -> None:
        """Say one reply, of several lines where its text has them."""
        # RFC5321 4.2.1: every line but the last has "-" after the code.
        *others, last = reply.text.split("\n")
        lines = [f"{reply.code}-{text}" for text in others]
        lines.append(str(Reply(reply.code, reply.status, last)))
        await self.push("\r\n".join(lines))

    async def flush(self) -> None:
        """Send what was held back, and wait while the client does not read."""
        self._writer.write(b"".join(self._held))
        self._held.clear()
        # The reader's interruption shows here too; it is answered at the next read.
        with suppress(CommandError):
            await self._writer.drain()

    def _leave(self) -> None:
        """Send what was held back and close, soon also on a client that reads nothing."""
        self._writer.write(b"".join(self._held))
        self._writer.close()
        self._reset_timeout(LINGER_S)
        self.transport = None  # This ends aiosmtpd's command loop.

    async def handle_exception(self, error: Exception) -> str:
        """Return what to say of a command that failed."""
        if isinstance(error, TLSSetupException):
            _log.info("smtp handshake failed", peer=self.peer)
            return ""
        reply = self._reply_to(error)
        self._errors += 1
        if self._errors > self._service.limits.errors and not reply.closes:
            reply = Reply(421, "4.7.0", "Too many errors")
        return str(reply)

    def _reply_to(self, error: Exception) -> Reply:
        if isinstance(error, CommandError):
            return error.reply
        if isinstance(error, DirectError):
            _log.info("smtp refusal", peer=self.peer, reason=error.reason.code)
            return reply_to(error.reason)
        # A bug or a broken disk must not bounce mail, nor tell the client of our insides.
        reference = os.urandom(4).hex()
        _log.exception("smtp failure", reference=reference, error=type(error).__name__)
        return Reply(451, "4.3.0", f"Internal error {reference}, try again later")
