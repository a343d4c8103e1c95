"""One connection to one SMTP server: greeting, EHLO, STARTTLS, and messages.

Talks to one `SmtpStream`. MAIL and RCPT leave together where the server allows pipelining; the
content leaves in large chunks that are not copied line by line.

Standards:
    RFC5321 sections 3.1 to 3.3, 4.2 (replies) and 4.5.3.2 (time-outs) · RFC1870 · RFC2034
    RFC2920 · RFC3207 · RFC4954 and RFC4616 (AUTH PLAIN, to a smart host or an EHR)
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Self

from certs.address import DirectAddress
from gateway.smtp_dot import DotStuffer
from gateway.smtp_stream import DisconnectedError, SmtpStream
from gateway.status import CommandError

__all__ = ["PeerError", "PeerReply", "SmtpClient", "Timeouts"]

CHUNK_OCTETS: Final = 256 * 1024
# A reply is short; these bound what a hostile server can make us keep.
REPLY_LINES: Final = 100
REPLY_LINE_OCTETS: Final = 2048

_REPLY: Final = re.compile(rb"([2-5][0-9]{2})([ -]?)(.*)")
_STATUS: Final = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a server, in seconds (RFC5321 4.5.3.2)."""

    connect_s: float = 30.0
    handshake_s: float = 60.0
    command_s: float = 300.0
    data_s: float = 120.0
    block_s: float = 180.0
    end_s: float = 600.0
    quit_s: float = 5.0


@dataclass(frozen=True, slots=True)
class PeerReply:
    """What a server said. `text` is bounded and has no control characters."""

    code: int
    status: str
    text: str

    @property
    def positive(self) -> bool:
        """Did it agree (2xx)?"""
        return self.code < 300


class PeerError(Exception):
    """The server refuses us altogether, before any recipient is concerned."""

    def __init__(self, reply: PeerReply) -> None:
        super().__init__(f"{reply.code} {reply.text}")
        self.reply = reply


