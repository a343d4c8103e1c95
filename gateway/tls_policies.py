"""Finds the TLS policy of each host of a domain.

Talks to what knows of DANE and MTA-STS.

Standards:
    RFC7672 section 2.2 and RFC8461 section 2 (DANE takes precedence over MTA-STS)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.dane import Tlsa
from gateway.mta_sts import StsPolicy
from gateway.tls_policy import Demand, Source, TlsPolicy, host_policy

__all__ = ["Associations", "DomainPolicies", "PublishedPolicies"]


class Associations(Protocol):
    """Secure TLSA records, as `gateway.dane_client.DaneClient` gives them."""

    async def associations(self, domain: str, host: str, port: int) -> Sequence[Tlsa]:
        """Return the TLSA records of a host, none where any step to them is not secure."""
        ...


class DomainPolicies(Protocol):
    """MTA-STS, as `gateway.sts_policies.StsPolicies` gives it."""

    async def policy(self, domain: str) -> StsPolicy | None:
        """Return the policy of a domain that holds now, or None."""
        ...


class PublishedPolicies:
    """Policies by configuration, DANE and MTA-STS, in this order.

    `configured` maps a domain, or "*" for all others, to a demand. Without `dane` there is no
    DANE: it needs a validating resolver on this machine.
    """

    def __init__(
        self,
        *,
        configured: Mapping[str, Demand],
        sts: DomainPolicies,
        dane: Associations | None = None,
    ) -> None:
        self._configured = configured
        self._sts = sts
        self._dane = dane

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
        sts = None if found else await self._sts.policy(domain)
        return host_policy(host, associations=found, sts=sts)
