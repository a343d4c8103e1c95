"""Serve subscriptions: match what changed, and deliver what is owed.

Talks to the database, to hooks by HTTP and to the outbox. Matching writes what each subscriber is
owed and puts one job per subscription into the gateway's queue; that calls `deliver`, one
notification at a time, in order. One that fails is tried again later, and after the last try the
Subscription is in error, which it shows; what it is owed is kept until it is requested anew.

Standards:
    FHIR    R4 subscription.html
    fhir.md section 4.4
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
import structlog

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError
from certs.ports import Clock, Database
from fhir_bridge import matching, store
from fhir_bridge.access import Access, AccessLog
from fhir_bridge.clients import Client
from fhir_bridge.hook_calls import Event, hook_call
from fhir_bridge.hooks import Hooks
from fhir_bridge.mail_channel import MailChannel, is_notice
from fhir_bridge.matching import Owed
from fhir_bridge.ports import Deliveries
from fhir_bridge.store import Stored
from fhir_bridge.subscriptions import attempts_of, mail_address, next_try
from fhir_bridge.tables import fhir_notification
from fhir_bridge.terms import DEFAULT_CANONICAL, JSON, Terms

__all__ = ["Attempt", "Notifier"]

POLL_S: Final = 0.25
TIDY: Final = timedelta(seconds=30)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a delivery. `record` is to run where the job ends; `retry_at`: not done yet."""

    record: Callable[[sa.Connection], None]
    retry_at: datetime | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Work:
    """Everything known of what is owed next. `resource` None: a handshake."""

    owed: Owed
    stored: Stored
    subscription: JSON
    client: Client
    resource: Stored | None

    @property
    def event(self) -> Event:
        told = self.resource
        if told is None:
            return Event(self.owed.id)
        return Event(self.owed.id, f"{told.type}/{told.id}", told.version, told.body)


