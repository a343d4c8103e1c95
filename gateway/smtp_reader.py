"""What an SMTP client sends, as strict command lines and as blocks of content.

Talks to the transport under it, which it pauses while nobody takes what has come.

Standards:
    RFC5321 sections 2.3.8 (lines end in CRLF; bare CR and LF are refused) and 4.5.3.1 (lengths)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.smtp_limits import AUTH_LINE_OCTETS
from gateway.status import CommandError, Reply

__all__ = ["TIMED_OUT", "SmtpReader"]

# Reading pauses above twice this many octets that nobody has asked for yet. aiosmtpd's own limit,
# one line of text, would stop the transport after every 2 KiB of content.
BUFFER_OCTETS: Final = 128 * 1024
# More than the buffer can hold, so that one read always empties it.
ALL_OCTETS: Final = 1 << 30

# RFC5321 4.5.3.2: the session is over; RFC3463 X.4.2 bad connection.
TIMED_OUT: Final = Reply(421, "4.4.2", "Timed out, closing connection")


class SmtpReader(asyncio.StreamReader):
    """The reader under aiosmtpd's command loop.

    `check` sees each command line before the loop does, and raises what is to be said of it. A
    client that is gone shows as `ConnectionResetError`, aiosmtpd's word for it.
    """

    # Of the base class, and known to aiosmtpd, which clears it after a TLS handshake.
    _buffer: bytearray

    def __init__(self, check: Callable[[bytes], None]) -> None:
        super().__init__(limit=BUFFER_OCTETS, loop=asyncio.get_running_loop())
        self._check = check
        self._waits_for_line = False
        self._waits_for_block = False
        self._interruption: CommandError | None = None

    @property
    def waits_for_line(self) -> bool:
        """Is it the client's turn to say something, and no content?"""
        return self._waits_for_line

    @property
    def has_line(self) -> bool:
        """Is there a whole line to take without waiting?"""
        return b"\n" in self._buffer

    async def readuntil(self, separator: object = b"\n") -> bytes:
        """Return the next command line; aiosmtpd's loop calls this for each, with no argument.

        Raises:
            CommandError: as `line`, and what `check` raises.
            ConnectionResetError: the client is gone.
        """
        line = await self.line()
        self._check(line)
        return line

    async def line(self) -> bytes:
        """Return the next line without its CRLF.

        Raises:
            CommandError: 500; the line was too long or held a bare CR or LF, and is skipped.
                421; the wait was ended by `interrupt` or `expire`.
            ConnectionResetError: the client is gone.
        """
        if self._interruption is not None:
            raise self._interruption
        self._waits_for_line = True
        try:
            line = await self._whole_line()
        except asyncio.IncompleteReadError:
            raise ConnectionResetError from None
        finally:
            self._waits_for_line = False
        if len(line) > AUTH_LINE_OCTETS:
            # RFC5321 4.5.3.1.9
            raise CommandError(Reply(500, "5.5.2", "Line too long"))
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise CommandError(Reply(500, "5.5.2", "Lines end in CR LF"))
        return line[:-2]

    async def _whole_line(self) -> bytes:
        """Return the next line, or its last part of more than the limit."""
        skipped = b""
        while True:
            try:
                return skipped + await super().readuntil(b"\n")
            except asyncio.LimitOverrunError as overrun:
                skipped = await self.read(overrun.consumed)

    async def block(self) -> bytes:
        """Return the next octets of content, as many as there are.

        Raises:
            CommandError: 421; the wait was ended by `expire`.
            ConnectionResetError: the client is gone.
        """
        self._waits_for_block = True
        try:
            block = await self.read(ALL_OCTETS)
        finally:
            self._waits_for_block = False
        if not block:
            raise ConnectionResetError
        return block

    def unread(self, data: bytes) -> None:
        """Put octets back that are not content."""
        self._buffer[:0] = data

    async def drop(self) -> None:
        """Forget what has come and was not asked for."""
        if self._buffer:
            await self.read(ALL_OCTETS)

    def interrupt(self, reply: Reply) -> None:
        """End the wait for a command, the present one or the next, with `reply`."""
        self._interruption = CommandError(reply)
        if self._waits_for_line:
            self.set_exception(self._interruption)

    def expire(self) -> bool:
        """End the present wait for octets, if there is one, and say whether there was."""
        waits = self._waits_for_line or self._waits_for_block
        if waits:
            self.set_exception(CommandError(TIMED_OUT))
        return waits
