from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from sqlalchemy import Connection

from certs import cache
from certs.cache import Entry
from certs.errors import DirectError, Reason
from gateway.background import in_background
from gateway.database import SqlDatabase
from gateway.upkeep import keep_up
from tests.helpers.pki import NOW


class Directory:
    """Fails the first time it is told to fetch, as a full disk may make it; tells of the second."""

    def __init__(self) -> None:
        self.asked: list[datetime] = []
        self.twice = asyncio.Event()

    async def fetch_ahead(self, now: datetime) -> None:
        self.asked.append(now)
        if len(self.asked) == 1:
            raise DirectError(Reason.INTERNAL, "disk full")
        self.twice.set()


async def test_upkeep_goes_on_after_a_failure(sqlite_database: SqlDatabase) -> None:
    directory = Directory()
    async with in_background(keep_up(directory, sqlite_database, lambda: NOW, 0.0)):
        await asyncio.wait_for(directory.twice.wait(), 10)
    assert directory.asked[:2] == [NOW, NOW]


async def test_what_ran_out_is_forgotten_and_last_good_answers_much_later(
    sqlite_database: SqlDatabase,
) -> None:
    old, older = NOW - timedelta(minutes=1), NOW - cache.LAST_GOOD
    entries = [
        Entry("discovery", "a@example.org", b"[]", older, old),
        Entry("discovery", "b@example.org", b"[]", NOW, NOW + timedelta(minutes=1)),
        Entry("crl", "http://ca.example.org/crl", b"x", older, old),
        Entry("crl", "http://gone.example.org/crl", b"x", older, older),
    ]

    def fill(c: Connection) -> None:
        for entry in entries:
            cache.save(c, entry)

    await sqlite_database.write(fill)
    assert await sqlite_database.write(lambda c: cache.forget_expired(c, NOW)) == 2
    left = await sqlite_database.read(lambda c: cache.list_entries(c, 9))
    assert {entry.key for entry in left} == {"b@example.org", "http://ca.example.org/crl"}
