"""Requests that are sent at their time: what is due, and sending it.

Talks to the database and, through the dispatcher, to the outbox. A row in `fhir_due` goes in the
transaction that sends the message, so that of two processes one sends it. Who may send is asked
again at that time.

Standards:
    FHIR    R4 CommunicationRequest.occurrence[x], .status, .statusReason
    fhir.md section 3.4, last paragraph
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
import structlog

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge import store
from fhir_bridge.clients import Client, find_client
from fhir_bridge.indexing import local_id
from fhir_bridge.lifting import Lifted
from fhir_bridge.outcome import public_text
from fhir_bridge.requests import communication_of, due_at, is_active
from fhir_bridge.sending import Dispatcher
from fhir_bridge.store import Stored
from fhir_bridge.tables import fhir_due
from fhir_bridge.terms import JSON, Terms

__all__ = ["Schedule", "is_waiting", "settle", "withdraw"]

POLL_S: Final = 5.0
BATCH: Final = 20

_log = structlog.get_logger(__name__)


def settle(
    connection: sa.Connection,
    identity: UUID,
    request: JSON,
    client: Client,
    now: datetime,
    *,
    terms: Terms,
    old: JSON | None = None,
) -> None:
    """Have `request` sent when it is time, if it is active; otherwise not (any more).

    One that is due already is none of ours, unless it waits here; nor is one that takes the place
    of an `old` active one that does not wait here, since that was sent. What an active one
    replaces is not sent any more.
    """
    if is_active(request):
        withdraw(connection, request, client, now, terms=terms)
    due = due_at(request) or now
    this = fhir_due.c.request_id == identity
    if not is_active(request):
        connection.execute(fhir_due.delete().where(this))
    elif connection.execute(sa.select(fhir_due.c.due_at).where(this)).first():
        connection.execute(fhir_due.update().where(this).values(due_at=due, client_id=client.id))
    elif due > now and not (old and is_active(old)):
        connection.execute(
            fhir_due.insert().values(request_id=identity, client_id=client.id, due_at=due)
        )


def withdraw(
    connection: sa.Connection, request: JSON, client: Client, now: datetime, *, terms: Terms
) -> None:
    """Revoke what `request` replaces, where that still waits and is theirs (fhir.md 3.4).

    Raises:
        FhirError: 403; the client may not change a request.
    """
    for reference in request.get("replaces", ()):
        literal = reference.get("reference", "")
        identity = local_id(literal) if literal.startswith("CommunicationRequest/") else None
        if identity is None:
            continue
        stored = store.read(connection, "CommunicationRequest", identity, client.mailboxes)
        waits = fhir_due.delete().where(fhir_due.c.request_id == identity)
        if stored is not None and connection.execute(waits).rowcount:
            client.require("CommunicationRequest", "u")
            revoked = {**stored.resource(), "status": "revoked"}
            store.replace(connection, stored, revoked, now=now, terms=terms)


def is_waiting(connection: sa.Connection, identity: UUID) -> bool:
    """Say whether a request waits for its time."""
    statement = sa.select(fhir_due.c.request_id).where(fhir_due.c.request_id == identity)
    return connection.execute(statement).first() is not None


class Schedule:
    """Sends what is due."""

    def __init__(
        self, *, database: Database, dispatcher: Dispatcher, clock: Clock, terms: Terms
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._clock = clock
        self._terms = terms

    async def run(self) -> None:
        """Look for what is due, until cancelled."""
        while True:
            try:
                more = await self.run_once()
            except DirectError as error:
                _log.error("schedule failed", reason=error.reason.code, detail=error.detail)
                more = 0
            if more < BATCH:
                await asyncio.sleep(POLL_S)

    async def run_once(self) -> int:
        """Send what is due now; return how many there were."""
        now = self._clock()
        rows = await self._database.read(lambda c: _due(c, now))
        for identity, client_id in rows:
            await self._one(identity, client_id, now)
        return len(rows)

    async def _one(self, identity: UUID, client_id: UUID, now: datetime) -> None:
        def known(connection: sa.Connection) -> tuple[Client | None, Stored | None]:
            client = find_client(connection, client_id)
            owners = client.mailboxes if client else ()
            return client, store.read(connection, "CommunicationRequest", identity, owners)

        client, stored = await self._database.read(known)
        if client is None or stored is None or stored.deleted:
            await self._database.write(lambda c: _forget(c, identity))
            return

        def take(connection: sa.Connection, *_: object) -> None:
            _take(connection, stored, client_id, now)

        try:
            client.require("CommunicationRequest", "u")
            client.require("Communication", "c")
            message = communication_of(stored.resource(), identity, terms=self._terms)
            await self._dispatcher.send(message, Lifted(), client, beside=take)
        except _ChangedError:
            return  # it is looked at again as it is now, if it still waits
        except DirectError as error:
            reason = error.reason
            if reason.retryable:  # the row stays
                _log.warning("not sent in time", reason=reason.code, detail=error.detail)
                return
            await self._database.write(lambda c: self._held(c, stored, reason, now))

    def _held(
        self, connection: sa.Connection, stored: Stored, reason: Reason, now: datetime
    ) -> None:
        """Put a request that could not be sent on hold: a person must act (fhir.md 3.4)."""
        if not is_waiting(connection, stored.id):
            return  # another process has sent it, or it was taken back
        coding = {"system": self._terms.system("delivery-reason"), "code": reason.code}
        held = {
            **stored.resource(),
            "status": "on-hold",
            "statusReason": {"coding": [coding], "text": public_text(reason)},
        }
        if store.replace(connection, stored, held, now=now, terms=self._terms) is not None:
            _forget(connection, stored.id)


class _ChangedError(Exception):
    """A request is not what it was when it was taken up, or is sent already."""


def _due(connection: sa.Connection, now: datetime) -> list[tuple[UUID, UUID]]:
    statement = (
        sa.select(fhir_due.c.request_id, fhir_due.c.client_id)
        .where(fhir_due.c.due_at <= now)
        .order_by(fhir_due.c.due_at)
        .limit(BATCH)
    )
    return [(row.request_id, row.client_id) for row in connection.execute(statement)]


def _take(connection: sa.Connection, stored: Stored, client_id: UUID, now: datetime) -> None:
    """Take the row in the transaction that sends what `stored` says, as its client.

    Raises:
        _ChangedError: it was sent, put off, revoked or changed in the meantime.
    """
    this = sa.and_(
        fhir_due.c.request_id == stored.id,
        fhir_due.c.client_id == client_id,
        fhir_due.c.due_at <= now,
    )
    if connection.execute(fhir_due.delete().where(this)).rowcount != 1:
        raise _ChangedError
    present = store.by_id(connection, stored.id)
    if present is None or present.version != stored.version:
        raise _ChangedError


def _forget(connection: sa.Connection, identity: UUID) -> bool:
    this = fhir_due.c.request_id == identity
    return connection.execute(fhir_due.delete().where(this)).rowcount == 1