class Notifier:
    """Serves subscriptions."""

    def __init__(
        self,
        *,
        database: Database,
        deliveries: Deliveries,
        hooks: Hooks,
        mail: MailChannel,
        clock: Clock,
        poll_s: float = POLL_S,
        canonical: str = DEFAULT_CANONICAL,
        log: AccessLog | None = None,
    ) -> None:
        self._database = database
        self._deliveries = deliveries
        self._hooks = hooks
        self._mail = mail
        self._clock = clock
        self._poll_s = poll_s
        self._terms = Terms(canonical)
        self._log = log
        self._woken = asyncio.Event()
        self._tidied: datetime | None = None

    def wake(self) -> None:
        """Look for changes now."""
        self._woken.set()

    async def run(self) -> None:
        """Match until cancelled."""
        while True:
            try:
                more = await self.run_once()
            except DirectError as error:
                _log.error("matching failed", reason=error.reason.code, detail=error.detail)
                more = False
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), self._poll_s)
                self._woken.clear()

    async def run_once(self) -> int:
        """Match what has changed; return how many changes there were."""
        now = self._clock()
        if self._tidied is None or now - self._tidied >= TIDY:
            self._tidied = now
            await self._database.write(lambda c: self._tidy(c, now))
        if not await self._database.read(matching.anything_changed):
            return 0
        changes = await self._database.write(self._match)
        self._deliveries.wake()
        return changes

    def _match(self, connection: sa.Connection) -> int:
        now = self._clock()  # not before its turn to write: websockets look back for a while only
        changes, told = matching.match(connection, now)
        for subscription in sorted(told):
            self._deliveries.put(connection, subscription, now)
        return changes

    def _tidy(self, connection: sa.Connection, now: datetime) -> None:
        # Two processes on PostgreSQL can end a job and owe more at the same time: nothing owed
        # stays without a job for longer than this.
        for subscription in sorted(matching.owing(connection)):
            stored = matching.present(connection, subscription)
            if stored is not None and matching.is_served(stored.resource(), now):
                self._deliveries.put(connection, subscription, now)
        matching.forget_old(connection, now)

    async def deliver(self, subscription: UUID) -> Attempt:
        """Deliver what `subscription` is owed next."""
        now = self._clock()
        work = await self._database.read(lambda c: _work(c, subscription, now))
        if not isinstance(work, _Work):
            return Attempt(lambda c: self._passed_over(c, subscription, work, now))
        if work.subscription["channel"]["type"] == "email":
            return await self._by_mail(work, now)
        hook = hook_call(work.subscription, work.event, now=now, terms=self._terms)
        return self._attempt(work, await self._hooks.call(hook))

    async def _by_mail(self, work: _Work, now: datetime) -> Attempt:
        recipient = mail_address(work.subscription["channel"].get("endpoint"))
        told = work.resource
        if recipient is None or told is None or is_notice(told.resource(), self._terms):
            return self._attempt(work, None)
        sender = _sender(work.client, told.owner)
        if sender is None:
            return self._attempt(work, "The client has no mailbox to send from.")
        if recipient == sender:
            return self._attempt(work, "A mailbox is not told of itself by mail.")

        def record(connection: sa.Connection, message: UUID) -> None:
            _done(connection, work.owed)

        try:
            await self._mail.send(work.event, sender, recipient, now, record)
        except DirectError as error:
            return self._attempt(work, error.reason.code)
        return self._attempt(work, None)

    def _attempt(self, work: _Work, error: str | None) -> Attempt:
        now = self._clock()
        if self._log is not None:
            target = f"Subscription/{work.stored.id}"
            status = 200 if error is None else 502
            self._log.gather(Access(now, work.client.name, "notify", target, status))
        if error is None:
            return Attempt(lambda c: self._delivered(c, work, now))
        attempts = work.owed.attempts + 1
        later = next_try(attempts, now, attempts_of(work.subscription, self._terms))
        if later is None:
            return Attempt(lambda c: self._given_up(c, work, error, now))
        this = fhir_notification.c.id == work.owed.id
        counted = fhir_notification.update().where(this).values(attempts=attempts)
        return Attempt(lambda c: _execute(c, counted), later, error)

    def _delivered(self, connection: sa.Connection, work: _Work, now: datetime) -> None:
        _done(connection, work.owed)
        stored = matching.present(connection, work.stored.id)
        resource = stored.resource() if stored is not None else {}
        if stored is not None and work.resource is None and resource["status"] == "requested":
            store.replace(
                connection, stored, {**resource, "status": "active"}, now=now, terms=self._terms
            )
        self._next(connection, work.stored.id, now)

    def _given_up(self, connection: sa.Connection, work: _Work, error: str, now: datetime) -> None:
        this = fhir_notification.c.id == work.owed.id
        connection.execute(fhir_notification.update().where(this).values(attempts=0))
        stored = matching.present(connection, work.stored.id)
        if stored is not None and stored.version == work.stored.version:
            failed = {**stored.resource(), "status": "error", "error": error}
            store.replace(connection, stored, failed, now=now, terms=self._terms)
        else:  # it was changed meanwhile: it begins anew
            self._next(connection, work.stored.id, now)

    def _passed_over(
        self, connection: sa.Connection, subscription: UUID, owed: Owed | None, now: datetime
    ) -> None:
        """Forget what is not to be told: the resource is gone, or the subscription is."""
        stored = matching.present(connection, subscription)
        resource: JSON = stored.resource() if stored is not None else {"status": "off"}
        if owed is not None:
            _done(connection, owed)
        elif resource["status"] != "error" and not matching.is_served(resource, now):
            mine = fhir_notification.c.subscription_id == subscription
            connection.execute(
                fhir_notification.delete().where(mine, fhir_notification.c.kind != "socket")
            )
        self._next(connection, subscription, now)

    def _next(self, connection: sa.Connection, subscription: UUID, now: datetime) -> None:
        """Have the next one delivered, if there is one and it is wanted."""
        stored = matching.present(connection, subscription)
        served = stored is not None and matching.is_served(stored.resource(), now)
        if served and matching.first_owed(connection, subscription) is not None:
            self._deliveries.put(connection, subscription, now)


def _work(connection: sa.Connection, subscription: UUID, now: datetime) -> _Work | Owed | None:
    """Return what to do; an `Owed` that is not to be told; None: the subscription is not served."""
    stored = matching.present(connection, subscription)
    if stored is None or stored.type != "Subscription":
        return None
    resource = stored.resource()
    client = matching.subscriber_of(connection, stored)
    if client is None or not matching.is_served(resource, now):
        return None
    owed = matching.first_owed(connection, subscription)
    if owed is None or owed.resource is None:
        return _Work(owed, stored, resource, client, None) if owed else None
    told = matching.present(connection, owed.resource)
    # Asked again: a mailbox or a scope may have been taken from the client since the match.
    if told is None or not matching.may_be_told(client, resource, told):
        return owed
    return _Work(owed, stored, resource, client, told)


def _sender(client: Client, owner: str) -> DirectAddress | None:
    """Return the mailbox that a notice is sent as: the news' own, or the client's first."""
    key = owner if owner in client.mailboxes else min(client.mailboxes, default="")
    return parse_address(key) if key else None


def _done(connection: sa.Connection, owed: Owed) -> None:
    connection.execute(fhir_notification.delete().where(fhir_notification.c.id == owed.id))


def _execute(connection: sa.Connection, statement: sa.Executable) -> None:
    connection.execute(statement)
