"""Delivery of a sealed message to one domain.

Talks to DNS for the hosts and to the hosts by SMTP. Every failure is a value in the result, so that
one recipient's does not become another's.

Standards:
    RFC5321 sections 4.2.1 (reply classes), 4.5.3.1.10 (552 that means 452) and 5.1 (which hosts)
    RFC1870 (SIZE) · RFC3463
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import structlog

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway.mx import NoMailError
from gateway.ports import Attempt, Delivery
from gateway.smtp_client import BrokenError, PeerReply, SmtpClient, Timeouts
from gateway.smtp_pool import Connections, Target, UnreachableError
from gateway.tls_policy import OPPORTUNISTIC, TlsPolicy

__all__ = ["Policies", "Resolver", "SmtpSender"]

_log = structlog.get_logger(__name__)

REPLY_CHARACTERS: Final = 500

_NO_HOST: Final = PeerReply(550, "5.1.2", "The domain has no mail host")
_IN_DOUBT: Final = PeerReply(451, "4.4.2", "Connection broke within the content")


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


@dataclass(frozen=True, slots=True)
class _Message:
    """What is to be delivered."""

    sender: DirectAddress | None
    recipients: tuple[DirectAddress, ...]
    content: BinaryIO
    size: int


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
        parcel = _Message(sender, tuple(recipients), message, size)
        try:
            targets = await self._targets(domain)
        except NoMailError as error:
            return _undelivered(domain, parcel, PeerReply(550, error.status, error.detail))
        except DirectError as error:
            status = "4.4.3" if error.reason is Reason.DIRECTORY_UNAVAILABLE else "4.7.5"
            return _undelivered(domain, parcel, PeerReply(451, status, error.detail))
        delivery = _undelivered(domain, parcel, _NO_HOST)
        for target in targets:
            try:
                delivery = await self._deliver(target, parcel)
            except UnreachableError as error:
                _log.info("smtp target unreachable", host=target.host, error=str(error))
                reply = PeerReply(451, "4.4.1", str(error))
                delivery = _undelivered(target.host, parcel, reply, target.policy)
            if not _may_try_another(delivery):
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

    async def _deliver(self, target: Target, parcel: _Message) -> Delivery:
        """Deliver over a kept connection or, where the server has tired of that, a new one.

        Raises:
            UnreachableError: neither is to be had, and the server has not got the message.
        """
        while (client := self._connections.kept(target)) is not None:
            try:
                return await self._hand_over(target, client, parcel)
            except UnreachableError:
                continue
        return await self._hand_over(target, await self._connections.new(target), parcel)

    async def _hand_over(self, target: Target, client: SmtpClient, parcel: _Message) -> Delivery:
        tls = client.tls
        try:
            replies = await _replies(client, parcel)
        except BrokenError as error:
            client.abort()
            if not client.in_doubt:
                raise UnreachableError(f"lost the connection to {target.host}") from error
            # The host may have the message; another host must not get it now.
            replies = [_IN_DOUBT for _ in parcel.recipients]
        if any(reply.code == 421 for reply in replies):
            # RFC5321 3.8: the host closes the connection, perhaps only because it is an old one.
            client.abort()
            if all(reply.code == 421 for reply in replies):
                raise UnreachableError(f"{target.host} closes: {replies[0].text}")
        elif client.alive:
            self._connections.keep(target, client)
        return Delivery(
            attempts=tuple(map(_attempt, parcel.recipients, replies)),
            host=target.host,
            tls=tls,
            verified=client.verified,
            tls_policy=target.policy.source.value,
        )


async def _replies(client: SmtpClient, parcel: _Message) -> list[PeerReply]:
    limit = client.offers.get("size", "")
    if limit.isdecimal() and 0 < int(limit) < parcel.size:
        # the host has told what it takes.
        too_big = PeerReply(552, "5.3.4", f"The host takes at most {limit} octets")
        return [too_big for _ in parcel.recipients]
    parcel.content.seek(0)
    return await client.deliver(parcel.sender, parcel.recipients, parcel.content, parcel.size)


def _may_try_another(delivery: Delivery) -> bool:
    """RFC5321 5.1: the next host may have the answer where this one has taken nothing, for now."""
    return all(
        attempt.reason is Reason.BACKBONE_UNAVAILABLE and attempt.status != _IN_DOUBT.status
        for attempt in delivery.attempts
    )


def _undelivered(
    host: str, parcel: _Message, reply: PeerReply, policy: TlsPolicy = OPPORTUNISTIC
) -> Delivery:
    attempts = tuple(_attempt(recipient, reply) for recipient in parcel.recipients)
    return Delivery(attempts, host, None, verified=False, tls_policy=policy.source.value)


def _attempt(recipient: DirectAddress, reply: PeerReply) -> Attempt:
    words = f"{reply.code} {reply.text}".replace("\n", " ")[:REPLY_CHARACTERS]
    return Attempt(recipient, _reason(reply), reply.status, words)


def _reason(reply: PeerReply) -> Reason | None:
    if reply.positive:
        return None
    # RFC5321 4.5.3.1.10: a 552 that speaks of too many recipients is a 452.
    too_many = reply.code == 552 and reply.status == "5.5.3"
    if reply.code < 500 or too_many:
        return Reason.BACKBONE_UNAVAILABLE
    return Reason.BACKBONE_REFUSED
