"""Finds the TLS policy of each host of a domain, and remembers what domains publish.

Talks to DNS (TLSA, and TXT of MTA-STS) and to the policy hosts of MTA-STS by HTTPS.

Standards:
    RFC7672 section 2.2 (secure look-ups) · RFC8461 sections 3.3 and 5.1 (fetching and keeping)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import dns.name
import structlog
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.TXT import TXT

from certs.dns_client import DnsAnswer
from certs.errors import DirectError
from certs.ports import Clock
from gateway.dane import Tlsa
from gateway.mta_sts import StsPolicy, parse_policy, policy_id, policy_url
from gateway.tls_policy import Demand, Source, TlsPolicy, host_policy

__all__ = ["Associations", "PublishedPolicies", "Records", "StsFetch"]

_log = structlog.get_logger(__name__)

# How long a look-up for the TXT record, or a failed fetch, is not repeated.
RECHECK: Final = timedelta(minutes=10)
POLICY_OCTETS: Final = 64 * 1024  # RFC8461 3.3
FETCH_S: Final = 60.0  # RFC8461 3.3
DOMAINS: Final = 10_000


class Records(Protocol):
    """DNS, as `certs.dns_client.DnsClient` gives it."""

    async def records(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        """Return a record set, empty where there is none."""
        ...


class StsFetch(Protocol):
    """HTTPS, as `certs.http_client.HttpClient` gives it."""

    async def get(self, url: str, *, limit_octets: int, deadline_s: float, redirects: int) -> bytes:
        """Return the content at `url`."""
        ...


class Associations(Protocol):
    """Secure TLSA records, as `gateway.dane_client.DaneClient` gives them."""

    async def associations(self, domain: str, host: str, port: int) -> Sequence[Tlsa]:
        """Return the TLSA records of a host, none where any step to them is not secure."""
        ...


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What is known of a domain's MTA-STS policy."""

    identity: str | None
    policy: StsPolicy | None
    expires_at: datetime
    checked_at: datetime


class PublishedPolicies:
    """Policies by configuration, DANE and MTA-STS, in this order.

    `configured` maps a domain, or "*" for all others, to a demand. Without `dane` there is no
    DANE: it needs a validating resolver on this machine.
    """

    def __init__(
        self,
        *,
        configured: Mapping[str, Demand],
        dns: Records,
        http: StsFetch,
        clock: Clock,
        dane: Associations | None = None,
    ) -> None:
        self._configured = configured
        self._dns = dns
        self._http = http
        self._clock = clock
        self._dane = dane
        self._sts: dict[str, _Remembered] = {}

    def configured(self, domain: str) -> TlsPolicy | None:
        """Return what is configured for `domain`, or None."""
        demand = self._configured.get(domain, self._configured.get("*"))
        return TlsPolicy(demand, Source.CONFIGURED) if demand is not None else None

    async def policy(self, domain: str, host: str, port: int) -> TlsPolicy | None:
        """Return the policy for `host` of `domain`, or None where it may not be used.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE; a TLSA look-up failed where it counts, and going
                on without it would let an attacker switch DANE off (RFC7672 2.1.2).
        """
        configured = self.configured(domain)
        if configured is not None:
            return configured
        found: Sequence[Tlsa] = ()
        if self._dane is not None:
            found = await self._dane.associations(domain, host, port)
        sts = None if found else await self._sts_policy(domain)
        return host_policy(host, associations=found, sts=sts)

    async def _sts_policy(self, domain: str) -> StsPolicy | None:
        now = self._clock()
        known = self._sts.get(domain)
        if known is None or now >= known.checked_at + RECHECK:
            known = await self._look(domain, known, now)
            if len(self._sts) >= DOMAINS:
                self._sts.pop(next(iter(self._sts)))
            self._sts[domain] = known
        return known.policy if now < known.expires_at else None

    async def _look(self, domain: str, known: _Remembered | None, now: datetime) -> _Remembered:
        """RFC8461 5.1: what was fetched holds until it expires, whatever fails meanwhile."""
        identity = await self._identity(domain)
        old = known or _Remembered(None, None, now, now)
        current = old.policy is not None and identity == old.identity and now < old.expires_at
        if identity is None or current:
            return _Remembered(old.identity, old.policy, old.expires_at, now)
        try:
            text = await self._http.get(
                policy_url(domain), limit_octets=POLICY_OCTETS, deadline_s=FETCH_S, redirects=0
            )
            policy = parse_policy(text)
        except DirectError as error:
            _log.info("mta-sts policy not fetched", domain=domain, error=error.detail)
            return _Remembered(old.identity, old.policy, old.expires_at, now)
        return _Remembered(identity, policy, now + timedelta(seconds=policy.max_age_s), now)

    async def _identity(self, domain: str) -> str | None:
        try:
            name = dns.name.from_text(f"_mta-sts.{domain}")
            answer = await self._dns.records(name, RdataType.TXT)
        except DirectError:
            return None
        texts = (
            b"".join(record.strings).decode("ascii", "replace")
            for record in answer.records
            if isinstance(record, TXT)
        )
        return policy_id(texts)
