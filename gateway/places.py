"""Where each of our addresses reads its mail, as it is set at this moment.

Talks to the database, and to the file of a mail server's password. Nothing is kept: a change by
the administrator counts for the next message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.ports import Database
from gateway import domains
from gateway.address_settings import AddressSettings, Deliver, read_settings
from gateway.config import Mailbox, read_password
from gateway.edge_out import MailServer
from gateway.smtp_auth import Credentials

__all__ = ["Place", "StoredPlaces", "mail_server"]


@dataclass(frozen=True, slots=True)
class Place:
    """`on_server`: its own mail server has its mail. `forward`: ours who each get a copy."""

    on_server: bool = False
    forward: tuple[DirectAddress, ...] = ()


class StoredPlaces:
    """The addresses' own settings before the configuration's."""

    def __init__(self, *, database: Database, configured: Mapping[str, MailServer]) -> None:
        self._database = database
        self._configured = configured

    async def place_of(self, mailbox: DirectAddress) -> Place:
        """Return where `mailbox` reads its mail; nobody is forwarded to who is not served now."""
        settings, forward = await self._database.read(lambda c: _read(c, mailbox))
        if settings.deliver is Deliver.DEFAULT:
            return Place(self._configured_for(mailbox) is not None, forward)
        return Place(settings.server is not None, forward)

    async def server_of(self, mailbox: DirectAddress) -> MailServer | None:
        """Return the mail server of a mailbox, or None where it has none.

        Raises:
            DirectError: CONFIGURATION_INVALID; its password file cannot be read.
        """
        settings, _ = await self._database.read(lambda c: _read(c, mailbox))
        if settings.server is not None:
            return await asyncio.to_thread(mail_server, settings.server)
        return self._configured_for(mailbox)

    def _configured_for(self, mailbox: DirectAddress) -> MailServer | None:
        for name in (mailbox.key, mailbox.domain, "*"):
            if name in self._configured:
                return self._configured[name]
        return None


def mail_server(box: Mailbox) -> MailServer:
    """Return the mail server that the configuration or the settings of an address describe.

    Raises:
        DirectError: CONFIGURATION_INVALID; its password file cannot be read.
    """
    login = None
    if box.password_file is not None:
        login = Credentials(box.user, read_password(box.password_file))
    return MailServer(box.server.host, box.server.port, box.lmtp, box.tls, login)


def _read(
    connection: Connection, mailbox: DirectAddress
) -> tuple[AddressSettings, tuple[DirectAddress, ...]]:
    found = domains.address(connection, mailbox)
    settings = read_settings(found.settings if found else {})
    served = (one for one in settings.forward if domains.is_local(connection, one))
    return settings, tuple(dict.fromkeys(one for one in served if one != mailbox))
