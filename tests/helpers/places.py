"""Where mailboxes read their mail, as a test says it: `gateway.inbox.Places` and mail servers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from certs.address import DirectAddress
from gateway.edge_out import MailServer
from gateway.places import Place

__all__ = ["FixedPlaces", "FixedServers"]


class FixedPlaces:
    """`on_server` have a mail server; `forwards` says who gets copies. Both may change later."""

    def __init__(
        self,
        on_server: Collection[DirectAddress] = (),
        forwards: Mapping[DirectAddress, tuple[DirectAddress, ...]] | None = None,
    ) -> None:
        self._on_server = on_server
        self._forwards = forwards if forwards is not None else {}

    async def place_of(self, mailbox: DirectAddress) -> Place:
        return Place(mailbox in self._on_server, self._forwards.get(mailbox, ()))


class FixedServers:
    """Mail servers by mailbox, by domain, or "*" for all others."""

    def __init__(self, servers: Mapping[str, MailServer]) -> None:
        self._servers = servers

    async def server_of(self, mailbox: DirectAddress) -> MailServer | None:
        names = (mailbox.key, mailbox.domain, "*")
        return next((self._servers[name] for name in names if name in self._servers), None)
