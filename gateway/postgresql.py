"""One PostgreSQL database, shared by any number of gateway processes.

Talks to PostgreSQL through asyncpg. `gateway.database` is what others use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.locks import lock

__all__ = ["PostgresqlEngine"]

T = TypeVar("T")

CONNECTIONS: Final = 10


class PostgresqlEngine:
    """Runs works on one PostgreSQL database, each in a transaction of its own."""

    def __init__(self, url: sa.URL, lock_wait_s: float) -> None:
        # An acknowledgement rests on the commit being on the server's disk.
        settings = {
            "synchronous_commit": "on",
            "jit": "off",
            "lock_timeout": f"{lock_wait_s * 1000:.0f}",
        }
        self._engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"),
            pool_size=CONNECTIONS,
            pool_pre_ping=True,  # a restarted server costs nobody a failed work
            hide_parameters=True,
            connect_args={"server_settings": settings},
        )
        self._snapshots = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._running: set[asyncio.Task[Any]] = set()

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns on a read-only snapshot."""
        async with self._snapshots.connect() as connection:
            return await connection.run_sync(work)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns once it is committed.

        A caller who is cancelled does not stop the transaction: it is committed or rolled back.
        """
        task = asyncio.create_task(self._write(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        """Run `upgrade` in one transaction; processes that start together take turns."""
        await asyncio.to_thread(asyncio.run, self._migrate(upgrade))

    async def _migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        """Run `upgrade` in an event loop of its own, on a connection that belongs to it."""
        engine = create_async_engine(self._engine.url, poolclass=sa.NullPool, hide_parameters=True)
        async with engine.begin() as connection:
            await connection.run_sync(lock, "migration")
            await connection.run_sync(upgrade)

    async def close(self) -> None:
        """Wait for what runs, then close every connection. May be called twice."""
        if self._running:
            await asyncio.wait(self._running)
        await self._engine.dispose()
