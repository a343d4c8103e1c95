"""Databases for tests: a migrated SQLite file, and a real PostgreSQL server of our own.

Use by naming the fixtures in a test, or by `open_sqlite(folder)` where no fixture fits. The
fixtures are known everywhere through `tests/conftest.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.database import SqlDatabase

__all__ = ["open_sqlite", "sqlite_database"]


@asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[SqlDatabase]:
    """Open the migrated database in `folder`, made where it is not there."""
    async with SqlDatabase.open(f"sqlite:///{folder / 'gateway.db'}") as database:
        await database.migrate()
        yield database


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    """Return a new, migrated SQLite database."""
    async with open_sqlite(tmp_path) as database:
        yield database
