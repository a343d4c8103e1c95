"""Our SMTP listener for a test, on a free port, with a gateway in memory behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from gateway.ports import Reception, Role
from gateway.smtp_in import Listener
from gateway.smtp_limits import Limits
from gateway.smtp_proxy import Network
from tests.helpers.tls import server_context

__all__ = ["HOST", "listening"]

HOST = "mx.b.example"


@asynccontextmanager
async def listening(
    reception: Reception,
    role: Role = Role.BACKBONE,
    limits: Limits | None = None,
    proxies: Sequence[Network] = (),
) -> AsyncIterator[tuple[str, int]]:
    """Listen until the block ends."""
    listener = Listener(
        role=role,
        reception=reception,
        hostname=HOST,
        tls=server_context(HOST),
        limits=limits or Limits(),
        proxies=proxies,
    )
    try:
        yield await listener.start("127.0.0.1", 0)
    finally:
        await listener.stop(5)
