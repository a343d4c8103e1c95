"""Connect to a server by its address, with a time-out of its own.

Talks to one server.
"""

from __future__ import annotations

import asyncio
import socket

__all__ = ["dial"]


async def dial(address: str, port: int, timeout_s: float) -> socket.socket:
    """Return a socket that is connected; aiosmtplib has one time-out for this and for the greeting.

    Raises:
        OSError: nobody is there, or does not answer in time.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, name = found[0]
    dialled = socket.socket(family, kind, protocol)
    try:
        dialled.setblocking(False)
        async with asyncio.timeout(timeout_s):
            await loop.sock_connect(dialled, name)
    except BaseException:
        dialled.close()
        raise
    return dialled
