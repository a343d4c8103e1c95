"""The database: SQLite in one file by default, or PostgreSQL.

Talks to SQLite or PostgreSQL. It owns every transaction; store functions are handed a connection,
never commit, and run here by `await database.write(lambda c: f(c, ...))`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import sqlalchemy as sa

from certs.errors import DirectError, Reason
from gateway.schema import upgrade
from gateway.sqlite import SqliteEngine

if TYPE_CHECKING:
    from gateway.postgresql import PostgresqlEngine

__all__ = ["SqlDatabase"]

T = TypeVar("T")

# What SQLAlchemy says of a driver, and what the drivers and the system say themselves.
_FAILURES: Final = (sa.exc.SQLAlchemyError, sqlite3.Error, OSError)


class SqlDatabase:
    """Implements `certs.ports.Database`; every failure of the database itself is INTERNAL."""

    def __init__(self, engine: SqliteEngine | PostgresqlEngine) -> None:
        self._engine = engine

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, lock_wait_s: float = 5.0) -> AsyncIterator[SqlDatabase]:
        """Open `sqlite:///path` or `postgresql://user:password@host:port/name`.

        A work fails that waits longer than `lock_wait_s` seconds for another process.

        Raises:
            DirectError: CONFIGURATION_INVALID for any other `url`; INTERNAL where the SQLite file
                cannot be opened or made.
        """
        try:
            engine = _engine_of(url, lock_wait_s)
        except _FAILURES as error:
            raise _internal(error) from None
        try:
            yield cls(engine)
        finally:
            await engine.close()

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns; it sees one consistent snapshot and writes nothing.

        Raises:
            DirectError: INTERNAL; the database failed.
        """
        try:
            return await self._engine.read(work)
        except _FAILURES as error:
            raise _internal(error) from None

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns once it is durably committed; roll back where it raises.

        Raises:
            DirectError: INTERNAL; the database failed. Nothing of `work` was kept, unless it was
                the commit that failed, or its way to the disk: then nobody knows.
        """
        try:
            return await self._engine.write(work)
        except _FAILURES as error:
            raise _internal(error) from None

    async def migrate(self) -> None:
        """Bring the schema to this version's, whatever it was; all or nothing.

        Raises:
            DirectError: INTERNAL; the database failed or is of a later version.
        """
        try:
            await self._engine.migrate(upgrade)
        except _FAILURES as error:
            raise _internal(error) from None


def _engine_of(url: str, lock_wait_s: float) -> SqliteEngine | PostgresqlEngine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise DirectError(Reason.CONFIGURATION_INVALID, "database: not a URL") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return SqliteEngine(Path(str(parsed.database)), lock_wait_s)
    if backend in ("postgresql", "postgres"):
        # Imported here: it takes half of the time that a verb of the command line takes in all.
        from gateway.postgresql import PostgresqlEngine

        return PostgresqlEngine(parsed, lock_wait_s)
    raise DirectError(
        Reason.CONFIGURATION_INVALID, "database: neither sqlite:///path nor postgresql://..."
    )


def _internal(error: Exception) -> DirectError:
    """Return INTERNAL, naming the failure and no value: a value may be health information."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):  # its texts name tables and columns only
        text = str(cause)
    elif isinstance(cause, OSError):
        text = cause.strerror or ""
    else:  # PostgreSQL's texts quote values
        text = str(getattr(cause, "sqlstate", None) or "")
    return DirectError(Reason.INTERNAL, f"database: {type(cause).__name__} {text}".rstrip())
