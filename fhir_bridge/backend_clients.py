"""Clients that prove who they are with a key, and the short-lived tokens they get for it.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    SMART   App Launch 2.2.0, backend-services
    RFC6749 section 4.4; RFC7523 section 3 (jti)
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.ids import new_id
from fhir_bridge.assertion import Assertion, public_keys
from fhir_bridge.clients import Client, digest, require_unused
from fhir_bridge.scopes import USUAL, Scopes, parse_scopes
from fhir_bridge.tables import (
    fhir_access_token,
    fhir_assertion,
    fhir_client,
    fhir_client_mailbox,
)

__all__ = ["LIFETIME", "add_backend_client", "issue_token", "keys_of", "spend"]

LIFETIME: Final = timedelta(minutes=5)  # SMART: "SHOULD NOT exceed five minutes"
TOKEN_OCTETS: Final = 32
TOKENS_MAX: Final = 100  # of one client at a time: more is a client that never keeps one


def add_backend_client(
    connection: sa.Connection,
    name: str,
    mailboxes: Sequence[DirectAddress],
    jwks: str,
    now: datetime,
    *,
    scopes: str = USUAL,
) -> UUID:
    """Return the `client_id` of a new client that signs with a key of `jwks`.

    Raises:
        DirectError: RESOURCE_INVALID, no usable JWKS; RESOURCE_CONFLICT, there is a client of
            that name; RESOURCE_UNSUPPORTED, not scopes of ours.
    """
    require_unused(connection, name)
    identity = new_id(now)
    connection.execute(
        fhir_client.insert().values(
            id=identity,
            name=name,
            jwks=public_keys(jwks),
            scopes=parse_scopes(scopes).text,
            created_at=now,
            disabled=False,
        )
    )
    for key in sorted({mailbox.key for mailbox in mailboxes}):
        connection.execute(fhir_client_mailbox.insert().values(client_id=identity, address_key=key))
    return identity


def keys_of(connection: sa.Connection, client: UUID) -> str | None:
    """Return the JWKS of a client; None where it has none."""
    statement = sa.select(fhir_client.c.jwks).where(fhir_client.c.id == client)
    found: str | None = connection.execute(statement).scalar_one_or_none()
    return found


def spend(connection: sa.Connection, client: Client, assertion: Assertion, now: datetime) -> None:
    """Use up an assertion.

    Raises:
        DirectError: AUTHENTICATION_FAILED; it was used before.
    """
    table = fhir_assertion
    connection.execute(table.delete().where(table.c.client_id == client.id,
                                            table.c.expires_at <= now))  # fmt: skip
    used = sa.select(table.c.jti).where(
        table.c.client_id == client.id, table.c.jti == assertion.jti
    )
    refused = DirectError(Reason.AUTHENTICATION_FAILED, "assertion: its jti was used before")
    if connection.execute(used).first():
        raise refused
    try:
        connection.execute(
            table.insert().values(
                client_id=client.id, jti=assertion.jti, expires_at=assertion.expires
            )
        )
    except sa.exc.IntegrityError:  # on PostgreSQL another worker takes the same one
        raise refused from None


def issue_token(connection: sa.Connection, client: Client, scopes: Scopes, now: datetime) -> str:
    """Return a new token of `client` that opens `scopes`, for `LIFETIME`."""
    table = fhir_access_token
    connection.execute(table.delete().where(table.c.expires_at <= now))
    statement = sa.select(sa.func.count()).where(table.c.client_id == client.id)
    if connection.execute(statement).scalar_one() >= TOKENS_MAX:
        raise DirectError(Reason.THROTTLED, "the client has too many tokens")
    token = secrets.token_urlsafe(TOKEN_OCTETS)
    connection.execute(
        table.insert().values(
            token_sha256=digest(token),
            client_id=client.id,
            scopes=scopes.text,
            expires_at=now + LIFETIME,
        )
    )
    return token
