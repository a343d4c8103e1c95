"""The LDAP client against servers that misbehave, on real sockets; slapd is in tests/interop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from certs.errors import DirectError, Reason
from certs.ldap_client import LdapClient
from certs.ldap_search import ANSWER_OCTETS
from tests.helpers.servers import free_port

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# A BindResponse of "inappropriate authentication" to message 1.
REFUSED = bytes.fromhex("300c02010161070a013004000400")


@asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except ConnectionError:
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def fails(port: int, *, search_s: float = 0.5) -> float:
    """How long the client took to fail, in seconds."""
    client = LdapClient(search_s=search_s)
    start = time.monotonic()
    with pytest.raises(DirectError) as caught:
        await client.certificates("127.0.0.1", port, "a@d.example.org")
    client.close()
    assert caught.value.reason is Reason.DIRECTORY_UNAVAILABLE
    return time.monotonic() - start


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def chatting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" * 10)
    await reader.read()


async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(REFUSED)
    await reader.read()


async def dribbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # An element of 1 MiB, an octet at a time, each well within the read time-out.
    writer.write(b"\x30\x83\x10\x00\x00")
    while not reader.at_eof():
        writer.write(b"\x02")
        await writer.drain()
        await asyncio.sleep(0.01)


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: int, code: int
) -> None:
    """Answer one request with a BindResponse (1) or a SearchResultDone (5) without words."""
    request = await reader.read(1000)
    number = request[2 : 4 + request[3]]  # its message ID, which the answer repeats
    body = number + bytes([0x60 | kind, 7, 0x0A, 1, code, 4, 0, 4, 0])
    writer.write(bytes([0x30, len(body)]) + body)


def answering(code: int) -> Talk:
    """Takes the anonymous bind, and answers the search of its rootDSE with `code`."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer, 1, 0)
        await answer(reader, writer, 5, code)
        await reader.read()

    return talk


@pytest.mark.parametrize("code", [1, 3, 51, 52, 80])
async def test_server_that_is_busy_is_unavailable(code: int) -> None:
    """T-42 and CD-006: a refusal that may pass is no absence."""
    client = LdapClient()
    async with server(answering(code)) as port:
        with pytest.raises(DirectError) as caught:
            await client.certificates("127.0.0.1", port, "a@d.example.org")
    client.close()
    assert caught.value.reason is Reason.DIRECTORY_UNAVAILABLE
    words = caught.value.detail.removeprefix("LDAP: ")
    assert words[0].islower()  # the server's, not the name of an error of ours


@pytest.mark.parametrize("code", [0, 4, 10, 32, 50, 53])
async def test_server_that_answers_with_nothing_has_nothing(code: int) -> None:
    """T-42 and CD-046: also where its search is forbidden to strangers, for good."""
    client = LdapClient()
    async with server(answering(code)) as port:
        assert await client.certificates("127.0.0.1", port, "a@d.example.org") == ()
    client.close()


@pytest.mark.parametrize("talk", [silent, closing, chatting, refusing, dribbling])
async def test_server_that_misbehaves_is_unavailable_in_time(talk: Talk) -> None:
    async with server(talk) as port:
        assert await fails(port) < 2


async def test_flood_is_cut_off() -> None:
    sent = 0

    async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"\x30\x84\x7f\xff\xff\xff")
        while True:
            writer.write(b"\0" * 65536)
            sent += 65536
            await writer.drain()

    async with server(flooding) as port:
        await fails(port, search_s=10)
    # What the kernel holds in its buffers comes on top.
    assert sent < ANSWER_OCTETS + 8 * 1024 * 1024


async def test_nobody_listening_is_unavailable_at_once() -> None:
    assert await fails(free_port(), search_s=5) < 2


async def test_slow_server_does_not_hold_up_another() -> None:
    """Issue 4: many look-ups at once without one slow domain delaying another."""
    client = LdapClient(search_s=1)
    async with server(silent) as slow, server(closing) as quick:
        held = [
            asyncio.create_task(client.certificates("127.0.0.1", slow, f"u{n}@d.example.org"))
            for n in range(64)
        ]
        await asyncio.sleep(0)
        start = time.monotonic()
        with pytest.raises(DirectError):
            await client.certificates("127.0.0.1", quick, "a@d.example.org")
        assert time.monotonic() - start < 0.9
        results = await asyncio.gather(*held, return_exceptions=True)
    client.close()
    assert all(isinstance(result, DirectError) for result in results)


async def test_cancelled_search_lets_its_thread_go() -> None:
    client = LdapClient(search_s=30)
    async with server(silent) as port:
        search = asyncio.create_task(client.certificates("127.0.0.1", port, "a@d.example.org"))
        await asyncio.sleep(0.1)
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
    client.close()
