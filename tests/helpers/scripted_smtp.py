"""A peer that answers SMTP as the test says: refusals, silence, and breaking off, at any step."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

__all__ = ["HANG_UP", "SILENCE", "ScriptedServer", "serving"]

HANG_UP = "HANG_UP"
SILENCE = "SILENCE"

_DEFAULTS: Mapping[str, str] = {
    "CONNECT": "220 mx.b.example ESMTP",
    "EHLO": "250-mx.b.example\r\n250-PIPELINING\r\n250 SIZE 1000000",
    "HELO": "250 mx.b.example",
    "LHLO": "250-mx.b.example\r\n250 PIPELINING",
    "STARTTLS": "220 Go on",
    "AUTH": "235 2.7.0 Welcome",
    "MAIL": "250 2.1.0 OK",
    "RCPT": "250 2.1.5 OK",
    "DATA": "354 Go on",
    ".": "250 2.0.0 Queued as X",
    "RSET": "250 2.0.0 OK",
    "QUIT": "221 2.0.0 Bye",
}


@dataclass
class ScriptedServer:
    """`replies` is by verb ("CONNECT", "EHLO", ..., "." for the end of data) or by whole command.

    A reply of HANG_UP closes the connection, one of SILENCE waits for the client to go. A reply to
    "CONTENT" is said in the midst of it. `left` is set when somebody says QUIT. The
    reply to content waits for `gate`.
    """

    replies: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    commands: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    connections: int = 0
    address: tuple[str, int] = ("", 0)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None
    _recipients: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        goes_on = await self._say(reader, writer, "CONNECT", "CONNECT")
        while goes_on and (line := await reader.readline()):
            command = line.decode().rstrip("\r\n")
            verb = command.partition(" ")[0].upper()
            self.commands.append(command)
            goes_on = await self._say(reader, writer, command, verb)
            if verb in ("MAIL", "RSET"):
                self._recipients = 0
            if verb == "RCPT" and self._reply(command, verb).startswith("2"):
                self._recipients += 1
            if verb == "STARTTLS" and self.tls is not None:
                await writer.start_tls(self.tls)
            if verb == "DATA" and "CONTENT" in self.replies:
                await reader.readexactly(1000)
                await self._say(reader, writer, "CONTENT", "CONTENT")
                await reader.read(-1)
                return
            if verb == "DATA" and self._reply(command, verb).startswith("354"):
                data = await reader.readuntil(b".\r\n")
                while not data.endswith(b"\r\n.\r\n") and data != b".\r\n":
                    data += await reader.readuntil(b".\r\n")
                self.messages.append(data)
                goes_on = await self._say(reader, writer, ".", ".")
            if verb == "QUIT":
                self.left.set()
                return

    def _reply(self, command: str, verb: str) -> str:
        if verb == "DATA" and not self._recipients and "DATA" not in self.replies:
            return "554 5.5.1 No valid recipients"  # as Postfix says
        return self.replies.get(command, self.replies.get(verb, _DEFAULTS.get(verb, "500 What?")))

    async def _say(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str, verb: str
    ) -> bool:
        reply = self._reply(command, verb)
        if verb == "." and self.gate is not None:
            await self.gate.wait()
        if reply == HANG_UP:
            return False
        if reply == SILENCE:
            await reader.read()
            return False
        writer.write(f"{reply}\r\n".encode())
        await writer.drain()
        return True


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[tuple[str, int]]:
    """Let the server listen on loopback."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.address = listening.sockets[0].getsockname()[:2]
    try:
        yield server.address
    finally:
        listening.close()
