"""The directory as the gateway asks it, for the served gateway and for verbs.

Talks to DNS, LDAP and HTTP, and to the cache in the database, as the configuration says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from certs.cache import CachingDirectory, DatabaseArchive
from certs.directory import LiveDirectory, open_directory
from certs.ports import Clock, Database
from gateway.config import Config

__all__ = ["open_finder", "resolver_of"]


@asynccontextmanager
async def open_finder(
    config: Config, database: Database, clock: Clock
) -> AsyncIterator[CachingDirectory | LiveDirectory]:
    """Open what finds certificates; addresses are remembered unless `[discovery] cache` is off."""
    settings = config.discovery
    async with open_directory(
        resolver=resolver_of(config),
        allow_private=settings.private_addresses,
        dns_lifetime_s=settings.timeout_s,
        archive=DatabaseArchive(database),
        deadline_s=settings.deadline_s,
    ) as live:
        if settings.cache:
            yield CachingDirectory(live=live, clock=clock, database=database)
        else:
            yield live


def resolver_of(config: Config) -> tuple[str, int] | None:
    """Return address and port of the configured resolver; None stands for the system's."""
    resolver = config.discovery.resolver
    return (resolver.host, resolver.port) if resolver else None
