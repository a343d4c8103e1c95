"""The directory as the gateway asks it, for a verb of the command line.

Talks to DNS, LDAP and HTTP, and to the cache in the database, as the configuration says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from certs.cache import CachingDirectory, DatabaseArchive
from certs.directory import open_directory
from certs.ports import Clock, Database
from gateway.config import Config

__all__ = ["open_finder"]


@asynccontextmanager
async def open_finder(
    config: Config, database: Database, clock: Clock
) -> AsyncIterator[CachingDirectory]:
    """Open what finds certificates; what it learns is remembered where that is configured."""
    resolver = config.discovery.resolver
    async with open_directory(
        resolver=(resolver.host, resolver.port) if resolver else None,
        allow_private=config.discovery.private_addresses,
        archive=DatabaseArchive(database),
    ) as live:
        remembered = database if config.discovery.cache else None
        yield CachingDirectory(live=live, clock=clock, database=remembered)
