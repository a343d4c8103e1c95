"""Commands that are sent together, and what servers make of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiosmtplib
import pytest
from aiosmtplib.protocol import SMTPProtocol

from certs.errors import Reason
from gateway.smtp_conversation import Conversation
from tests.helpers.scripted_smtp import ScriptedServer, serving
from tests.unit.gateway.test_smtp_out import CONTENT, JONES, SMITH, outcome, send, sender

P, L = Reason.BACKBONE_REFUSED, Reason.BACKBONE_UNAVAILABLE
COMMANDS = b"MAIL FROM:<anna@a.example>\r\nRCPT TO:<drjones@b.example>\r\nDATA\r\n"
REPLIES = b"250 2.1.0 OK\r\n250-2.1.5 OK\r\n250 2.1.5 still OK\r\n354 Go on\r\n"
DOT = b"\r\n.\r\n"


@asynccontextmanager
async def group_server(pieces: list[bytes], last: bytes) -> AsyncIterator[tuple[str, int]]:
    """A server that answers only when the whole group is there, by these pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx ESMTP\r\n")
        await reader.readline()
        writer.write(b"250-mx\r\n250 PIPELINING\r\n")
        while await reader.readexactly(len(COMMANDS)) == COMMANDS:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.001)
            await reader.readuntil(DOT)
            writer.write(last)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[:2]
    finally:
        listening.close()


def cut(octets: bytes, size: int) -> Iterator[bytes]:
    return (octets[at : at + size] for at in range(0, len(octets), size))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 13, 27, len(REPLIES)])
async def test_replies_count_wherever_they_are_cut(size: int) -> None:
    async with group_server(list(cut(REPLIES, size)), b"250 2.0.0 Queued\r\n") as address:
        out = sender([address])
        assert outcome(await send(out)) == [(None, "2.0.0")]
        assert outcome(await send(out)) == [(None, "2.0.0")]


async def test_what_is_said_unasked_is_nobodys_reply() -> None:
    last = b"250 2.0.0 Queued\r\n550 5.0.0 Not really\r\n"
    async with group_server([REPLIES], last) as address:
        out = sender([address])
        for _ in range(3):
            assert outcome(await send(out)) == [(None, "2.0.0")]


@pytest.mark.parametrize("extensions", ["250-PIPELINING\r\n", ""], ids=["together", "in-turn"])
@pytest.mark.parametrize("reply", ["250 2.0.0 OK", "350 2.0.0 What?"])
async def test_a_server_that_takes_no_content_has_not_got_it(extensions: str, reply: str) -> None:
    server = ScriptedServer({"EHLO": f"250-mx\r\n{extensions}250 SIZE", "DATA": reply})
    async with serving(server) as address:
        assert outcome(await send(sender([address]))) == [(L, "4.4.1")]
    assert server.messages == []


