"""Delivery of a sealed message to one domain.

Talks to DNS for the hosts, and to the hosts by SMTP.

Standards:
    RFC5321 section 5.1 (which hosts, in which order) · RFC7505 (null MX)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        try:
            targets = await self._targets(domain)
        except NoMailError as error:
            return undelivered(domain, parcel, PeerReply(550, error.status, error.detail))
        except DirectError as error:
            status = "4.4.3" if error.reason is Reason.DIRECTORY_UNAVAILABLE else "4.7.5"
            return undelivered(domain, parcel, PeerReply(451, status, error.detail))
        delivery = undelivered(domain, parcel, _NO_HOST)
        for target in targets:
            try:
                delivery = await self._deliverer.deliver(target, parcel)
            except UnreachableError as error:
                _log.info("smtp target unreachable", host=target.host, error=str(error))
                reply = PeerReply(451, _UNREACHED, str(error))
                delivery = undelivered(target.host, parcel, reply, target.policy)
            if not may_try_another(delivery):
                break
        return delivery

    async def close(self) -> None:
        """Say QUIT on every connection that is kept."""
        await self._connections.close()

    async def _targets(self, domain: str) -> Sequence[Target]:
        """Return where to try, in order.

        Raises:
            NoMailError: the domain takes no mail.
            DirectError: DIRECTORY_UNAVAILABLE; or BACKBONE_UNAVAILABLE where its policy allows
                none of its hosts.
        """
        route = self._routes.get(domain) or self._routes.get("*")
        if route is not None:
            # What a domain publishes is about its MX, which a route stands in for.
            configured = self._policies and self._policies.configured(domain)
            return [Target(route[0], *route, configured or OPPORTUNISTIC)]
        hosts = await self._resolver.mx(domain)
        policies = [await self._policy(domain, *host) for host in hosts]
        if hosts and not any(policies):
            raise DirectError(Reason.BACKBONE_UNAVAILABLE, "the TLS policy allows no host")
        return [
            Target(host, address, port, policy)
            for (host, port), policy in zip(hosts, policies, strict=True)
            if policy is not None
            for address in await self._resolver.addresses(host)
        ]

    async def _policy(self, domain: str, host: str, port: int) -> TlsPolicy | None:
        if self._policies is None:
            return OPPORTUNISTIC
        return await self._policies.policy(domain, host, port)