class SmtpClient:
    """A connection that is greeted and ready for messages.

    Any of its coroutines may raise `DisconnectedError` or, where the server is silent or talks
    nonsense, `CommandError`; the connection is of no more use then.
    """

    def __init__(self, stream: SmtpStream, *, hostname: str, timeouts: Timeouts) -> None:
        self._stream = stream
        self._hostname = hostname
        self._timeouts = timeouts
        self._dirty = False
        self.offers: dict[str, str] = {}
        # Once the content is on its way, a connection that breaks leaves in doubt whether the
        # server has the message.
        self.in_doubt = False

    @classmethod
    async def connect(cls, address: str, port: int, *, hostname: str, timeouts: Timeouts) -> Self:
        """Return a client that has said EHLO.

        Raises:
            OSError: there is no connection; TimeoutError is of this kind.
            PeerError: the server does not want us.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeouts.connect_s):
            _, stream = await loop.create_connection(SmtpStream, address, port)
        client = cls(stream, hostname=hostname, timeouts=timeouts)
        try:
            client._require(await client._reply(timeouts.command_s))
            await client.greet()
        except BaseException:
            stream.abort()
            raise
        return client

    @property
    def tls(self) -> str | None:
        """TLS version and cipher, or None in clear."""
        return self._stream.tls

    async def greet(self) -> None:
        """Say EHLO, or HELO to a server that knows no other, and learn what it offers.

        Raises:
            PeerError: it refuses both.
        """
        reply = await self._ask(f"EHLO {self._hostname}")
        if not reply.positive:
            # RFC5321 3.2: a client falls back to HELO.
            self._require(await self._ask(f"HELO {self._hostname}"))
        self.offers = _offers(reply) if reply.positive else {}

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Secure the connection to the server called `name`, and say EHLO again.

        Raises:
            ssl.SSLError: the handshake failed, or the certificate does not satisfy `context`.
            PeerError: the server takes its offer back.
        """
        self._require(await self._ask("STARTTLS"))
        await self._stream.start_tls(context, self._timeouts.handshake_s, name)
        # RFC3207 4.2: what was offered in clear counts no more.
        await self.greet()

    async def authenticate(self, user: str, password: str) -> None:
        """Say who we are by AUTH PLAIN; only over TLS.

        Raises:
            PeerError: the server does not believe it.
        """
        response = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        self._require(await self._ask(f"AUTH PLAIN {response}"))

    async def deliver(
        self,
        sender: DirectAddress | None,
        recipients: Sequence[DirectAddress],
        message: BinaryIO,
        size: int,
    ) -> list[PeerReply]:
        """Hand over a message; return the server's word on each recipient, in order."""
        replies = await self._envelope(sender, recipients, size)
        accepted = [index for index, reply in enumerate(replies) if reply.positive]
        if accepted:
            final = await self._content(message, size)
            for index in accepted:
                replies[index] = final
        return replies

    async def quit(self) -> None:
        """Leave politely, but without waiting long."""
        try:
            self._stream.send(b"QUIT\r\n")
            await self._reply(self._timeouts.quit_s)
        except (DisconnectedError, CommandError):
            pass
        finally:
            self._stream.close()

    def abort(self) -> None:
        """Leave at once."""
        self._stream.abort()

    async def _envelope(
        self, sender: DirectAddress | None, recipients: Sequence[DirectAddress], size: int
    ) -> list[PeerReply]:
        # RFC5321 4.1.1.2: "<>" is the null reverse-path.
        mail = f"MAIL FROM:<{sender or ''}>" + (f" SIZE={size}" if "SIZE" in self.offers else "")
        commands = ["RSET"] if self._dirty else []
        commands += [mail, *(f"RCPT TO:<{recipient}>" for recipient in recipients)]
        self._dirty = True
        replies = await self._ask_all(commands)
        sender_reply, *recipient_replies = replies[-1 - len(recipients) :]
        if not sender_reply.positive:
            return [sender_reply for _ in recipients]
        return recipient_replies

    async def _content(self, message: BinaryIO, size: int) -> PeerReply:
        reply = await self._ask("DATA", self._timeouts.data_s)
        if reply.code != 354:
            return reply
        self.in_doubt = True
        try:
            stuffer = DotStuffer()
            while chunk := await _read(message, size):
                self._stream.send(stuffer.feed(chunk))
                await self._stream.drain(self._timeouts.block_s)
            self._stream.send(stuffer.finish())
        except DisconnectedError:
            pass  # A server that refuses in the midst of the content may have said why.
        reply = await self._reply(self._timeouts.end_s)
        self.in_doubt = self._dirty = False
        return reply

    async def _ask_all(self, commands: Sequence[str]) -> list[PeerReply]:
        if "PIPELINING" not in self.offers:
            return [await self._ask(command) for command in commands]
        for command in commands:
            self._stream.send(f"{command}\r\n".encode("ascii"))
        return [await self._reply(self._timeouts.command_s) for _ in commands]

    async def _ask(self, command: str, timeout_s: float | None = None) -> PeerReply:
        self._stream.send(f"{command}\r\n".encode("ascii"))
        return await self._reply(timeout_s or self._timeouts.command_s)

    async def _reply(self, timeout_s: float) -> PeerReply:
        """Read one reply.

        Raises:
            DisconnectedError: the server left, or what it says is not SMTP.
        """
        texts: list[str] = []
        for _ in range(REPLY_LINES):
            line = _REPLY.fullmatch(await self._stream.line(REPLY_LINE_OCTETS, timeout_s))
            if line is None:
                raise DisconnectedError("not an SMTP reply")
            texts.append(_printable(line[3]))
            if line[2] != b"-":
                return _reply_of(int(line[1]), texts)
        raise DisconnectedError("an endless SMTP reply")

    def _require(self, reply: PeerReply) -> None:
        if not reply.positive:
            raise PeerError(reply)


async def _read(message: BinaryIO, size: int) -> bytes:
    if size <= CHUNK_OCTETS:
        return message.read(CHUNK_OCTETS)  # in memory already
    return await asyncio.to_thread(message.read, CHUNK_OCTETS)


def _reply_of(code: int, texts: list[str]) -> PeerReply:
    # RFC2034 4: the enhanced code begins each line; RFC3463 2: its class is that of the code.
    found = _STATUS.match(texts[-1])
    digit = str(code)[0]
    status = found[1] if found and found[1][0] == digit else f"{digit}.0.0"
    return PeerReply(code, status, "\n".join(texts))


def _offers(reply: PeerReply) -> dict[str, str]:
    lines = (line.partition(" ") for line in reply.text.split("\n")[1:])
    return {keyword.upper(): value for keyword, _, value in lines}


def _printable(octets: bytes) -> str:
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "?" for octet in octets)
