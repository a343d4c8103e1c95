"""The tokens that bind a websocket to a subscription.

Store functions: plain synchronous SQL on the caller's connection; they never commit. A token is
good for a few minutes and for one subscription of the client that asked for it; only its SHA-256
is kept.

Standards:
    BACKPORT Subscriptions R5 Backport 1.1.0: $get-ws-binding-token
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from fhir_bridge.clients import Client
from fhir_bridge.scopes import Scopes, parse_scopes
from fhir_bridge.tables import fhir_socket_token

__all__ = ["LIFETIME", "Grant", "grant_of", "issue_token"]

LIFETIME: Final = timedelta(minutes=10)
TOKEN_OCTETS: Final = 32


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token was issued for, and when. `scopes`: what its asker's own token opened."""

    subscription: UUID
    client: UUID
    scopes: Scopes
    issued_at: datetime


def issue_token(
    connection: sa.Connection, subscription: UUID, client: Client, now: datetime
) -> str:
    """Return a new token."""
    token = secrets.token_urlsafe(TOKEN_OCTETS)
    connection.execute(
        fhir_socket_token.insert().values(
            token_sha256=_digest(token),
            subscription_id=subscription,
            client_id=client.id,
            scopes=client.scopes.text,
            issued_at=now,
            expires_at=now + LIFETIME,
        )
    )
    return token


def grant_of(connection: sa.Connection, token: str, now: datetime) -> Grant | None:
    """Return what `token` is good for; None: nothing, or no longer."""
    # Looked up by a digest: how long it takes tells nothing about the token.
    row = connection.execute(
        sa.select(fhir_socket_token).where(
            fhir_socket_token.c.token_sha256 == _digest(token),
            fhir_socket_token.c.expires_at > now,
        )
    ).one_or_none()
    if row is None:
        return None
    return Grant(row.subscription_id, row.client_id, parse_scopes(row.scopes), row.issued_at)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
