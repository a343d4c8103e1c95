"""Fixtures that every test may name; each is documented in its helper."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

import uvloop
from hypothesis import settings

from tests.helpers.database import database, database_url, postgresql_server, sqlite_database

__all__ = [
    "database",
    "database_url",
    "postgresql_server",
    "pytest_asyncio_loop_factories",
    "sqlite_database",
]

# `make test` tries the same cases everywhere; `pytest --hypothesis-profile=random` tries new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile("same")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """Tests run on the event loop that `serve` runs on."""
    return {"uvloop": uvloop.new_event_loop}
