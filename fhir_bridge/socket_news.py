"""What websockets may be bound to, and what there is to tell them.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    fhir.md section 1.8
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from certs.errors import DirectError
from fhir_bridge.clients import Client, find_client
from fhir_bridge.hook_calls import Event
from fhir_bridge.matching import is_served, may_be_told, present
from fhir_bridge.scopes import Scopes
from fhir_bridge.socket_tokens import grant_of
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.subscription_rules import require_open
from fhir_bridge.tables import fhir_notification, fhir_resource
from fhir_bridge.terms import JSON

__all__ = ["Bindable", "News", "Seen", "Subscriber", "Wanted", "bindable", "news_of"]

EACH_MAX: Final = 50  # of one subscription at one look, so that none keeps the others waiting
TOGETHER: Final = 500  # subscriptions of one statement


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription and its client, with what the client's token opened when it was bound."""

    subscription: UUID
    client: UUID
    scopes: Scopes


@dataclass(frozen=True, slots=True)
class Bindable:
    """A subscription that a socket may be bound to; it is told what happened from `since` on."""

    subscriber: Subscriber
    since: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """From when on to look, and what was passed on since."""

    since: datetime
    told: Set[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class News:
    """One event of one subscription. `event` None: it is not to be told (any more)."""

    id: UUID
    created_at: datetime
    event: Event | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to tell of one subscription in its order: all that happened up to `through`."""

    news: Sequence[News]
    through: datetime


def bindable(
    connection: sa.Connection,
    token: str | None,
    subscription: UUID | None,
    opener: Client | None,
    now: datetime,
) -> Bindable | None:
    """Return what `token`, or for the client that opened the socket `subscription`, may bind."""
    found: Bindable | None = None
    if token is not None and (grant := grant_of(connection, token, now)) is not None:
        subscriber = Subscriber(grant.subscription, grant.client, grant.scopes)
        found = Bindable(subscriber, grant.issued_at)
    elif token is None and subscription is not None and opener is not None:
        found = Bindable(Subscriber(subscription, opener.id, opener.scopes), now)
    if found is None:
        return None
    client = _client(connection, found.subscriber)
    resource = _served(present(connection, found.subscriber.subscription), client, now)
    if resource is None or client is None or not _open_to(client, resource):
        return None
    return found


def news_of(
    connection: sa.Connection, wanted: Mapping[Subscriber, Wanted], now: datetime
) -> dict[Subscriber, Seen]:
    """Return the news of each subscriber that may still have them."""
    found: dict[Subscriber, Seen] = {}
    # A client has few tokens, and many subscriptions.
    tokens = {(s.client, s.scopes): s for s in wanted}
    clients = {token: _client(connection, one) for token, one in tokens.items()}
    stored = _with_latest(connection, list({s.subscription for s in wanted}))
    concerned: dict[UUID, Stored | None] = {}
    for subscriber, want in wanted.items():
        one, latest = stored.get(subscriber.subscription, (None, None))
        client = clients[subscriber.client, subscriber.scopes]
        resource = _served(one, client, now)
        if resource is None or client is None:
            continue
        seen = Seen((), now)
        if latest is not None and latest >= want.since:
            rows, through = _rows(connection, subscriber.subscription, want, now)
            for about in {row.resource_id for row in rows} - concerned.keys():
                concerned[about] = present(connection, about)
            news = [_news(row, concerned[row.resource_id], client, resource) for row in rows]
            seen = Seen(news, through)
        found[subscriber] = seen
    return found


def _client(connection: sa.Connection, subscriber: Subscriber) -> Client | None:
    """Return the client with what its token opened, and its registration opens still."""
    client = find_client(connection, subscriber.client)
    if client is None:
        return None
    return replace(client, scopes=client.scopes.narrowed(subscriber.scopes))


def _with_latest(
    connection: sa.Connection, subscriptions: Sequence[UUID]
) -> dict[UUID, tuple[Stored, datetime | None]]:
    """Return each subscription that is not deleted, with the time of its last event."""
    table = fhir_notification.c
    latest = (
        sa.select(table.created_at)
        .where(table.subscription_id == fhir_resource.c.id, table.kind == "socket")
        .order_by(table.created_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    statement = sa.select(fhir_resource, latest.label("latest"))
    found: dict[UUID, tuple[Stored, datetime | None]] = {}
    for start in range(0, len(subscriptions), TOGETHER):
        some = fhir_resource.c.id.in_(subscriptions[start : start + TOGETHER])
        for row in connection.execute(statement.where(some, fhir_resource.c.deleted.is_(False))):
            found[row.id] = stored_of(row), row.latest
    return found


def _rows(
    connection: sa.Connection, subscription: UUID, want: Wanted, now: datetime
) -> tuple[list[sa.Row[Any, Any, Any]], datetime]:
    """Return what was not told yet, and the time up to which that is all."""
    table = fhir_notification.c
    # What was told is read once more, and must not fill the page.
    limit = EACH_MAX + len(want.told)
    rows = connection.execute(
        sa.select(table.id, table.resource_id, table.created_at)
        .where(
            table.subscription_id == subscription,
            table.kind == "socket",
            table.created_at >= want.since,
        )
        .order_by(table.created_at, table.id)
        .limit(limit)
    ).all()
    through = rows[-1].created_at if len(rows) == limit else now
    return [row for row in rows if row.id not in want.told], through


def _news(
    row: sa.Row[Any, Any, Any], told: Stored | None, client: Client, subscription: JSON
) -> News:
    event = None
    if told is not None and may_be_told(client, subscription, told):
        event = Event(row.id, f"{told.type}/{told.id}", told.version, told.body)
    return News(row.id, row.created_at, event)


def _served(stored: Stored | None, client: Client | None, now: datetime) -> JSON | None:
    """Return the subscription where it is a websocket of the client's own, and served."""
    if stored is None or client is None or stored.type != "Subscription":
        return None
    resource = stored.resource()
    if stored.owner != client.own or resource["channel"]["type"] != "websocket":
        return None
    return resource if is_served(resource, now) else None


def _open_to(opener: Client, subscription: JSON) -> bool:
    try:
        opener.require("Subscription", "r")
        require_open(subscription, opener)
    except DirectError:
        return False
    return True
