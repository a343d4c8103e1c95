from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import dns.name
import dns.zone
import pytest
import pytest_asyncio
from cryptography import x509
from sqlalchemy import Connection

from certs import cache
from certs.address import parse_address
from certs.cache import CachingDirectory, Entry
from certs.directory import LiveDirectory, open_directory
from certs.errors import DirectError, Reason
from certs.evidence import Evidence
from certs.policy import CertificatePolicy
from certs.ports import Database
from gateway.dns_responder import DnsResponder
from tests.helpers.pki import NOW, Ca
from tests.helpers.zones import cert_record, zone_of

ADDRESS = parse_address("DrJones@direct.example.org")
ROOT = Ca.create("Root")
ONE, TWO = (ROOT.issue(address=ADDRESS.key, label=label).certificate for label in ("one", "two"))
BRIEF = ROOT.issue(address=ADDRESS.key, not_after=NOW + timedelta(minutes=1)).certificate
OLD = ROOT.expired(address=ADDRESS.key).certificate

T = TypeVar("T")
Zones = dict[dns.name.Name, dns.zone.Zone]


class Site:
    """Zones that change, a clock that is set, and a directory before them."""

    def __init__(self, zones: Zones, live: LiveDirectory) -> None:
        self._zones = zones
        self._live = live
        self.now = NOW

    def publish(self, *certificates: x509.Certificate, ttl_s: int = 300) -> None:
        records = [cert_record("drjones", certificate) for certificate in certificates]
        self._zones.clear()
        self._zones.update(zone_of(ADDRESS.domain, records, ttl_s=ttl_s))

    def fail(self) -> None:
        self._zones.clear()

    def directory(self, database: Database | None = None) -> CachingDirectory:
        return CachingDirectory(live=self._live, clock=self.clock, database=database)

    def clock(self) -> datetime:
        return self.now


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    zones: Zones = {}
    responder = DnsResponder(zones)
    where = await responder.start()
    async with open_directory(resolver=where, allow_private=True) as live:
        yield Site(zones, live)
    await responder.stop()


def found(evidence: Evidence) -> list[x509.Certificate]:
    return [one.certificate for one in evidence.found]


@pytest.mark.parametrize(
    ("published", "ttl_s", "kept_s"),
    [
        pytest.param([ONE], 300, 300, id="time-to-live"),
        pytest.param([ONE], 86_400, 3600, id="one-hour"),
        pytest.param([ONE, BRIEF], 300, 60, id="not-after"),
        pytest.param([ONE, OLD], 300, 300, id="expired-in-the-set"),
        pytest.param([], 300, 60, id="nothing-there"),  # the SOA says one minute
    ],
)
async def test_kept_as_long_as_it_may_be(
    site: Site, published: list[x509.Certificate], ttl_s: int, kept_s: int
) -> None:
    """CD-007."""
    directory = site.directory()
    site.publish(*published, ttl_s=ttl_s)
    first = found(await directory.evidence_for(ADDRESS))
    assert set(first) == set(published)
    site.publish(TWO)
    # In the last tenth the next answer is fetched already; until then it is the old one.
    site.now = NOW + timedelta(seconds=kept_s * 0.8)
    assert found(await directory.evidence_for(ADDRESS)) == first
    site.now = NOW + timedelta(seconds=kept_s)
    assert found(await directory.evidence_for(ADDRESS)) == [TWO]


async def test_remembered_across_restarts(site: Site, database: Database) -> None:
    site.publish(ONE)
    await site.directory(database).evidence_for(ADDRESS)
    site.publish(TWO)
    after = await site.directory(database).evidence_for(ADDRESS)
    assert found(after) == [ONE]
    assert [(step.server, step.outcome) for step in after.steps] == [("cache", "found")]
    site.now = NOW + timedelta(minutes=5)
    assert found(await site.directory(database).evidence_for(ADDRESS)) == [TWO]


async def test_absence_is_remembered_too(site: Site, sqlite_database: Database) -> None:
    site.publish()
    await site.directory(sqlite_database).evidence_for(ADDRESS)
    site.publish(ONE)
    assert found(await site.directory(sqlite_database).evidence_for(ADDRESS)) == []


async def test_failure_is_not_stored(site: Site, sqlite_database: Database) -> None:
    site.fail()
    directory = site.directory(sqlite_database)
    assert (await directory.evidence_for(ADDRESS)).failure is not None
    site.publish(ONE)
    site.now = NOW + cache.FAILURE
    assert found(await directory.evidence_for(ADDRESS)) == [ONE]


class BrokenDatabase:
    """A database that fails, as a full disk does."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        raise DirectError(Reason.INTERNAL, "disk full")

    async def write(self, work: Callable[[Connection], T]) -> T:
        raise DirectError(Reason.INTERNAL, "disk full")


async def test_what_is_learnt_counts_where_it_cannot_be_written_down(site: Site) -> None:
    site.publish(ONE)
    directory = site.directory(BrokenDatabase())
    assert found(await directory.evidence_for(ADDRESS)) == [ONE]
    site.publish(TWO)
    assert found(await directory.evidence_for(ADDRESS)) == [ONE]  # it is kept in memory


async def test_flushed_is_asked_anew(site: Site, sqlite_database: Database) -> None:
    """By another process: the mark it leaves empties the memory of this one."""
    directory = site.directory(sqlite_database)
    site.publish(ONE)
    await directory.evidence_for(ADDRESS)
    site.publish(TWO)
    site.now += timedelta(seconds=1)

    async def flush(key: str | None) -> int:
        return await sqlite_database.write(lambda c: cache.flush(c, site.now, key))

    assert await flush("other@example.org") == 0
    assert await flush(ADDRESS.key) == 1
    assert await flush(None) == 0
    assert found(await directory.evidence_for(ADDRESS)) == [ONE]
    await directory.fetch_ahead(site.now)
    assert found(await directory.evidence_for(ADDRESS)) == [TWO]
    # The mark is taken once.
    site.publish(ONE)
    await directory.fetch_ahead(site.now)
    assert found(await directory.evidence_for(ADDRESS)) == [TWO]


async def test_completing_is_the_live_directorys(site: Site) -> None:
    nothing = Evidence(ADDRESS, ())
    policy = CertificatePolicy()
    assert await site.directory().complete(nothing, [], now=NOW, policy=policy) == nothing


async def test_entries_are_listed_newest_first(sqlite_database: Database) -> None:
    entries = [
        Entry("crl", f"http://{n}", b"x", NOW + timedelta(minutes=n), NOW + timedelta(days=1))
        for n in range(3)
    ]
    for entry in [*entries, entries[0]]:
        await sqlite_database.write(partial(cache.save, entry=entry))
    listed = await sqlite_database.read(lambda c: cache.list_entries(c, 2))
    assert listed == [entries[2], entries[1]]
