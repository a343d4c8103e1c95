"""Fetches revocation lists before they run out, and forgets what ran out long ago.

Talks to the directory and the database, once a minute.

Standards:
    T-25 of our catalogue (no message waits for a slow CRL host), CD-007 (caching)
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final, Protocol

import structlog

from certs.cache import forget_expired
from certs.errors import DirectError
from certs.ports import Clock, Database

__all__ = ["FetchesAhead", "keep_up"]

POLL_S: Final = 60.0

_log = structlog.get_logger(__name__)


class FetchesAhead(Protocol):
    """Knows what is in use and about to run out."""

    async def fetch_ahead(self, now: datetime) -> None:
        """Fetch it anew."""
        ...


async def keep_up(
    directory: FetchesAhead, database: Database, clock: Clock, poll_s: float = POLL_S
) -> None:
    """Do so every `poll_s` seconds until cancelled; what fails is tried again the next time."""
    while True:
        try:
            await directory.fetch_ahead(clock())
            await database.write(lambda c: forget_expired(c, clock()))
        except DirectError as error:
            _log.error("upkeep failed", reason=error.reason.code, detail=error.detail)
        await asyncio.sleep(poll_s)
