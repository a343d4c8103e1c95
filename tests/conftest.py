"""Fixtures that every test may name; each is documented in its helper."""

from __future__ import annotations

import pytest
import uvloop
from hypothesis import settings

from tests.helpers.database import database, database_url, postgresql_server, sqlite_database

__all__ = [
    "database",
    "database_url",
    "event_loop_policy",
    "postgresql_server",
    "sqlite_database",
]

# `make test` tries the same cases everywhere; `pytest --hypothesis-profile=random` tries new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile("same")


@pytest.fixture(scope="session")
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """Tests run on the event loop that `serve` runs on (pytest-asyncio asks for this name)."""
    return uvloop.EventLoopPolicy()
