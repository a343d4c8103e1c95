from __future__ import annotations

import asyncio
import socket

import pytest

from certs.address import parse_address
from certs.cache import CachingDirectory
from certs.directory import LiveDirectory
from gateway.clock import utc_now
from gateway.config import Config, Discovery
from gateway.database import SqlDatabase
from gateway.finder import open_finder

CHEN = parse_address("dr.chen@direct.lakeview.example")


async def test_a_silent_resolver_is_left_at_the_configured_deadline(
    sqlite_database: SqlDatabase,
) -> None:
    """CD-009; without the deadline the 60 s of one question would count."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = Discovery(resolver=where, deadline_s=0.3, timeout_s=60)
        async with (
            open_finder(Config(discovery=settings), sqlite_database, utc_now) as finder,
            asyncio.timeout(5),
        ):
            evidence = await finder.evidence_for(CHEN)
    assert evidence.found == ()
    assert evidence.failure is not None


@pytest.mark.parametrize(("cache", "kind"), [(True, CachingDirectory), (False, LiveDirectory)])
async def test_nothing_is_remembered_where_the_cache_is_off(
    sqlite_database: SqlDatabase, cache: bool, kind: type[object]
) -> None:
    config = Config(discovery=Discovery(cache=cache))
    async with open_finder(config, sqlite_database, utc_now) as finder:
        assert type(finder) is kind
