"""One gateway's agent for each test; `tests/helpers/agent.py` documents it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.database import SqlDatabase
from tests.helpers.agent import Agent, open_agent


@pytest.fixture
async def agent(sqlite_database: SqlDatabase, tmp_path: Path) -> AsyncIterator[Agent]:
    """Return the agent of `direct.hillside.example` on a new SQLite database."""
    async with open_agent(sqlite_database, tmp_path) as opened:
        yield opened
