"""Change and remove API clients.

Store functions: plain synchronous SQL on the caller's connection; they never commit. Each request
looks its client up, so a change counts for the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from fhir_bridge.assertion import public_keys
from fhir_bridge.clients import digest
from fhir_bridge.scopes import parse_scopes
from fhir_bridge.tables import (
    fhir_access_token,
    fhir_assertion,
    fhir_client,
    fhir_client_mailbox,
    fhir_due,
    fhir_export,
    fhir_processed,
    fhir_socket_token,
)

__all__ = ["change_client", "forget_mailbox", "has_keys", "new_token", "remove_client"]

TOKEN_OCTETS: Final = 32


def change_client(
    connection: sa.Connection,
    name: str,
    *,
    mailboxes: Sequence[DirectAddress] | None = None,
    scopes: str | None = None,
    jwks: str | None = None,
    disabled: bool | None = None,
) -> None:
    """Change what is given of a client; `mailboxes` replaces all of them.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no such client. RESOURCE_UNSUPPORTED, not scopes of ours;
            RESOURCE_INVALID, no usable JWKS. RESOURCE_CONFLICT, keys for a client with a token.
    """
    identity = _identity(connection, name)
    values: dict[str, object] = {}
    if scopes is not None:
        values["scopes"] = parse_scopes(scopes).text
    if jwks is not None:
        if not has_keys(connection, name):
            raise DirectError(Reason.RESOURCE_CONFLICT, f"client {name} has a token, not keys")
        values["jwks"] = public_keys(jwks)
    if disabled is not None:
        values["disabled"] = disabled
    if values:
        row = fhir_client.c.id == identity
        connection.execute(fhir_client.update().where(row).values(**values))
    if mailboxes is not None:
        table = fhir_client_mailbox
        connection.execute(table.delete().where(table.c.client_id == identity))
        keys = sorted({mailbox.key for mailbox in mailboxes})
        rows = [{"client_id": identity, "address_key": key} for key in keys]
        if rows:
            connection.execute(table.insert(), rows)


def new_token(connection: sa.Connection, name: str) -> str:
    """Return another token for a client; the one it had is worthless from now on.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; RESOURCE_CONFLICT where it has keys instead.
    """
    identity = _identity(connection, name)
    if has_keys(connection, name):
        raise DirectError(Reason.RESOURCE_CONFLICT, f"client {name} has keys, not a token")
    token = secrets.token_urlsafe(TOKEN_OCTETS)
    row = fhir_client.c.id == identity
    connection.execute(fhir_client.update().where(row).values(token_sha256=digest(token)))
    return token


def has_keys(connection: sa.Connection, name: str) -> bool:
    """Say whether a client proves itself by keys of its own (SMART Backend Services)."""
    query = sa.select(fhir_client.c.jwks).where(fhir_client.c.name == name)
    return connection.execute(query).scalar() is not None


def remove_client(connection: sa.Connection, name: str) -> None:
    """Forget a client with its tokens; what it stored in its mailboxes stays.

    Raises:
        DirectError: RESOURCE_NOT_FOUND. RESOURCE_CONFLICT; it has asked for messages to be sent
            later, which only it may send.
    """
    identity = _identity(connection, name)
    waiting = sa.select(sa.func.count()).where(fhir_due.c.client_id == identity)
    count = connection.execute(waiting).scalar_one()
    if count:
        detail = f"{count} messages of client {name} wait to be sent: disable it until then"
        raise DirectError(Reason.RESOURCE_CONFLICT, detail)
    for table in (
        fhir_access_token,
        fhir_assertion,
        fhir_socket_token,
        fhir_export,
        fhir_processed,
        fhir_client_mailbox,
    ):
        connection.execute(table.delete().where(table.c.client_id == identity))
    connection.execute(fhir_client.delete().where(fhir_client.c.id == identity))


def forget_mailbox(connection: sa.Connection, mailbox: DirectAddress) -> None:
    """Let no client act for an address any longer."""
    table = fhir_client_mailbox
    connection.execute(table.delete().where(table.c.address_key == mailbox.key))


def _identity(connection: sa.Connection, name: str) -> UUID:
    query = sa.select(fhir_client.c.id).where(fhir_client.c.name == name)
    found: UUID | None = connection.execute(query).scalar()
    if found is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no client {name}")
    return found
