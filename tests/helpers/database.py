"""Databases for tests: a migrated SQLite file, and a real PostgreSQL server of our own.

A test names a fixture (`tests/conftest.py` makes them known everywhere):
    database          both in turn: the test runs once on SQLite and once on PostgreSQL
    sqlite_database   SQLite
    database_url      both in turn, migrated, for a test that opens several of its own
or opens one itself with `open_sqlite(folder)`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # ships no types
import pytest

from gateway.database import SqlDatabase

__all__ = [
    "PostgresqlServer",
    "database",
    "database_url",
    "open_sqlite",
    "postgresql_server",
    "running_postgresql",
    "sqlite_database",
]


@asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[SqlDatabase]:
    """Open the migrated database in `folder`, made where it is not there."""
    async with SqlDatabase.open(f"sqlite:///{folder / 'gateway.db'}") as opened:
        await opened.migrate()
        yield opened


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    """Return a new, migrated SQLite database."""
    async with open_sqlite(tmp_path) as opened:
        yield opened


class PostgresqlServer:
    """A PostgreSQL server on a free loopback port, run by an unprivileged user."""

    def __init__(self, folder: Path, user: str | None) -> None:
        [self._programs] = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
        self._data = folder / "data"
        self._user = user
        self._numbers = count()
        self._migrated: str | None = None
        self.port = _free_port()

    def start(self) -> None:
        """Make the cluster where there is none, start the server and wait until it answers."""
        if not self._data.exists():
            # No sync: these data do not outlive the test.
            self._run("initdb", "-A", "trust", "-U", "gateway", "-N", "-E", "UTF8")
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._data} -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-s", "-l", f"{self._data}.log", "-o", options)

    def stop(self) -> None:
        """Break every connection and stop the server."""
        self._run("pg_ctl", "stop", "-w", "-s", "-m", "immediate")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "-D", self._data, *arguments],
            user=self._user,
            group=self._user,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._data.parent,
        )

    def url(self, name: str) -> str:
        """Return the URL of the database `name`."""
        return f"postgresql://gateway@127.0.0.1:{self.port}/{name}"

    async def new_database(self, template: str = "template0") -> str:
        """Make a copy of the database `template`, by default an empty one; return its name."""
        name = f"test_{next(self._numbers)}"
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        finally:
            await connection.close()
        return name

    async def migrated_database(self) -> str:
        """Make a migrated database and return its URL. The first is kept, to copy from."""
        if self._migrated is None:
            self._migrated = await self.new_database()
            async with SqlDatabase.open(self.url(self._migrated)) as opened:
                await opened.migrate()
        return self.url(await self.new_database(self._migrated))


@contextmanager
def running_postgresql() -> Iterator[PostgresqlServer]:
    """Run a server of one's own in a temporary folder."""
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="direct-gateway-postgresql-"))
    if user is not None:
        shutil.chown(folder, user)
    server = PostgresqlServer(folder, user)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """Return a running server; started once in a session, by the first test that wants it."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new, migrated database: of SQLite, then of PostgreSQL."""
    if request.param == "postgresql":
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        return await server.migrated_database()
    async with open_sqlite(tmp_path):
        return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    """Return a new, migrated database: of SQLite, then of PostgreSQL."""
    async with SqlDatabase.open(database_url) as opened:
        yield opened


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
