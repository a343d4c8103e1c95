"""Match changes with subscriptions: what is owed to whom.

Store functions: plain synchronous SQL on the caller's connection; they never commit. A change was
written with the resource that it concerns, so that none is lost. Who sees a resource is asked
twice: when it is matched, and again when it is delivered.

Standards:
    FHIR    R4 subscription.html
    fhir.md section 4.4
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from certs.errors import DirectError
from certs.ids import new_id
from fhir_bridge.clients import Client, find_client
from fhir_bridge.criteria import Criterion, Token
from fhir_bridge.finding import find
from fhir_bridge.registry import COMMON
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.subscription_rules import require_open
from fhir_bridge.subscriptions import has_ended, wants
from fhir_bridge.tables import fhir_change, fhir_notification, fhir_resource, fhir_socket_token
from fhir_bridge.terms import JSON

__all__ = [
    "Owed",
    "anything_changed",
    "concerns",
    "first_owed",
    "forget_old",
    "is_served",
    "match",
    "may_be_told",
    "owe",
    "owing",
    "present",
    "subscriber_of",
]

BATCH: Final = 100
SOCKET_KEPT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Owed:
    """One notification. `resource` is None for a handshake."""

    id: UUID
    attempts: int
    resource: UUID | None


def anything_changed(connection: sa.Connection) -> bool:
    """Say whether `match` has work."""
    return connection.execute(sa.select(fhir_change.c.id).limit(1)).first() is not None


def match(connection: sa.Connection, now: datetime) -> tuple[int, set[UUID]]:
    """Turn changes into what is owed; return how many changes, and to which subscriptions."""
    # On PostgreSQL two processes take different changes; SQLite has one writer.
    changes = connection.execute(
        sa.select(fhir_change)
        .order_by(fhir_change.c.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    if not changes:
        return 0, set()
    connection.execute(fhir_change.delete().where(fhir_change.c.id.in_([c.id for c in changes])))
    subscriptions = _served(connection, now)
    told: set[UUID] = set()
    for order, change in enumerate(changes):
        requested = _handshake(connection, change.resource_id, now)
        told |= requested
        if requested:
            continue
        for stored, resource in subscriptions:
            wanted = wants(resource, change.version)
            if wanted and concerns(connection, stored, resource, change.resource_id, now):
                # What is owed is told in the order in which it changed.
                at = now + timedelta(microseconds=order)
                owe(connection, stored, resource, change.resource_id, change.version, at)
                told.add(stored.id)
    return len(changes), told


def owe(
    connection: sa.Connection,
    subscription: Stored,
    resource: JSON,
    about: UUID | None,
    version: int | None,
    now: datetime,
) -> None:
    """Write that the subscriber is owed word of `about`, at `now`; None: a handshake."""
    socket = resource["channel"]["type"] == "websocket"
    connection.execute(
        fhir_notification.insert().values(
            id=new_id(now),
            subscription_id=subscription.id,
            kind="socket" if socket else "event" if about else "handshake",
            resource_id=about,
            version=version,
            attempts=0,
            created_at=now,
        )
    )


def owing(connection: sa.Connection) -> set[UUID]:
    """Return the subscriptions that something is owed to, but for websockets."""
    statement = sa.select(fhir_notification.c.subscription_id).distinct()
    rows = connection.execute(statement.where(fhir_notification.c.kind != "socket"))
    return set(rows.scalars())


def first_owed(connection: sa.Connection, subscription: UUID) -> Owed | None:
    """Return what `subscription` is owed next: a handshake before all else, then in order."""
    table = fhir_notification.c
    row = connection.execute(
        sa.select(table.id, table.attempts, table.resource_id)
        .where(table.subscription_id == subscription, table.kind != "socket")
        .order_by(sa.case((table.kind == "handshake", 0), else_=1), table.created_at)
        .limit(1)
    ).one_or_none()
    return Owed(row.id, row.attempts, row.resource_id) if row else None


def concerns(
    connection: sa.Connection, subscription: Stored, resource: JSON, about: UUID, now: datetime
) -> bool:
    """Say whether `about` matches the criteria now, seen with the subscriber's eyes."""
    client = subscriber_of(connection, subscription)
    if client is None:
        return False
    try:
        query = require_open(resource, client)
    except DirectError:  # what was open, and understood, once need not be for ever
        return False
    this_one = Criterion(COMMON[0], None, (Token(None, str(about)),))
    narrowed = replace(
        query, criteria=(*query.criteria, this_one), count=1, cursor=None, total=False
    )
    return bool(find(connection, narrowed, client.owners, now).rows)


def subscriber_of(connection: sa.Connection, subscription: Stored) -> Client | None:
    """Return the client whose subscription this is, unless it is disabled."""
    return find_client(connection, UUID(subscription.owner.removeprefix("client:")))


def may_be_told(client: Client, subscription: JSON, resource: Stored) -> bool:
    """Say whether `resource` is still the client's to read, and the criteria to search by."""
    if resource.owner not in client.owners or not client.scopes.allow(resource.type, "r"):
        return False
    try:
        require_open(subscription, client)
    except DirectError:
        return False
    return True


def present(connection: sa.Connection, identity: UUID) -> Stored | None:
    """Return a resource that is not deleted, whoever may see it."""
    statement = sa.select(fhir_resource).where(
        fhir_resource.c.id == identity, fhir_resource.c.deleted.is_(False)
    )
    row = connection.execute(statement).one_or_none()
    return stored_of(row) if row else None


def is_served(resource: JSON, now: datetime) -> bool:
    """Say whether a subscription is one to tell."""
    return resource.get("status") in ("requested", "active") and not has_ended(resource, now)


def forget_old(connection: sa.Connection, now: datetime) -> None:
    """Forget what websockets were owed a while ago, and binding tokens that have expired."""
    table = fhir_notification.c
    connection.execute(
        fhir_notification.delete().where(
            table.kind == "socket", table.created_at < now - SOCKET_KEPT
        )
    )
    connection.execute(fhir_socket_token.delete().where(fhir_socket_token.c.expires_at < now))


def _served(connection: sa.Connection, now: datetime) -> Sequence[tuple[Stored, JSON]]:
    statement = sa.select(fhir_resource).where(
        fhir_resource.c.type == "Subscription", fhir_resource.c.deleted.is_(False)
    )
    stored: Iterable[Stored] = map(stored_of, connection.execute(statement))
    parsed = ((one, one.resource()) for one in stored)
    return [(one, resource) for one, resource in parsed if is_served(resource, now)]


def _handshake(connection: sa.Connection, identity: UUID, now: datetime) -> set[UUID]:
    """Owe a handshake to a subscription that was just requested."""
    stored = present(connection, identity)
    if stored is None or stored.type != "Subscription":
        return set()
    resource = stored.resource()
    if resource.get("status") == "requested":
        table = fhir_notification.c
        connection.execute(
            fhir_notification.delete().where(
                table.subscription_id == identity, table.kind == "handshake"
            )
        )
        owe(connection, stored, resource, None, None, now)
    # What was owed while it was in error, or switched off, is owed still.
    return {identity}