@asynccontextmanager
async def hasty_server(commands: list[bytes], said: bytes) -> AsyncIterator[tuple[str, int]]:
    """A server that says `said` when content begins, and goes on to take it for commands."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx ESMTP\r\n")
        while line := await reader.readline():
            commands.append(line.rstrip())
            reply = b"250 OK\r\n"
            if line.startswith(b"DATA"):
                writer.write(b"354 Go on\r\n")
                await reader.readuntil(b"MARK\r\n")
                reply = said
            writer.write(reply)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[:2]
    finally:
        listening.close()


async def test_a_refusal_in_the_midst_of_the_content_ends_the_connection() -> None:
    commands: list[bytes] = []
    async with hasty_server(commands, b"552 5.3.4 Too big\r\n") as address:
        out = sender([address])
        content = b"X: 1\r\n\r\nMARK\r\nRSET\r\nNOOP\r\n"
        for _ in range(2):
            assert outcome(await send(out, content=content)) == [(P, "5.3.4")]
        # What it has said to our content is not the reply to anything: it is greeted anew.
        assert [c for c in commands if c.startswith(b"EHLO")] == [b"EHLO mx.a.example"] * 2
        await out.close()


@pytest.mark.parametrize(
    ("said", "found"),
    [(b"552 5.3.4 Too big\r\n", [(P, "5.3.4")]), (b"250 2.0.0 Queued\r\n", [(L, "4.4.2")])],
    ids=["refused", "taken"],
)
async def test_no_more_content_is_sent_once_there_is_an_answer(
    said: bytes, found: list[tuple[Reason, str]]
) -> None:
    commands: list[bytes] = []
    async with hasty_server(commands, said) as address:
        lines = b"X: 1\r\n\r\nMARK\r\n" + b"NOOP\r\n" * 2_000_000
        assert outcome(await send(sender([address]), content=lines)) == found
    assert commands.count(b"NOOP") < 2_000_000


async def test_a_reply_in_drops_costs_no_more_than_one_at_once() -> None:
    lines = b"".join(b"250-line\r\n" for _ in range(3000)) + b"250 OK\r\n"
    read = 0

    class Counted(Conversation):
        def _read_response_from_buffer(self) -> aiosmtplib.SMTPResponse | None:
            nonlocal read
            read += 1
            return super()._read_response_from_buffer()

    loop = asyncio.get_running_loop()
    conversation = Counted(loop, SMTPProtocol(loop))
    conversation.expect(1)
    for piece in cut(lines, 1):
        conversation.data_received(piece)
    assert (read, conversation.has_heard) == (1, True)


async def test_a_server_without_pipelining_is_told_one_command_at_a_time() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx ESMTP\r\n")
        for reply in (b"250 mx", b"250 OK", b"250 OK", b"354 Go on", b"250 2.0.0 OK"):
            seen.append(await reader.read(4096))
            writer.write(reply + b"\r\n")

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    out = sender([listening.sockets[0].getsockname()[:2]])
    assert outcome(await send(out)) == [(None, "2.0.0")]
    listening.close()
    assert [octets.count(b"\r\n") for octets in seen[:4]] == [1, 1, 1, 1]


async def test_where_no_recipient_is_taken_a_server_that_waits_for_content_gets_none() -> None:
    # RFC2920 3.1
    server = ScriptedServer({"RCPT": "550 5.1.1 Who?", "DATA": "354 Go on", ".": "554 5.5.1 No"})
    async with serving(server) as address:
        out = sender([address])
        assert outcome(await send(out, JONES, SMITH)) == [(P, "5.1.1"), (P, "5.1.1")]
        assert server.messages == [b".\r\n"]
        assert outcome(await send(out)) == [(P, "5.1.1")]
    assert server.connections == 1


async def test_a_refused_sender_is_every_recipients_refusal() -> None:
    server = ScriptedServer({"MAIL": "550 5.7.1 Not you", "RCPT": "503 5.5.1 MAIL first"})
    async with serving(server) as address:
        assert outcome(await send(sender([address]), JONES, SMITH)) == [(P, "5.7.1")] * 2
    assert server.messages == []


async def test_a_server_that_closes_within_the_group_has_taken_nothing() -> None:
    server = ScriptedServer({f"RCPT TO:<{SMITH}>": "421 4.3.2 Closing"})
    async with serving(server) as address:
        delivery = await send(sender([address]), JONES, SMITH)
    assert [reason for reason, _ in outcome(delivery)] == [L, L]
    assert server.messages == []


async def test_some_recipients_are_taken_and_the_content_goes_once() -> None:
    server = ScriptedServer({f"RCPT TO:<{SMITH}>": "550 5.1.1 Who?"})
    async with serving(server) as address:
        assert outcome(await send(sender([address]), JONES, SMITH)) == [
            (None, "2.0.0"),
            (P, "5.1.1"),
        ]
    assert server.messages == [CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n"]


async def test_what_is_no_reply_ends_the_connection() -> None:
    async with group_server([b"hello\r\n" * 4], b"") as address:
        assert outcome(await send(sender([address]))) == [(L, "4.4.1")]


async def test_a_reply_without_end_ends_the_connection() -> None:
    async with group_server([b"250-" + b"x" * 1000 + b"\r\n"] * 60, b"") as address:
        assert outcome(await send(sender([address]))) == [(L, "4.4.1")]
