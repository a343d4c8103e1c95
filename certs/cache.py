"""Discovered certificates, remembered: in memory and, across restarts, in the database.

Talks to the database and to the directory that it stands before.

Standards:
    CD-007: kept no longer than the record's TTL, the certificate's notAfter and one hour
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import DirectAddress
from certs.directory import LiveDirectory
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Found, Level, Step
from certs.memory import Kept, Memory
from certs.policy import CertificatePolicy
from certs.ports import Clock, Database, Kind, Stored
from certs.tables import cached

__all__ = [
    "CachingDirectory",
    "DatabaseArchive",
    "Entry",
    "flush",
    "forget_expired",
    "list_entries",
    "load",
    "save",
]

_log = structlog.get_logger(__name__)

LONGEST: Final = timedelta(hours=1)
LONGEST_NEGATIVE: Final = timedelta(minutes=5)
FAILURE: Final = timedelta(seconds=10)
ADDRESSES: Final = 10_000  # in memory; the database has no limit
LAST_GOOD: Final = timedelta(days=90)
DISCOVERY: Final = "discovery"
FLUSHED: Final = "flushed"  # a mark, no answer


@dataclass(frozen=True, slots=True)
class Entry:
    """One remembered thing. `key` is an address key, or a URL."""

    kind: str
    key: str
    value: bytes
    stored_at: datetime
    expires_at: datetime


class CachingDirectory:
    """Implements `gateway.ports.Directory`. One look-up at a time for each address.

    `database` None: everything is forgotten at the end.
    """

    def __init__(self, *, live: LiveDirectory, clock: Clock, database: Database | None) -> None:
        self._flushed_at = clock()
        self._live = live
        self._clock = clock
        self._database = database
        self._memory: Memory[Evidence] = Memory(ADDRESSES)

    async def evidence_for(self, address: DirectAddress) -> Evidence:
        """Return what is remembered about `address`, or else what can be learnt."""
        now = self._clock()
        kept = await self._memory.get(address.key, now, partial(self._learn, address, now))
        return kept.answer or Evidence(address, (), failure=Reason.DIRECTORY_UNAVAILABLE)

    async def complete(
        self,
        evidence: Evidence,
        anchors: Sequence[x509.Certificate],
        *,
        now: datetime,
        policy: CertificatePolicy,
    ) -> Evidence:
        """Return `evidence` with intermediates and revocation, as `LiveDirectory` does."""
        return await self._live.complete(evidence, anchors, now=now, policy=policy)

    async def fetch_ahead(self, now: datetime) -> None:
        """Fetch anew what is about to run out; forget first what an administrator flushed.

        Raises:
            DirectError: INTERNAL; the database failed.
        """
        if self._database is not None:
            mark = await self._database.read(lambda c: load(c, FLUSHED, ""))
            if mark is not None and mark.stored_at > self._flushed_at:
                self._flushed_at = mark.stored_at
                self._memory.clear()
                self._live.forget()
        await self._live.fetch_ahead(now)

    async def _learn(self, address: DirectAddress, now: datetime) -> Kept[Evidence]:
        entry = await self._remembered(address)
        if entry is not None and entry.stored_at <= now < entry.expires_at:
            return Kept(_evidence(address, entry.value), now, entry.expires_at)
        evidence, ttl_s = await self._live.look_up(address)
        until = _until(evidence, ttl_s, now)
        if evidence.failure is None and until > now:
            await self._remember(Entry(DISCOVERY, address.key, _value(evidence), now, until))
        return Kept(evidence, now, until)

    # A disk that is full is no reason to hold back mail: what it lacks is learnt from the net.

    async def _remembered(self, address: DirectAddress) -> Entry | None:
        if self._database is None:
            return None
        try:
            return await self._database.read(lambda c: load(c, DISCOVERY, address.key))
        except DirectError as error:
            _log.warning("discovery cache not read", error=error.detail)
            return None

    async def _remember(self, entry: Entry) -> None:
        if self._database is None:
            return
        try:
            await self._database.write(lambda c: save(c, entry))
        except DirectError as error:
            _log.warning("discovery cache not written", error=error.detail)


class DatabaseArchive:
    """Implements `certs.ports.Archive`: what was fetched for chains, across restarts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last_good(self, kind: Kind, key: str) -> Stored | None:
        """Return what was last stored under `key`, also where its time is over."""
        entry = await self._database.read(lambda c: load(c, kind.value, key))
        return Stored(entry.value, entry.stored_at, entry.expires_at) if entry else None

    async def store(self, kind: Kind, key: str, stored: Stored) -> None:
        """Keep an answer in the place of the one before it."""
        entry = Entry(kind.value, key, stored.content, stored.since, stored.until)
        await self._database.write(lambda c: save(c, entry))


