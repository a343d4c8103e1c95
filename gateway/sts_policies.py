"""Fetches the MTA-STS policies of domains, and keeps them as long as they hold.

Talks to DNS, to policy hosts by HTTPS, and to the database, where policies outlast a restart: an
attacker who can make us start again must not make us forget that a domain demands TLS.

Standards:
    RFC8461 sections 3.3 (fetching) and 5.1 (keeping)
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
    """What is known of a domain. `identity` is that of the policy, from its TXT record."""

    identity: str | None
    policy: StsPolicy | None
    expires_at: datetime
    checked_at: datetime

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
        identity = await self._identity(domain)
        if identity is None or (identity == known.identity and known.holds(now) is not None):
            return known
        try:
            text = await fetch_policy(self._http, domain)
            policy = parse_policy(text)
        except DirectError as error:
            _log.info("mta-sts policy not fetched", domain=domain, error=error.detail)
            return known
        expires_at = now + timedelta(seconds=policy.max_age_s)
        await self._store(domain, identity, text, now, expires_at)
        return _Known(identity, policy, expires_at, now)

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
        unchecked = now - RECHECK
        entry = None
        if self._database is not None:
            entry = await self._database.read(lambda c: load(c, KIND, domain))
        if entry is None:
            return _Known(None, None, now, unchecked)
        identity, _, text = entry.value.partition(b"\n")
        return _Known(identity.decode(), parse_policy(text), entry.expires_at, unchecked)

    async def _store(
        self, domain: str, identity: str, text: bytes, now: datetime, expires_at: datetime
    ) -> None:
        if self._database is not None:
            entry = Entry(KIND, domain, identity.encode() + b"\n" + text, now, expires_at)
            await self._database.write(lambda c: save(c, entry))
