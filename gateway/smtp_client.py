"""One connection to one SMTP or LMTP server: greeting, EHLO, STARTTLS, AUTH, and messages.

Talks to one server through aiosmtplib. Only the content is written by us: aiosmtplib would rewrite
its line ends, which breaks signatures, copy it three times, and send it without flow control.

Standards:
    RFC5321 sections 3.1 to 3.3 and 4.5.3.2 (time-outs) · RFC1870
    RFC2033 section 4.1 (LHLO) · RFC3207 · RFC4954 and RFC4616 (AUTH PLAIN)
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Self

import aiosmtplib

from certs.address import DirectAddress
from gateway.dial import dial
from gateway.smtp_conversation import Conversation
from gateway.smtp_dot import DotStuffer
from gateway.smtp_reply import PeerReply, peer_reply
from gateway.smtp_text import PLAIN, LineEnds, Text
from gateway.tls import peer_chain

__all__ = ["BrokenError", "PeerError", "SmtpClient", "Timeouts"]

CHUNK_OCTETS: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a server, in seconds (RFC5321 4.5.3.2)."""

    connect_s: float = 30.0
    handshake_s: float = 60.0
    command_s: float = 300.0
    data_s: float = 120.0
    block_s: float = 180.0
    end_s: float = 600.0
    quit_s: float = 1.0


class PeerError(Exception):
    """The server refuses us altogether, before any recipient is concerned."""

    def __init__(self, reply: PeerReply) -> None:
        super().__init__(f"{reply.code} {reply.text}")
        self.reply = reply


class BrokenError(Exception):
    """There is no connection any more: closed, silent for too long, or not SMTP."""


