"""What websockets may be bound to, and what there is to tell them.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    fhir.md section 1.8
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from fhir_bridge.clients import Client, find_client
from fhir_bridge.hook_calls import Event
from fhir_bridge.matching import is_served, may_be_told, present
from fhir_bridge.socket_tokens import grant_of
from fhir_bridge.tables import fhir_notification

__all__ = ["Bindable", "News", "bindable", "news_of"]

NEWS_MAX = 200  # at one look


@dataclass(frozen=True, slots=True)
class Bindable:
    """A subscription that a socket may be bound to; it is told what happened from `since` on."""

    subscription: UUID
    client: UUID
    since: datetime


@dataclass(frozen=True, slots=True)
class News:
    """One event of one subscription."""

    id: UUID
    created_at: datetime
    event: Event


def bindable(
    connection: sa.Connection,
    token: str | None,
    subscription: UUID | None,
    opener: Client | None,
    now: datetime,
) -> Bindable | None:
    """Return what `token`, or for the client that opened the socket `subscription`, may bind."""
    found: Bindable | None = None
    if token is not None:
        grant = grant_of(connection, token, now)
        found = Bindable(grant.subscription, grant.client, grant.issued_at) if grant else None
    elif subscription is not None and opener is not None:
        found = Bindable(subscription, opener.id, now)
    if found is None or _allowed(connection, found.subscription, found.client, now) is None:
        return None
    return found


def news_of(
    connection: sa.Connection,
    wanted: Collection[tuple[UUID, UUID]],
    since: datetime,
    now: datetime,
) -> dict[tuple[UUID, UUID], list[News]]:
    """Return the events since `since` of each subscription that its client may still have."""
    found: dict[tuple[UUID, UUID], list[News]] = {}
    allowed: dict[UUID, tuple[tuple[UUID, UUID], Client]] = {}
    for subscription, identity in wanted:
        client = _allowed(connection, subscription, identity, now)
        if client is not None:
            found[subscription, identity] = []
            allowed[subscription] = (subscription, identity), client
    table = fhir_notification.c
    rows = connection.execute(
        sa.select(table.id, table.subscription_id, table.resource_id, table.created_at)
        .where(
            table.kind == "socket",
            table.subscription_id.in_(allowed),
            table.created_at >= since,
        )
        .order_by(table.created_at)
        .limit(NEWS_MAX)
    )
    for row in rows.all():
        key, client = allowed[row.subscription_id]
        told = present(connection, row.resource_id)
        if told is not None and may_be_told(client, told):
            event = Event(row.id, f"{told.type}/{told.id}", told.version, told.body)
            found[key].append(News(row.id, row.created_at, event))
    return found


def _allowed(
    connection: sa.Connection, subscription: UUID, client: UUID, now: datetime
) -> Client | None:
    """Return the client where the subscription is a websocket of its own, and served."""
    stored, found = present(connection, subscription), find_client(connection, client)
    if stored is None or found is None or stored.type != "Subscription":
        return None
    resource = stored.resource()
    if stored.owner != found.own or resource["channel"]["type"] != "websocket":
        return None
    return found if is_served(resource, now) else None
