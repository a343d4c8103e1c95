"""API clients: who they are, which mailboxes they act for, and what they may do.

Store functions: plain synchronous SQL on the caller's connection; they never commit. A token is
shown once, when it is made; only its SHA-256 is kept. A client has one for as long as it is
registered, or, where it has keys of its own, gets short-lived ones (`backend_clients`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.tables import UtcDateTime
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.scopes import EVERYTHING, USUAL, Scopes, parse_scopes
from fhir_bridge.tables import fhir_access_token, fhir_client, fhir_client_mailbox

__all__ = [
    "Client",
    "add_client",
    "authenticate",
    "by_secret",
    "digest",
    "disable_client",
    "find_client",
    "list_clients",
    "named_client",
    "require_unused",
]

TOKEN_OCTETS = 32


@dataclass(frozen=True, slots=True)
class Client:
    """A program that calls the API. `mailboxes` are `DirectAddress.key`s."""

    id: UUID
    name: str
    mailboxes: frozenset[str]
    disabled: bool = False
    scopes: Scopes = EVERYTHING

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

    def require(self, kind: str, letters: str) -> None:
        """Return where its scopes open `letters` of "cruds" on the resource type `kind`.

        Raises:
            FhirError: ACCESS_FORBIDDEN (403).
        """
        if not self.scopes.allow(kind, letters):
            text = f"This needs the scope system/{kind}.{letters}."
            raise FhirError(Reason.ACCESS_FORBIDDEN, [Issue("forbidden", text)])


def add_client(
    connection: sa.Connection,
    name: str,
    mailboxes: Sequence[DirectAddress],
    now: datetime,
    *,
    scopes: str = USUAL,
) -> str:
    """Return the token of a new client that acts for `mailboxes`.

    Raises:
        DirectError: RESOURCE_CONFLICT; there is a client of that name. RESOURCE_UNSUPPORTED; not
            scopes of ours.
    """
    require_unused(connection, name)
    token = secrets.token_urlsafe(TOKEN_OCTETS)
    identity = new_id(now)
    connection.execute(
        fhir_client.insert().values(
            id=identity,
            name=name,
            token_sha256=digest(token),
            scopes=parse_scopes(scopes).text,
            created_at=now,
            disabled=False,
        )
    )
    for key in sorted({mailbox.key for mailbox in mailboxes}):
        connection.execute(fhir_client_mailbox.insert().values(client_id=identity, address_key=key))
    return token


def require_unused(connection: sa.Connection, name: str) -> None:
    """Return where no client has `name`.

    Raises:
        DirectError: RESOURCE_CONFLICT.
    """
    if connection.execute(sa.select(fhir_client.c.id).where(fhir_client.c.name == name)).first():
        raise DirectError(Reason.RESOURCE_CONFLICT, f"there is a client named {name}")


def authenticate(connection: sa.Connection, token: str, now: datetime) -> Client:
    """Return the client whose token this is, with what the token opens.

    Raises:
        DirectError: AUTHENTICATION_FAILED.
    """
    return _enabled(_registered(connection, token) or _by_issued(connection, token, now))


def by_secret(connection: sa.Connection, secret: str) -> Client:
    """Return the client that was registered with this token; an issued one is no secret.

    Raises:
        DirectError: AUTHENTICATION_FAILED.
    """
    return _enabled(_registered(connection, secret))


def find_client(connection: sa.Connection, identity: UUID) -> Client | None:
    """Return the client `identity` unless it is disabled."""
    found = _clients(connection.execute(_BY_ID, {"the_id": identity}))
    return found[0] if found and not found[0].disabled else None


def named_client(connection: sa.Connection, name: str) -> Client | None:
    """Return the client `name` unless it is disabled."""
    found = _clients(connection.execute(_BY_NAME, {"the_name": name}))
    return found[0] if found and not found[0].disabled else None


def list_clients(connection: sa.Connection) -> Sequence[Client]:
    """Return every client by name."""
    return _clients(connection.execute(_EVERY))


def disable_client(connection: sa.Connection, name: str) -> bool:
    """Make the token of client `name` useless; say whether there is such a client."""
    done = connection.execute(
        fhir_client.update().where(fhir_client.c.name == name).values(disabled=True)
    )
    return done.rowcount == 1


def digest(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _enabled(found: Sequence[Client]) -> Client:
    if not found or found[0].disabled:
        raise DirectError(Reason.AUTHENTICATION_FAILED, "no such token")
    return found[0]


def _registered(connection: sa.Connection, token: str) -> list[Client]:
    # Looked up by a digest: how long it takes tells nothing about the token.
    return _clients(connection.execute(_BY_TOKEN, {"token": digest(token)}))


def _by_issued(connection: sa.Connection, token: str, now: datetime) -> list[Client]:
    """Return the client of a token that the token endpoint issued."""
    issued = connection.execute(_ISSUED, {"token": digest(token), "now": now}).one_or_none()
    if issued is None:
        return []
    # What the registration has lost since, an older token has lost too.
    wanted = parse_scopes(issued.scopes)
    return [
        dataclasses.replace(client, scopes=client.scopes.narrowed(wanted))
        for client in _clients(connection.execute(_BY_ID, {"the_id": issued.client_id}))
    ]


def _clients(rows: sa.Result[Any]) -> list[Client]:
    found: dict[UUID, Client] = {}
    for row in rows.all():
        known = found.get(row.id)
        keys = {row.address_key} if row.address_key else set()  # written as `DirectAddress.key`
        mailboxes = (known.mailboxes if known else frozenset()) | keys
        scopes = known.scopes if known else parse_scopes(row.scopes)
        found[row.id] = Client(row.id, row.name, mailboxes, row.disabled, scopes)
    return list(found.values())


# Every request asks these: to build them anew would cost more than to run them.
_EVERY: Final = (
    sa.select(fhir_client, fhir_client_mailbox.c.address_key)
    .outerjoin(fhir_client_mailbox, fhir_client_mailbox.c.client_id == fhir_client.c.id)
    .order_by(fhir_client.c.name)
)
_BY_TOKEN: Final = _EVERY.where(fhir_client.c.token_sha256 == sa.bindparam("token"))
_BY_ID: Final = _EVERY.where(fhir_client.c.id == sa.bindparam("the_id", type_=sa.Uuid))
_BY_NAME: Final = _EVERY.where(fhir_client.c.name == sa.bindparam("the_name"))
_ISSUED: Final = sa.select(fhir_access_token).where(
    fhir_access_token.c.token_sha256 == sa.bindparam("token"),
    fhir_access_token.c.expires_at > sa.bindparam("now", type_=UtcDateTime),
)
