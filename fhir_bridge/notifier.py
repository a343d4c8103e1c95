"""Match changes with subscriptions, and call the hooks.

Talks to the database and HTTP. A change is written with the resource it concerns, so that none is
lost; a call that fails is made again later, and after the last try the Subscription is in error.

Standards:
    FHIR    R4 subscription.html
    fhir.md section 4.4
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import httpx
import sqlalchemy as sa

from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge import store
from fhir_bridge.clients import find_client
from fhir_bridge.criteria import Criterion, Token
from fhir_bridge.finding import find
from fhir_bridge.registry import COMMON
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.subscriptions import Hook, criteria_of, hook_call, next_try
from fhir_bridge.tables import fhir_change, fhir_notification, fhir_resource
from fhir_bridge.terms import DEFAULT_CANONICAL, JSON, Terms

__all__ = ["Notifier"]

BATCH = 100
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Due:
    """One call that is owed."""

    id: UUID
    attempts: int
    subscription: Stored
    resource: Stored


class Notifier:
    """Serves subscriptions. `wake` after a commit makes it look at once."""

    def __init__(
        self,
        *,
        database: Database,
        http: httpx.AsyncClient,
        clock: Clock,
        poll_s: float = 1.0,
        canonical: str = DEFAULT_CANONICAL,
    ) -> None:
        self._database = database
        self._http = http
        self._clock = clock
        self._poll_s = poll_s
        self._terms = Terms(canonical)
        self._woken = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Look for changes now."""
        self._woken.set()

    def stop(self) -> None:
        """Let `run` return after the calls under way."""
        self._stopping = True
        self._woken.set()

    async def run(self) -> None:
        """Serve until stopped."""
        while not self._stopping:
            if await self.run_once():
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._poll_s)
            self._woken.clear()

    async def run_once(self) -> int:
        """Match what has changed and make the calls that are due; return how many there were."""
        now = self._clock()
        matched = await self._database.write(lambda c: _match(c, now))
        due = await self._database.write(lambda c: _due(c, now))
        for one in due:
            await self._call(one)
        return matched + len(due)

    async def _call(self, due: _Due) -> None:
        subscription = due.subscription.resource()
        hook = hook_call(
            subscription,
            kind=due.resource.type,
            identity=str(due.resource.id),
            version=due.resource.version,
            body=due.resource.body,
            terms=self._terms,
        )
        error = await self._failure(hook)
        now = self._clock()
        await self._database.write(lambda c: self._record(c, due, subscription, error, now))

    async def _failure(self, hook: Hook) -> str | None:
        """Return what went wrong, in words that hold nothing of the peer's; None: nothing."""
        try:
            answer = await self._http.request(
                hook.method,
                hook.url,
                content=hook.body,
                headers=list(hook.headers),
                timeout=TIMEOUT_S,
                follow_redirects=False,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__
        return None if answer.is_success else f"HTTP {answer.status_code}"

    def _record(
        self,
        connection: sa.Connection,
        due: _Due,
        subscription: JSON,
        error: str | None,
        now: datetime,
    ) -> None:
        this = fhir_notification.c.id == due.id
        attempts = due.attempts + 1
        later = next_try(attempts, now) if error is not None else None
        if later is not None:
            connection.execute(
                fhir_notification.update().where(this).values(attempts=attempts, due_at=later)
            )
            return
        connection.execute(fhir_notification.delete().where(this))
        if error is not None:
            failed = {**subscription, "status": "error", "error": error}
            store.replace(connection, due.subscription, failed, now=now, terms=self._terms)


def _match(connection: sa.Connection, now: datetime) -> int:
    """Turn changes into calls that are owed; return how many changes there were."""
    changes = connection.execute(
        sa.select(fhir_change).order_by(fhir_change.c.id).limit(BATCH)
    ).all()
    if not changes:
        return 0
    subscriptions = _active(connection)
    for change in changes:
        for subscription in subscriptions:
            if _concerns(connection, subscription, change.resource_id, now):
                connection.execute(
                    fhir_notification.insert().values(
                        id=new_id(now),
                        subscription_id=subscription.id,
                        resource_id=change.resource_id,
                        version=change.version,
                        attempts=0,
                        due_at=now,
                        created_at=now,
                    )
                )
    connection.execute(fhir_change.delete().where(fhir_change.c.id.in_([c.id for c in changes])))
    return len(changes)


def _active(connection: sa.Connection) -> Sequence[Stored]:
    statement = sa.select(fhir_resource).where(
        fhir_resource.c.type == "Subscription", fhir_resource.c.deleted.is_(False)
    )
    stored = [stored_of(row) for row in connection.execute(statement)]
    return [s for s in stored if s.resource().get("status") == "active"]


def _concerns(
    connection: sa.Connection, subscription: Stored, identity: UUID, now: datetime
) -> bool:
    """Say whether the resource matches the criteria, seen with the subscriber's eyes."""
    client = find_client(connection, UUID(subscription.owner.removeprefix("client:")))
    if client is None:
        return False
    query = criteria_of(subscription.resource())
    this_one = Criterion(COMMON[0], None, (Token(None, str(identity)),))
    narrowed = replace(query, criteria=(*query.criteria, this_one), count=1, cursor=None)
    return bool(find(connection, narrowed, client.owners, now).rows)


def _due(connection: sa.Connection, now: datetime) -> list[_Due]:
    """Return the calls that are due; those of a subscription that has ended are forgotten."""
    rows = connection.execute(
        sa.select(fhir_notification)
        .where(fhir_notification.c.due_at <= now)
        .order_by(fhir_notification.c.due_at, fhir_notification.c.id)
        .limit(BATCH)
    ).all()
    found = []
    for row in rows:
        subscription = _present(connection, row.subscription_id)
        resource = _present(connection, row.resource_id)
        if subscription and resource and subscription.resource().get("status") == "active":
            found.append(_Due(row.id, row.attempts, subscription, resource))
        else:
            connection.execute(fhir_notification.delete().where(fhir_notification.c.id == row.id))
    return found


def _present(connection: sa.Connection, identity: UUID) -> Stored | None:
    statement = sa.select(fhir_resource).where(fhir_resource.c.id == identity)
    row = connection.execute(statement).one_or_none()
    return stored_of(row) if row else None
