"""Delivery of a sealed message to one domain.

Talks to DNS for the hosts, and to the hosts by SMTP.

Standards:
    RFC5321 section 5.1 (which hosts, in which order) · RFC7505 (null MX)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import structlog

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway.mx import NoMailError
from gateway.ports import Delivery
from gateway.smtp_client import Timeouts
from gateway.smtp_delivery import Deliverer, Parcel, may_try_another, undelivered
from gateway.smtp_pool import Connections, Target, UnreachableError
from gateway.smtp_reply import PeerReply
from gateway.tls_policy import OPPORTUNISTIC, TlsPolicy

__all__ = ["Policies", "Resolver", "SmtpSender"]

_log = structlog.get_logger(__name__)

_UNREACHED: Final = "4.4.1"  # RFC3463: no answer from host
_NO_HOST: Final = PeerReply(550, "5.1.2", "The domain has no mail host")
_NOT_ALLOWED: Final = PeerReply(451, "4.7.5", "the TLS policy does not allow the host")


class Resolver(Protocol):
    """Mail routing, as `gateway.mx.MxResolver` gives it."""

    async def mx(self, domain: str) -> Sequence[tuple[str, int]]:
        """Return the hosts to try, in order, with their port."""
        ...

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a host."""
        ...


class Policies(Protocol):
    """TLS policies, as `gateway.tls_policies.PublishedPolicies` gives them."""

    def configured(self, domain: str) -> TlsPolicy | None:
        """Return what is configured for a domain."""
        ...

    async def policy(self, domain: str, host: str, port: int) -> TlsPolicy | None:
        """Return the policy for a host of a domain, or None where it may not be used."""
        ...


class SmtpSender:
    """Delivers by SMTP, under TLS as `policies` demand, else where the host offers it.

    `routes` maps a domain, or "*" for all others, to a host and port that stand in for its MX,
    such as a smart host or a peer on a private line. `anchors` is a PEM file of the CAs known to
    verify hosts by, in place of the system's.
    """

    def __init__(
        self,
        *,
        hostname: str,
        routes: Mapping[str, tuple[str, int]],
        resolver: Resolver,
        policies: Policies | None = None,
        anchors: Path | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._routes = routes
        self._resolver = resolver
        self._policies = policies
        self._connections = Connections(
            hostname=hostname, timeouts=timeouts or Timeouts(), anchors=anchors
        )
        self._deliverer = Deliverer(self._connections)

    async def send(
        self,
        *,
        domain: str,
        sender: DirectAddress | None,
        recipients: Sequence[DirectAddress],
        message: BinaryIO,
        size: int,
    ) -> Delivery:
        """Return what became of each recipient; every failure is in the result, none raises."""
        parcel = Parcel(sender, tuple(recipients), message, size)
        route = self._routes.get(domain) or self._routes.get("*")
        if route is not None:
            # What a domain publishes is about its MX, which a route stands in for.
            configured = self._policies and self._policies.configured(domain)
            return await self._deliver(
                Target(route[0], *route, configured or OPPORTUNISTIC), parcel
            )
        try:
            hosts = await self._resolver.mx(domain)
        except NoMailError as error:
            return undelivered(domain, parcel, PeerReply(550, error.status, error.detail))
        except DirectError as error:
            return undelivered(domain, parcel, _not_now(error))
        delivery: Delivery | None = None
        async for target in self._targets(domain, hosts):
            if isinstance(target, Target):
                delivery = await self._deliver(target, parcel)
                if not may_try_another(delivery):
                    break
            else:
                delivery = delivery or undelivered(domain, parcel, target)
        return delivery or undelivered(domain, parcel, _NO_HOST)

    async def close(self) -> None:
        """Say QUIT on every connection that is kept."""
        await self._connections.close()

    async def _targets(
        self, domain: str, hosts: Sequence[tuple[str, int]]
    ) -> AsyncIterator[Target | PeerReply]:
        """Yield where to try, in order, or what keeps us from a host; that is no other's affair."""
        for host, port in hosts:
            try:
                policy = await self._policy(domain, host, port)
                addresses = await self._resolver.addresses(host) if policy else ()
            except DirectError as error:
                yield _not_now(error)
                continue
            if policy is None:
                yield _NOT_ALLOWED
                continue
            for address in addresses:
                yield Target(host, address, port, policy)

    async def _deliver(self, target: Target, parcel: Parcel) -> Delivery:
        try:
            return await self._deliverer.deliver(target, parcel)
        except UnreachableError as error:
            _log.info("smtp target unreachable", host=target.host, error=str(error))
            reply = PeerReply(451, _UNREACHED, str(error))
            return undelivered(target.host, parcel, reply, target.policy)

    async def _policy(self, domain: str, host: str, port: int) -> TlsPolicy | None:
        if self._policies is None:
            return OPPORTUNISTIC
        return await self._policies.policy(domain, host, port)


def _not_now(error: DirectError) -> PeerReply:
    status = "4.4.3" if error.reason is Reason.DIRECTORY_UNAVAILABLE else "4.7.5"
    return PeerReply(451, status, error.detail)