def load(connection: sa.Connection, kind: str, key: str) -> Entry | None:
    """Return what is remembered, also where it has run out."""
    query = sa.select(cached).where(cached.c.digest == _digest(kind, key))
    row = connection.execute(query).mappings().first()
    return _entry(row) if row else None


def save(connection: sa.Connection, entry: Entry) -> None:
    """Remember, in the place of what was remembered before."""
    digest = _digest(entry.kind, entry.key)
    connection.execute(sa.delete(cached).where(cached.c.digest == digest))
    connection.execute(
        sa.insert(cached).values(
            digest=digest,
            kind=entry.kind,
            key=entry.key,
            value=entry.value,
            stored_at=entry.stored_at,
            expires_at=entry.expires_at,
        )
    )


def list_entries(connection: sa.Connection, limit: int) -> Sequence[Entry]:
    """Return what is remembered, the newest first."""
    query = sa.select(cached).where(cached.c.kind != FLUSHED)
    query = query.order_by(cached.c.stored_at.desc()).limit(limit)
    return [_entry(row) for row in connection.execute(query).mappings()]


def flush(connection: sa.Connection, now: datetime, key: str | None = None) -> int:
    """Forget everything, or what is under one key; return how much.

    A mark is left, by which running gateways empty their memory as well.
    """
    query = sa.delete(cached).where(cached.c.kind != FLUSHED)
    count = connection.execute(query if key is None else query.where(cached.c.key == key)).rowcount
    save(connection, Entry(FLUSHED, "", b"", now, now + LAST_GOOD))
    return count


def forget_expired(connection: sa.Connection, now: datetime) -> int:
    """Forget what ran out: look-ups at once, last good answers after 90 days; return how much."""
    over = sa.and_(cached.c.kind == DISCOVERY, cached.c.expires_at <= now)
    long_over = cached.c.expires_at <= now - LAST_GOOD
    return connection.execute(sa.delete(cached).where(sa.or_(over, long_over))).rowcount


def _until(evidence: Evidence, ttl_s: int | None, now: datetime) -> datetime:
    if evidence.failure is not None:
        return now + FAILURE
    # CD-007. An expired certificate in the set is no reason to ask again at once.
    ends = [found.certificate.not_valid_after_utc for found in evidence.found]
    longest = LONGEST if evidence.found else LONGEST_NEGATIVE
    if ttl_s is not None:
        longest = min(longest, timedelta(seconds=ttl_s))
    return min([end for end in ends if end > now] + [now + longest])


def _value(evidence: Evidence) -> bytes:
    pairs = [
        (found.level.value, base64.b64encode(found.certificate.public_bytes(Encoding.DER)).decode())
        for found in evidence.found
    ]
    return json.dumps(pairs).encode()


def _evidence(address: DirectAddress, value: bytes) -> Evidence:
    found = tuple(
        Found(x509.load_der_x509_certificate(base64.b64decode(der)), Level(level))
        for level, der in json.loads(value)
    )
    level = found[0].level if found else Level.DNS_ADDRESS
    outcome = "found" if found else "empty"
    step = Step(level, address.key, "cache", outcome, len(found), 0.0)
    return Evidence(address, found, (step,))


def _digest(kind: str, key: str) -> str:
    return hashlib.sha256(f"{kind} {key}".encode()).hexdigest()


def _entry(row: sa.RowMapping) -> Entry:
    return Entry(row["kind"], row["key"], row["value"], row["stored_at"], row["expires_at"])
