"""Fetches the MTA-STS policies of domains, and keeps them as long as they hold.

Talks to DNS, to policy hosts by HTTPS, and to the database, where policies outlast a restart: an
attacker who can make us start again must not make us forget that a domain demands TLS.

Standards:
    RFC8461 sections 3.3 (fetching), 5.1 (keeping) and 10.2 (fetching anew)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

import dns.name
import structlog
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.TXT import TXT

from certs.cache import Entry, load, save
from certs.dns_client import DnsAnswer
from certs.errors import DirectError
from certs.ports import Clock, Database
from gateway.mta_sts import StsPolicy, parse_policy, policy_id, policy_url

__all__ = ["Records", "StsFetch", "StsPolicies", "fetch_policy"]

_log = structlog.get_logger(__name__)

# How long neither the look-up of a domain's record nor a failed fetch is repeated.
RECHECK: Final = timedelta(minutes=10)
# RFC8461 10.2: whatever the record says, a policy is fetched anew from time to time, so that who
# can forge the record, or hold it back, cannot let a policy run out.
REFRESH: Final = timedelta(days=1)
POLICY_OCTETS: Final = 64 * 1024  # RFC8461 3.3
FETCH_S: Final = 60.0  # RFC8461 3.3
DOMAINS: Final = 10_000  # in memory; the database has no limit
KIND: Final = "mta-sts"


class Records(Protocol):
    """DNS, as `certs.dns_client.DnsClient` gives it."""

    async def records(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        """Return a record set, empty where there is none."""
        ...


class StsFetch(Protocol):
    """HTTPS, as `certs.http_client.HttpClient` gives it."""

    async def get(
        self, url: str, *, limit_octets: int, deadline_s: float, redirects: int, media_type: str
    ) -> bytes:
        """Return the content at `url`."""
        ...


async def fetch_policy(http: StsFetch, domain: str, *, deadline_s: float = FETCH_S) -> bytes:
    """Return the text of a domain's policy.

    RFC8461 3.3: it is text/plain, so that who may upload another kind of file there is no
    authority, and no redirect is followed.

    Raises:
        DirectError: DIRECTORY_UNAVAILABLE; it cannot be had.
    """
    return await http.get(
        policy_url(domain),
        limit_octets=POLICY_OCTETS,
        deadline_s=deadline_s,
        redirects=0,
        media_type="text/plain",
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a domain. `identity` is that of the policy, from its TXT record.

    A policy that is kept is as it was at `fetched_at`.
    """

    identity: str | None
    policy: StsPolicy | None
    expires_at: datetime
    checked_at: datetime
    fetched_at: datetime

    def is_old(self, now: datetime) -> bool:
        """Is it time to fetch the policy, whatever its identity?"""
        return now >= self.fetched_at + min(REFRESH, (self.expires_at - self.fetched_at) / 2)

    def holds(self, now: datetime) -> StsPolicy | None:
        return self.policy if now < self.expires_at else None


class StsPolicies:
    """The policies of all domains. Without `database` they are forgotten at the end."""

    def __init__(
        self, *, dns: Records, http: StsFetch, clock: Clock, database: Database | None = None
    ) -> None:
        self._dns = dns
        self._http = http
        self._clock = clock
        self._database = database
        self._known: dict[str, _Known] = {}

    async def policy(self, domain: str) -> StsPolicy | None:
        """Return the policy that holds now, or None where there is none."""
        now = self._clock()
        known = self._known.get(domain) or await self._stored(domain, now)
        if now >= known.checked_at + RECHECK:
            # RFC8461 5.1: what was fetched holds until it expires, whatever fails meanwhile.
            known = replace(await self._checked(domain, known, now), checked_at=now)
        if domain not in self._known and len(self._known) >= DOMAINS:
            del self._known[next(iter(self._known))]
        self._known[domain] = known
        return known.holds(now)

    async def _checked(self, domain: str, known: _Known, now: datetime) -> _Known:
        holds = known.holds(now) is not None
        identity = await self._identity(domain)
        if holds and (identity is None or identity == known.identity):
            if not known.is_old(now):
                return known
            identity = known.identity
        if identity is None:
            return known
        try:
            text = await fetch_policy(self._http, domain)
            policy = parse_policy(text)
        except DirectError as error:
            # RFC8461 10.2: an administrator should hear of it before the policy expires.
            log = _log.warning if holds else _log.info
            log("mta-sts policy not fetched", domain=domain, error=error.detail)
            return known
        expires_at = now + timedelta(seconds=policy.max_age_s)
        await self._store(domain, identity, text, now, expires_at)
        return _Known(identity, policy, expires_at, checked_at=now, fetched_at=now)

    async def _identity(self, domain: str) -> str | None:
        try:
            name = dns.name.from_text(f"_mta-sts.{domain}")
            answer = await self._dns.records(name, RdataType.TXT)
        except (DirectError, dns.name.NameTooLong):
            return None
        texts = (
            b"".join(record.strings).decode("ascii", "replace")
            for record in answer.records
            if isinstance(record, TXT)
        )
        return policy_id(texts)

    async def _stored(self, domain: str, now: datetime) -> _Known:
        never = now - RECHECK
        entry = None
        if self._database is not None:
            entry = await self._database.read(lambda c: load(c, KIND, domain))
        if entry is None:
            return _Known(None, None, now, checked_at=never, fetched_at=never)
        identity, _, text = entry.value.partition(b"\n")
        policy, expires_at = parse_policy(text), entry.expires_at
        return _Known(identity.decode(), policy, expires_at, never, entry.stored_at)

    async def _store(
        self, domain: str, identity: str, text: bytes, now: datetime, expires_at: datetime
    ) -> None:
        if self._database is not None:
            entry = Entry(KIND, domain, identity.encode() + b"\n" + text, now, expires_at)
            await self._database.write(lambda c: save(c, entry))
