"""The PROXY protocol before our listener, as HAProxy sends it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from gateway.smtp_limits import Limits
from gateway.smtp_proxy import is_proxy
from tests.helpers.listeners import listening
from tests.helpers.memory_reception import MemoryReception
from tests.helpers.transcript import Dialogue, play

LOOPBACK = (IPv4Network("127.0.0.0/8"),)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MESSAGE = """
C: HELO a.example
S: 250 *
C: MAIL FROM:<anna@a.example>
S: 250 *
C: RCPT TO:<drjones@b.example>
S: 250 *
C: DATA
S: 354 *
C: x
C: .
S: 250 *
"""


def version_2(command: int, family: int, address: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(address)) + address


IPV4 = IPv4Address("192.0.2.7").packed + IPv4Address("192.0.2.1").packed + b"\x04\x00\x00\x19"
IPV6 = IPv6Address("2001:db8::7").packed + IPv6Address("2001:db8::1").packed + b"\x04\x00\x00\x19"

HEADERS = [
    pytest.param(b"PROXY TCP4 192.0.2.7 192.0.2.1 1024 25\r\n", "192.0.2.7", id="1-ipv4"),
    pytest.param(b"PROXY TCP6 2001:db8::7 2001:db8::1 1024 25\r\n", "2001:db8::7", id="1-ipv6"),
    pytest.param(b"PROXY UNKNOWN\r\n", "127.0.0.1", id="1-unknown"),
    pytest.param(version_2(1, 0x11, IPV4), "192.0.2.7", id="2-ipv4"),
    pytest.param(version_2(1, 0x21, IPV6), "2001:db8::7", id="2-ipv6"),
    pytest.param(version_2(0, 0x00, b""), "127.0.0.1", id="2-local"),
    pytest.param(version_2(1, 0x11, IPV4 + b"\x04\x00\x00"), "192.0.2.7", id="2-with-more"),
]


@asynccontextmanager
async def connected(limits: Limits | None = None) -> AsyncIterator[Dialogue]:
    """A connection from a proxy, before it has said anything."""
    async with listening(MemoryReception(), limits=limits, proxies=LOOPBACK) as address:
        client = await Dialogue.open(address)
        async with client:
            yield client


@pytest.mark.parametrize(("header", "peer"), HEADERS)
async def test_the_client_is_whom_the_proxy_names(header: bytes, peer: str) -> None:
    reception = MemoryReception()
    async with listening(reception, proxies=LOOPBACK) as address:
        raw = "".join(f"\\x{octet:02x}" for octet in header)
        await play(address, f"RAW: {raw}\nS: 220 *\n{MESSAGE}")
    assert reception.accepted[0].session.peer == peer


@pytest.mark.parametrize("header", [param.values[0] for param in HEADERS])
async def test_a_header_may_come_in_pieces_and_with_commands_behind_it(header: bytes) -> None:
    async with connected() as client:
        for octet in header + b"HELO a.example\r\n":
            client.say(bytes([octet]))
            await asyncio.sleep(0)
        assert (await client.reply()).startswith("220")
        assert (await client.reply()).startswith("250")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"HELO a.example\r\n", id="smtp"),
        pytest.param(b"PROXY TCP4 192.0.2.7\r\n", id="1-too-short"),
        pytest.param(b"PROXY TCP4 2001:db8::7 2001:db8::1 1024 25\r\n", id="1-wrong-family"),
        pytest.param(b"PROXY " + b"x" * 200 + b"\r\n", id="1-too-long"),
        pytest.param(SIGNATURE[:11] + b"x" + bytes(4), id="2-wrong-signature"),
        pytest.param(version_2(1, 0x11, b"short"), id="2-too-short"),
        pytest.param(version_2(7, 0x11, IPV4), id="2-unknown-command"),
    ],
)
async def test_a_proxy_that_does_not_say_so_is_not_served(said: bytes) -> None:
    async with connected() as client:
        client.say(said)
        assert await client.rest() == ""


async def test_a_proxy_that_says_nothing_is_not_waited_for_long() -> None:
    async with connected(Limits(handshake_s=0.05)) as client:
        assert await client.rest() == ""


async def test_nobody_else_is_believed() -> None:
    proxies = (IPv4Network("192.0.2.0/24"),)
    reception = MemoryReception()
    async with listening(reception, proxies=proxies) as address:
        await play(
            address,
            f"S: 220 *\nC: PROXY TCP4 192.0.2.7 192.0.2.1 1024 25\nS: 500 5.5.1 *\n{MESSAGE}",
        )
    assert reception.accepted[0].session.peer == "127.0.0.1"


async def test_limits_count_the_clients_and_not_the_proxy() -> None:
    limits = Limits(connections_per_ip=1)
    async with listening(MemoryReception(), limits=limits, proxies=LOOPBACK) as address:
        first, second, third = [await Dialogue.open(address) for _ in range(3)]
        async with first, second, third:
            for client, host, reply in (
                (first, "192.0.2.7", "220"),
                (second, "192.0.2.8", "220"),
                (third, "192.0.2.7", "421 4.7.0"),
            ):
                client.say(f"PROXY TCP4 {host} 192.0.2.1 1024 25\r\n".encode())
                assert (await client.reply()).startswith(reply)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("127.0.0.1", True),
        ("192.0.2.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", True),
        ("unknown", False),
    ],
)
def test_who_is_a_proxy(peer: str, *, expected: bool) -> None:
    assert is_proxy(peer, LOOPBACK) is expected
