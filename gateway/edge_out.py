"""Delivery of opened messages to the mail servers of our own users: LMTP, or SMTP as a client.

Talks to those servers. They stand where the administrator says, so there is no look-up.

Standards:
    RFC2033 (LMTP) · EDGE 1.2 (SMTP with STARTTLS and AUTH PLAIN, EP-015)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import structlog

from certs.address import DirectAddress
from gateway.ports import Delivery
from gateway.smtp_auth import Credentials
from gateway.smtp_client import Timeouts
from gateway.smtp_delivery import Deliverer, Parcel, undelivered
from gateway.smtp_pool import Connections, Target, UnreachableError
from gateway.smtp_reply import PeerReply
from gateway.smtp_text import survey
from gateway.tls_policy import Demand, Source, TlsPolicy

__all__ = ["MailServer", "MailServers", "MailboxSender"]

_log = structlog.get_logger(__name__)

_NO_SERVER: Final = PeerReply(550, "5.1.2", "The mailbox has no mail server")


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where messages for some mailboxes go. What goes there is no longer encrypted.

    `tls`: VERIFY unless the line is private, such as loopback.
    """

    host: str
    port: int
    lmtp: bool = False
    tls: Demand = Demand.VERIFY
    login: Credentials | None = field(default=None, repr=False)

    def target(self) -> Target:
        """Return it as something to connect to."""
        policy = TlsPolicy(self.tls, Source.CONFIGURED)
        return Target(self.host, self.host, self.port, policy, self.lmtp, self.login)


class MailServers(Protocol):
    """Knows the mail server of each mailbox."""

    async def server_of(self, mailbox: DirectAddress) -> MailServer | None:
        """Return the mail server of a mailbox, or None where it has none."""
        ...


class MailboxSender:
    """Delivers to the mail servers of mailboxes."""

    def __init__(
        self,
        *,
        hostname: str,
        servers: MailServers,
        anchors: Path | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._servers = servers
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
        """Return what became of each recipient; all must have the mail server of the first."""
        # A peer has sealed it: it may hold octets that no client may say (RFC5321 2.3.8).
        text = await asyncio.to_thread(survey, message)
        parcel = Parcel(sender, tuple(recipients), message, size + text.growth, text)
        server = await self._servers.server_of(recipients[0])
        if server is None:
            return undelivered(domain, parcel, _NO_SERVER)
        target = server.target()
        try:
            return await self._deliverer.deliver(target, parcel)
        except UnreachableError as error:
            _log.info("mail server unreachable", host=target.host, error=str(error))
            reply = PeerReply(451, "4.4.1", str(error))
            return undelivered(target.host, parcel, reply, target.policy)

    async def close(self) -> None:
        """Say QUIT on every connection that is kept."""
        await self._connections.close()
