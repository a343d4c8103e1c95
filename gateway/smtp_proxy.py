"""The PROXY protocol: whose connection a load balancer hands on.

Talks to a connection before SMTP does. Only what stands at the addresses of configured proxies is
believed, and must begin so: anybody else could claim to be anyone.

Standards:
    PROXY protocol versions 1 and 2 (HAProxy, proxy-protocol.txt section 2), as aiosmtpd reads it
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from aiosmtpd.proxy_protocol import ProxyData, get_proxy

from gateway.smtp_limits import plain_address

__all__ = ["Network", "ProxyError", "is_proxy", "proxied_peer"]

Network = IPv4Network | IPv6Network


class ProxyError(Exception):
    """What a proxy sent is not the PROXY protocol, or not all of it."""


class _Raw:
    """The reader's octets as they are: our own `readuntil` takes only SMTP commands."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.read = reader.read
        self.readexactly = reader.readexactly
        self._reader = reader

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        return await asyncio.StreamReader.readuntil(self._reader, separator)


def is_proxy(peer: str, proxies: Sequence[Network]) -> bool:
    """Say whether `peer` is one of the proxies."""
    try:
        address = plain_address(peer)
    except ValueError:
        return False
    return any(address in network for network in proxies)


async def proxied_peer(reader: asyncio.StreamReader, timeout_s: float) -> str | None:
    """Return the IP address of the client, or None where the proxy speaks for itself.

    Raises:
        ProxyError: there is no well-formed header in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            data: ProxyData = await get_proxy(_Raw(reader))
    except (TimeoutError, asyncio.IncompleteReadError) as error:
        raise ProxyError(type(error).__name__) from error
    if not data.valid:
        raise ProxyError(data.error)
    # Section 2.2: after LOCAL, and UNKNOWN in version 1, the connection is the proxy's own.
    return str(data.src_addr) if data.src_addr is not None else None
