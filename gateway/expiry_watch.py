"""Say in time that certificates of ours expire: in the log once a day, and as a metric.

Talks to the database and the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from certs import keys
from certs.errors import DirectError
from certs.ports import Clock, Database
from gateway.expiry import WARNING_DAYS, expiring

__all__ = ["watch_expiry"]

POLL_S: Final = 60.0
SAID_AGAIN_S: Final = 86_400.0

_log = structlog.get_logger(__name__)


async def watch_expiry(
    database: Database, count: Callable[[Mapping[int, int]], None], clock: Clock
) -> None:
    """Look once a minute, for ever; `count` gets the number that expire within so many days."""
    said: dict[tuple[str, int], float] = {}
    loop = asyncio.get_running_loop()
    while True:
        try:
            await _look(database, count, clock, said, loop.time())
        except DirectError as error:
            _log.error("expiry is not watched", reason=error.reason.code, detail=error.detail)
        await asyncio.sleep(POLL_S)


async def _look(
    database: Database,
    count: Callable[[Mapping[int, int]], None],
    clock: Clock,
    said: dict[tuple[str, int], float],
    at_s: float,
) -> None:
    now = clock()
    held = await database.read(keys.list_identities)
    found = expiring(held, now)
    numbers = Counter(
        days for one in found for days in (*WARNING_DAYS, 0) if one.within_days <= days
    )
    count({days: numbers[days] for days in (*WARNING_DAYS, 0)})
    for one in found:
        key = (one.own.sha256, one.within_days)
        if at_s - said.get(key, -SAID_AGAIN_S) < SAID_AGAIN_S:
            continue
        said[key] = at_s
        left = one.own.certificate.not_valid_after_utc - now
        _log.warning(
            "a certificate has expired" if one.within_days == 0 else "a certificate expires",
            subject=one.own.subject,
            sha256=one.own.sha256,
            days_left=left.days,
            do=f"direct-gateway cert new or cert csr --for {one.own.subject}, then cert rollover",
        )
