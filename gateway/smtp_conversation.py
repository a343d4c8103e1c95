"""What a server says to commands that were sent together.

Talks to one server, as the protocol under aiosmtplib. Its own keeps one reply and drops what comes
before that is taken, so that each command has to wait for the reply to the last.

Standards:
    RFC2920 section 3.1 (PIPELINING, the client's side)
    RFC3207 section 4.2 (what comes unasked does not count)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Self, cast

import aiosmtplib
from aiosmtplib.protocol import MAX_RESPONSE_LENGTH, SMTPProtocol

__all__ = ["Conversation"]


class Conversation(SMTPProtocol):
    """Keeps the replies that are expected until they are asked for.

    All others are dropped; in the midst of messages they end the connection, for the next reply
    could be to something else than what was said last.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, before: SMTPProtocol) -> None:
        super().__init__(loop, before._connection_lost_callback)
        self._expected = 0
        self._heard: deque[aiosmtplib.SMTPResponse] = deque()
        self._failure: aiosmtplib.SMTPException | None = None
        self._woken: asyncio.Future[None] | None = None
        # Within the greeting and STARTTLS an intruder may put words in, which count for nothing.
        self.in_messages = False

    @property
    def has_heard(self) -> bool:
        """Whether a reply is there that nobody has asked for yet."""
        return bool(self._heard)

    @property
    def has_failed(self) -> bool:
        """Whether no more can be said."""
        return self._failure is not None

    @classmethod
    def take_over(cls, smtp: aiosmtplib.SMTP) -> Self:
        """Take the place of the protocol of a connection that was greeted.

        Raises:
            SMTPServerDisconnected: there is none any more.
        """
        before = smtp.protocol
        if before is None or before.transport is None:
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        conversation = cls(asyncio.get_running_loop(), before)
        conversation.connection_made(before.transport)
        cast(asyncio.Transport, before.transport).set_protocol(conversation)
        smtp.protocol = conversation
        return conversation

    def expect(self, replies: int) -> None:
        """Keep so many more replies, to what is written next."""
        self._expected += replies

    def say(self, commands: Sequence[bytes]) -> None:
        """Send commands together; `read_response` then returns a reply to each, in order.

        Raises:
            ValueError: one of them is more than a line.
            SMTPServerDisconnected: the connection is gone.
        """
        if any(octet in command for command in commands for octet in (b"\r", b"\n", b"\0")):
            raise ValueError("a command is one line")
        self.expect(len(commands))
        self.write(b"\r\n".join((*commands, b"")))

    async def read_response(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - aiosmtplib's own
    ) -> aiosmtplib.SMTPResponse:
        """Return the next reply.

        Raises:
            SMTPReadTimeoutError: there is none after `timeout` seconds.
            SMTPServerDisconnected: the connection is gone.
            SMTPResponseException: what comes is no reply.
        """
        self._expected = max(self._expected, 1)
        try:
            async with asyncio.timeout(timeout):
                while not self._heard:
                    await self._more()
        except TimeoutError as error:
            raise aiosmtplib.SMTPReadTimeoutError("Timed out waiting for a reply") from error
        self._expected -= 1
        return self._heard.popleft()

    async def _more(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._woken = self._loop.create_future()
        await self._woken

    def data_received(self, data: bytes) -> None:
        """Take what the server says."""
        if not self._expected:
            self._unasked()
            return
        self._buffer.extend(data)
        if b"\n" in data and _ends_reply(self._buffer):
            self._take_replies()
        if len(self._buffer) > MAX_RESPONSE_LENGTH:
            self._fail(aiosmtplib.SMTPResponseException(-1, "Response too long"))
        self._wake()

    def _take_replies(self) -> None:
        try:
            while len(self._heard) < self._expected:
                reply = self._read_response_from_buffer()
                if reply is None:
                    return
                self._heard.append(reply)
        except aiosmtplib.SMTPResponseException as error:
            self._fail(error)
        if self._buffer:
            self._buffer.clear()
            self._unasked()

    def _unasked(self) -> None:
        if self.in_messages:
            self._fail(aiosmtplib.SMTPServerDisconnected("The server speaks unasked"))

    def eof_received(self) -> bool:
        """Let the transport close; what was said before still counts."""
        self._fail(aiosmtplib.SMTPServerDisconnected("Unexpected EOF received"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Let who waits for a reply know that none comes; none to QUIT is as good as one."""
        super().connection_lost(exc)
        if self._quit_sent:
            self._heard.append(aiosmtplib.SMTPResponse(221, ""))
        self._fail(aiosmtplib.SMTPServerDisconnected("Connection lost"))

    def _fail(self, error: aiosmtplib.SMTPException) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


def _ends_reply(said: bytearray) -> bool:
    """Say whether the last whole line in `said` is the last of a reply (RFC5321 4.2.1)."""
    end = said.rfind(b"\n")
    start = said.rfind(b"\n", 0, end) + 1
    return said[start + 3 : start + 4] != b"-"