class SmtpClient:
    """A connection that is greeted and ready for messages.

    Any of its coroutines may raise `BrokenError`; the connection is of no more use then.
    """

    def __init__(
        self, smtp: aiosmtplib.SMTP, *, hostname: str, timeouts: Timeouts, lmtp: bool
    ) -> None:
        self._smtp = smtp
        self._conversation: Conversation | None = None
        self._hostname = hostname
        self._timeouts = timeouts
        self._lmtp = lmtp
        self._dirty = False
        # Once the content is on its way, a connection that breaks leaves in doubt whether the
        # server has the message.
        self.in_doubt = False
        # Whoever demanded a certificate of the server has seen that it is right.
        self.verified = False
        # Why there is no TLS though the server offers it, where that was tried.
        self.tls_failure: str | None = None

    @classmethod
    async def connect(
        cls, address: str, port: int, *, hostname: str, timeouts: Timeouts, lmtp: bool = False
    ) -> Self:
        """Return a client that has said EHLO.

        Raises:
            BrokenError: there is no connection to be had.
            PeerError: the server does not want us.
        """
        try:
            connected = await dial(address, port, timeouts.connect_s)
        except OSError as error:
            raise _broken(error) from error
        smtp = aiosmtplib.SMTP(
            hostname=address,
            sock=connected,
            local_hostname=hostname,
            timeout=timeouts.command_s,
            start_tls=False,
        )
        client = cls(smtp, hostname=hostname, timeouts=timeouts, lmtp=lmtp)
        try:
            await smtp.connect()
            client._conversation = Conversation.take_over(smtp)
            await client.greet()
        except aiosmtplib.SMTPConnectResponseError as error:
            raise PeerError(_heard(error.code, error.message)) from error
        except aiosmtplib.SMTPException as error:
            raise _broken(error) from error
        except BaseException:
            client.abort()
            raise
        return client

    @property
    def alive(self) -> bool:
        """Is the connection still there, as far as we know?"""
        failed = self._conversation is not None and self._conversation.has_failed
        return self._smtp.is_connected and not failed

    @property
    def offers(self) -> Mapping[str, str]:
        """The extensions the server offers, by lower-case keyword, with their parameters."""
        return self._smtp.esmtp_extensions

    @property
    def tls(self) -> str | None:
        """TLS version and cipher, or None in clear or once the connection is gone."""
        tunnel = self.tunnel
        if tunnel is None:
            return None
        cipher = tunnel.cipher()
        return f"{tunnel.version()} {cipher[0] if cipher else ''}".rstrip()

    @property
    def tunnel(self) -> ssl.SSLObject | None:
        """The TLS connection, or None in clear or once the connection is gone."""
        if not self._smtp.is_connected:
            return None
        tunnel = self._smtp.get_transport_info("ssl_object")
        return tunnel if isinstance(tunnel, ssl.SSLObject) else None

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        """The certificates the server has sent, in DER, its own first; none without TLS."""
        tunnel = self.tunnel
        return peer_chain(tunnel) if tunnel is not None else ()

    @property
    def peer_certificate(self) -> bytes:
        """The server's own certificate in DER; empty without TLS."""
        return next(iter(self.peer_chain), b"")

    async def greet(self) -> None:
        """Say EHLO, or HELO to a server that knows no other, and learn what it offers.

        Raises:
            PeerError: it refuses both.
        """
        if self._lmtp:
            await self._greet_lmtp()
            return
        try:
            try:
                await self._smtp.ehlo()
            except aiosmtplib.SMTPHeloError:
                # RFC5321 3.2: a client falls back to HELO.
                await self._smtp.helo()
        except aiosmtplib.SMTPHeloError as error:
            raise PeerError(_heard(error.code, error.message)) from error
        except aiosmtplib.SMTPException as error:
            raise _broken(error) from error

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Secure the connection to the server called `name`, and say EHLO again.

        Raises:
            ssl.SSLError: the handshake failed, or the certificate does not satisfy `context`.
            PeerError: the server takes its offer back.
        """
        try:
            await self._smtp.starttls(
                tls_context=context, server_hostname=name, timeout=self._timeouts.handshake_s
            )
        except aiosmtplib.SMTPResponseException as error:
            raise PeerError(_heard(error.code, error.message)) from error
        except aiosmtplib.SMTPException as error:
            raise _broken(error) from error
        # RFC3207 4.2: what was offered in clear counts no more.
        await self.greet()

    async def authenticate(self, user: str, password: str) -> None:
        """Say who we are by AUTH PLAIN; only over TLS.

        Raises:
            PeerError: the server does not believe it.
        """
        try:
            await self._smtp.auth_plain(user, password)
        except aiosmtplib.SMTPResponseException as error:
            raise PeerError(_heard(error.code, error.message)) from error
        except aiosmtplib.SMTPException as error:
            raise _broken(error) from error

    async def deliver(
        self,
        sender: DirectAddress | None,
        recipients: Sequence[DirectAddress],
        message: BinaryIO,
        size: int,
        text: Text = PLAIN,
    ) -> list[PeerReply]:
        """Hand over a message; return the server's word on each recipient, in order.

        `size` is in octets, on the wire; `text` is what was found in it.
        """
        self._talk().in_messages = True
        options = [f"SIZE={size}"] if "size" in self.offers else []
        if text.eight_bit and "8bitmime" in self.offers:
            options.append("BODY=8BITMIME")
        # RFC5321 4.1.1.2: "<>" is the null reverse-path.
        mail = " ".join((f"MAIL FROM:<{sender or ''}>", *options))
        together = "pipelining" in self.offers
        replies, ready = await (self._together if together else self._in_turn)(mail, recipients)
        accepted = [index for index, reply in enumerate(replies) if reply.positive]
        if accepted:
            ready = ready or await self._ask("DATA", timeout_s=self._timeouts.data_s)
            final = ready
            if ready.code == 354:
                final = await self._content(message, size, None if text.is_plain else LineEnds())
            elif ready.code < 400:
                # RFC5321 4.3.2: nothing else asks for content, and it has got none.
                self.abort()
                raise BrokenError(f"the server answers DATA with {ready.code}")
            for index in accepted:
                replies[index] = final
        return replies

    async def quit(self) -> None:
        """Leave politely, but without waiting long."""
        try:
            await self._smtp.quit(timeout=self._timeouts.quit_s)
        except aiosmtplib.SMTPException:
            self.abort()

    def abort(self) -> None:
        """Leave at once."""
        transport = self._smtp.transport
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
        self._smtp.close()

    async def _greet_lmtp(self) -> None:
        # RFC2033 4.1: LHLO is EHLO in all but name, and its reply is read the same way.
        words = (b"LHLO", self._hostname.encode("ascii"))
        try:
            response = await self._smtp.execute_command(*words, timeout=self._timeouts.command_s)
        except aiosmtplib.SMTPException as error:
            raise _broken(error) from error
        if response.code != 250:
            raise PeerError(_heard(response.code, response.message))
        self._smtp.last_ehlo_response = response

    async def _in_turn(
        self, mail: str, recipients: Sequence[DirectAddress]
    ) -> tuple[list[PeerReply], PeerReply | None]:
        """Say the envelope command by command; return the word on each recipient."""
        if self._dirty:
            await self._ask("RSET")
        self._dirty = True
        reply = await self._ask(mail)
        if not reply.positive:
            return [reply for _ in recipients], None
        replies = []
        for recipient in recipients:
            reply = await self._ask(f"RCPT TO:<{recipient}>")
            if reply.code == 421:
                # RFC5321 3.8: it closes the connection, and the whole transaction is void.
                return [reply for _ in recipients], None
            replies.append(reply)
        return replies, None

    async def _together(
        self, mail: str, recipients: Sequence[DirectAddress]
    ) -> tuple[list[PeerReply], PeerReply | None]:
        """Say the envelope and DATA at once; return the word on each recipient, and on DATA."""
        reset = ["RSET"] if self._dirty else []
        self._dirty = True
        rcpts = [f"RCPT TO:<{recipient}>" for recipient in recipients]
        heard = []
        self._say(*reset, mail, *rcpts, "DATA")
        for left in reversed(range(len(reset) + len(rcpts) + 2)):
            reply = await self._reply(self._timeouts.command_s if left else self._timeouts.data_s)
            if reply.code == 421:
                return [reply for _ in recipients], None
            heard.append(reply)
        *before, ready = heard[len(reset) :]
        taken, replies = before[0], before[1:]
        if not taken.positive:
            replies = [taken for _ in recipients]
        if ready.code == 354 and not any(reply.positive for reply in replies):
            # RFC2920 3.1: it waits for content all the same, and gets none.
            self._say(".")
            await self._reply(self._timeouts.end_s)
        return replies, ready

    async def _content(self, message: BinaryIO, size: int, line_ends: LineEnds | None) -> PeerReply:
        self.in_doubt = True
        try:
            response = await self._stream(message, size, line_ends)
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _broken(error) from error
        reply = _heard(response.code, response.message)
        self.in_doubt = self._dirty = False
        return reply

    async def _stream(
        self, message: BinaryIO, size: int, line_ends: LineEnds | None
    ) -> aiosmtplib.SMTPResponse:
        """Write the content as it is but for dots and bare CR and LF, at the server's pace."""
        protocol = self._talk()
        protocol.expect(1)  # a refusal in the midst of the content counts
        stuffer = DotStuffer()
        try:
            last = b""  # goes together with the end
            while chunk := await _read(message, size):
                if last:
                    protocol.write(last)
                    async with asyncio.timeout(self._timeouts.block_s):
                        await protocol._drain_helper()
                    if protocol.has_heard:
                        return await self._interrupted(protocol)
                last = stuffer.feed(line_ends.feed(chunk) if line_ends else chunk)
            rest = stuffer.feed(line_ends.finish()) if line_ends else b""
            if protocol.has_heard:
                return await self._interrupted(protocol)
            protocol.write(last + rest + stuffer.finish())
        except (aiosmtplib.SMTPServerDisconnected, ConnectionError):
            pass  # The server may have said why.
        return await protocol.read_response(timeout=self._timeouts.end_s)

    async def _interrupted(self, protocol: Conversation) -> aiosmtplib.SMTPResponse:
        """Return a refusal that came in the midst of the content; what followed would be commands.

        Raises:
            SMTPServerDisconnected: it was no refusal, and could not be of the whole message.
        """
        reply = await protocol.read_response(timeout=self._timeouts.end_s)
        self.abort()
        if reply.code < 400:
            raise aiosmtplib.SMTPServerDisconnected("A reply before the end of the content")
        return reply

    async def _ask(self, command: str, timeout_s: float | None = None) -> PeerReply:
        self._say(command)
        return await self._reply(timeout_s or self._timeouts.command_s)

    def _say(self, *commands: str) -> None:
        try:
            self._talk().say([command.encode("ascii") for command in commands])
        except aiosmtplib.SMTPException as error:
            raise _broken(error) from error

    async def _reply(self, timeout_s: float) -> PeerReply:
        try:
            response = await self._talk().read_response(timeout_s)
        except aiosmtplib.SMTPException as error:
            raise _broken(error) from error
        return _heard(response.code, response.message)

    def _talk(self) -> Conversation:
        if self._conversation is None:
            raise BrokenError("not connected")
        return self._conversation


async def _read(message: BinaryIO, size: int) -> bytes:
    if size <= CHUNK_OCTETS:
        return message.read(CHUNK_OCTETS)  # in memory already
    return await asyncio.to_thread(message.read, CHUNK_OCTETS)


def _heard(code: int, message: str) -> PeerReply:
    reply = peer_reply(code, message)
    if reply is None:
        raise BrokenError("what the server says is not SMTP")
    return reply


def _broken(error: Exception) -> BrokenError:
    return BrokenError(str(error) or type(error).__name__)
