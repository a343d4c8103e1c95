"""API clients: who they are, and which mailboxes they act for.

Store functions: plain synchronous SQL on the caller's connection; they never commit. A token is
shown once, when it is made; only its SHA-256 is kept.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.ids import new_id
from fhir_bridge.tables import fhir_client, fhir_client_mailbox

__all__ = ["Client", "add_client", "authenticate", "disable_client", "find_client", "list_clients"]

TOKEN_OCTETS = 32


@dataclass(frozen=True, slots=True)
class Client:
    """A program that calls the API. `mailboxes` are `DirectAddress.key`s."""

    id: UUID
    name: str
    mailboxes: frozenset[str]
    disabled: bool = False

    @property
    def owners(self) -> frozenset[str]:
        """Every `owner` whose resources it may see: itself, its mailboxes, their domains."""
        domains = {f"@{key.rpartition('@')[2]}" for key in self.mailboxes}
        return self.mailboxes | domains | {self.own}

    @property
    def home(self) -> str:
        """The `owner` of what it adds to the shared directory."""
        return f"@{min(self.mailboxes, default='@').rpartition('@')[2]}"

    @property
    def own(self) -> str:
        """The `owner` of its subscriptions, and of what it uploads before a mailbox has it."""
        return f"client:{self.id}"


def add_client(
    connection: sa.Connection, name: str, mailboxes: Sequence[DirectAddress], now: datetime
) -> str:
    """Return the token of a new client that acts for `mailboxes`.

    Raises:
        DirectError: RESOURCE_CONFLICT; there is a client of that name.
    """
    if connection.execute(sa.select(fhir_client.c.id).where(fhir_client.c.name == name)).first():
        raise DirectError(Reason.RESOURCE_CONFLICT, f"there is a client named {name}")
    token = secrets.token_urlsafe(TOKEN_OCTETS)
    identity = new_id(now)
    connection.execute(
        fhir_client.insert().values(
            id=identity, name=name, token_sha256=_digest(token), created_at=now, disabled=False
        )
    )
    for key in sorted({mailbox.key for mailbox in mailboxes}):
        connection.execute(fhir_client_mailbox.insert().values(client_id=identity, address_key=key))
    return token


def authenticate(connection: sa.Connection, token: str) -> Client:
    """Return the client whose token this is.

    Raises:
        DirectError: AUTHENTICATION_FAILED.
    """
    # Looked up by a digest: how long it takes tells nothing about the token.
    found = _clients(connection, fhir_client.c.token_sha256 == _digest(token))
    if not found or found[0].disabled:
        raise DirectError(Reason.AUTHENTICATION_FAILED, "no such token")
    return found[0]


def find_client(connection: sa.Connection, identity: UUID) -> Client | None:
    """Return the client `identity` unless it is disabled."""
    found = _clients(connection, fhir_client.c.id == identity)
    return found[0] if found and not found[0].disabled else None


def list_clients(connection: sa.Connection) -> Sequence[Client]:
    """Return every client by name."""
    return _clients(connection, sa.true())


def disable_client(connection: sa.Connection, name: str) -> bool:
    """Make the token of client `name` useless; say whether there is such a client."""
    done = connection.execute(
        fhir_client.update().where(fhir_client.c.name == name).values(disabled=True)
    )
    return done.rowcount == 1


def _clients(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Client]:
    rows = connection.execute(
        sa.select(fhir_client, fhir_client_mailbox.c.address_key)
        .outerjoin(fhir_client_mailbox, fhir_client_mailbox.c.client_id == fhir_client.c.id)
        .where(condition)
        .order_by(fhir_client.c.name)
    ).all()
    found: dict[UUID, Client] = {}
    for row in rows:
        known = found.get(row.id)
        keys = {parse_address(row.address_key).key} if row.address_key else set()
        mailboxes = (known.mailboxes if known else frozenset()) | keys
        found[row.id] = Client(row.id, row.name, mailboxes, row.disabled)
    return list(found.values())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
