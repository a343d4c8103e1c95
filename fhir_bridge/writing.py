"""Create, update, patch and delete: one path for every resource type.

Talks to the database, the body store and the outbox. A Communication that says so is sent on the
way (D10). A condition is checked in the transaction that writes.

Standards:
    FHIR    R4 http.html 3.1.0.5 to 3.1.0.9 (create, update, patch, delete, conditional forms)
    fhir.md section 3.5
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import sqlalchemy as sa

from certs.errors import Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge import store
from fhir_bridge.binaries import add_binaries
from fhir_bridge.clients import Client
from fhir_bridge.conditions import match, places_of
from fhir_bridge.durable import made_durable
from fhir_bridge.immutability import require_changeable, require_deletable, require_no_claims
from fhir_bridge.lifting import Lifted, lift
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies, Outbox
from fhir_bridge.read_state import follow
from fhir_bridge.references import conditional_references, with_references
from fhir_bridge.registry import ResourceType
from fhir_bridge.requests import communication_of, is_active
from fhir_bridge.resources import check, require_type
from fhir_bridge.schedule import is_waiting, settle, withdraw
from fhir_bridge.search import Query
from fhir_bridge.sending import Beside, Dispatcher
from fhir_bridge.store import Stored
from fhir_bridge.subscription_rules import require_room, subscribed
from fhir_bridge.terms import JSON, Terms
from fhir_bridge.write_rules import (
    condition_of,
    fresh,
    means_sending,
    not_found,
    owner_of,
    require_unsent,
    require_version,
    stale,
    staying,
)

__all__ = ["Work", "Writer", "Written"]


@dataclass(frozen=True, slots=True)
class Written:
    """What a write came to. `status` is HTTP's: 201 created, 200 updated or found."""

    stored: Stored
    status: int
    issues: tuple[Issue, ...] = ()


Work = Callable[[sa.Connection], Written]


class Writer:
    """Writes resources for clients."""

    def __init__(
        self,
        *,
        database: Database,
        bodies: Bodies,
        outbox: Outbox,
        dispatcher: Dispatcher,
        clock: Clock,
        decision_wait_s: float,
        terms: Terms,
        hook_hosts: Collection[str] = (),
        require_if_match: bool = False,
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._clock = clock
        self._decision_wait_s = decision_wait_s
        self._terms = terms
        self._hook_hosts = hook_hosts
        self._require_if_match = require_if_match

    async def create(
        self,
        kind: ResourceType,
        resource: JSON,
        client: Client,
        condition: Sequence[tuple[str, str]] | None = None,
        *,
        beside: Beside | None = None,
    ) -> Written:
        """Store `resource`, and send it where it says so.

        With a condition: where one resource matches, that is the answer, and nothing is stored.
        `beside` does more in the transaction that sends a Communication.

        Raises:
            FhirError: 400 and 422, it is not valid or cannot be sent; 412, the condition matches
                more than one.
        """
        query = condition_of(kind, condition)
        if query is not None:
            found = await self._database.read(lambda c: match(c, query, client, self._clock()))
            if found is not None:
                await made_durable(self._database)
                return Written(found, 200)
        lifted = await self._checked(kind, resource, client)
        if means_sending(kind, resource) and not await self._dispatcher.waits(resource, client):
            return await self._send(kind, resource, lifted, client, None, beside)
        identity = new_id(self._clock())
        return await self._database.write(
            self._creation(kind, resource, lifted, client, identity, query)
        )

    async def creation(
        self,
        kind: ResourceType,
        resource: JSON,
        client: Client,
        identity: UUID,
        condition: Sequence[tuple[str, str]] | None = None,
    ) -> Work:
        """Return the work of a create as a part of a greater transaction.

        Raises:
            FhirError: as `create` does; and 422 for what would be sent, since a message cannot
                be called back when the rest of the transaction fails.
        """
        lifted = await self._checked(kind, resource, client)
        require_unsent(kind, resource)
        query = condition_of(kind, condition)
        return self._creation(kind, resource, lifted, client, identity, query)

    def _creation(
        self,
        kind: ResourceType,
        resource: JSON,
        lifted: Lifted,
        client: Client,
        identity: UUID,
        query: Query | None,
    ) -> Work:
        owner, now = owner_of(kind, resource, client), self._clock()

        def work(connection: sa.Connection) -> Written:
            found = match(connection, query, client, now) if query else None
            if found is not None:
                return Written(found, 200)
            if kind.name == "Subscription":
                require_room(connection, client)
            self._keep(connection, lifted, identity, owner)
            stored = store.insert(
                connection, resource, identity=identity, owner=owner, now=now, terms=self._terms
            )
            if kind.name == "CommunicationRequest":
                settle(connection, identity, resource, client, now, terms=self._terms)
            return Written(stored, 201)

        return work

    async def update(
        self,
        kind: ResourceType,
        identity: UUID,
        resource: JSON,
        client: Client,
        expected: int | None = None,
    ) -> Written:
        """Put `resource` in the place of the present version; `expected` is that of If-Match.

        A draft that becomes in-progress is sent.

        Raises:
            FhirError: 404, 410; 412, another version is present; 409, it cannot change any more.
        """
        old = await self._present(kind, identity, client, expected)
        lifted = await self._replaceable(kind, old, resource, client)
        sends = old.message is None and means_sending(kind, resource, old)
        if sends and not await self._dispatcher.waits(resource, client):
            return await self._send(kind, resource, lifted, client, old)
        return await self._database.write(self._replacement(old, resource, lifted, client))

    async def replacement(
        self,
        kind: ResourceType,
        identity: UUID,
        resource: JSON,
        client: Client,
        expected: int | None = None,
    ) -> Work:
        """Return the work of an update as a part of a greater transaction (see `creation`)."""
        old = await self._present(kind, identity, client, expected)
        lifted = await self._replaceable(kind, old, resource, client)
        if old.message is None:
            require_unsent(kind, resource, old)
        return self._replacement(old, resource, lifted, client)

    async def _replaceable(
        self, kind: ResourceType, old: Stored, resource: JSON, client: Client
    ) -> Lifted:
        if resource.get("id", str(old.id)) != str(old.id):
            issue = Issue("invalid", "The id is not that of the URL.", f"{kind.name}.id")
            raise FhirError(Reason.RESOURCE_INVALID, [issue])
        lifted = await self._checked(kind, resource, client, old)
        require_changeable(
            old.resource(), resource, message=old.message is not None, terms=self._terms
        )
        if (
            kind.name == "CommunicationRequest"
            and is_active(resource)
            and await self._database.read(lambda c: is_waiting(c, old.id))
        ):
            # It is sent later by who writes it now, who must be allowed to send all of it.
            client.require("Communication", "c")
            message = communication_of(resource, old.id, terms=self._terms)
            await self._dispatcher.draft(message, client)
        return lifted

    def _replacement(self, old: Stored, resource: JSON, lifted: Lifted, client: Client) -> Work:
        now = self._clock()

        def work(connection: sa.Connection) -> Written:
            self._keep(connection, lifted, old.id, old.owner)
            stored = store.replace(connection, old, resource, now=now, terms=self._terms)
            if old.type == "CommunicationRequest":
                before = old.resource()
                settle(connection, old.id, resource, client, now, terms=self._terms, old=before)
            else:
                follow(connection, old, resource, client=client.id, now=now, terms=self._terms)
            return Written(fresh(stored), 200)

        return work

    async def update_matching(
        self,
        kind: ResourceType,
        condition: Sequence[tuple[str, str]],
        resource: JSON,
        client: Client,
    ) -> Written:
        """Update the one resource that matches; create it where none does (http.html 3.1.0.6)."""
        query = condition_of(kind, condition)
        if query is None:
            issue = Issue("required", "A conditional update needs search parameters.")
            raise FhirError(Reason.RESOURCE_INVALID, [issue], status=412)
        found = await self._database.read(lambda c: match(c, query, client, self._clock()))
        if found is None:
            client.require(kind.name, "c")
            return await self.create(kind, resource, client, condition)
        whole = {**resource, "id": str(found.id)}
        return await self.update(kind, found.id, whole, client, found.version)

    async def patch(
        self,
        kind: ResourceType,
        identity: UUID,
        change: Callable[[JSON], JSON],
        client: Client,
        expected: int | None = None,
    ) -> Written:
        """Apply `change` to the present version; the result is checked as any update is."""
        old = await self._present(kind, identity, client, expected)
        changed = change(old.resource())
        return await self.update(kind, identity, changed, client, old.version)

    async def delete(
        self, kind: ResourceType, identity: UUID, client: Client, expected: int | None = None
    ) -> None:
        """Delete a resource; deleting it again changes nothing.

        Raises:
            FhirError: 404; 409, it is kept.
        """
        await self._database.write(await self.deletion(kind, identity, client, expected))

    async def deletion(
        self, kind: ResourceType, identity: UUID, client: Client, expected: int | None = None
    ) -> Callable[[sa.Connection], None]:
        """Return the work of a delete as a part of a greater transaction."""
        old = await self._present(kind, identity, client, expected, deleted=True)
        if not old.deleted:
            require_deletable(old.resource(), message=old.message is not None)

        def work(connection: sa.Connection) -> None:
            if not old.deleted:
                fresh(store.remove(connection, old, now=self._clock()))

        return work

    async def _checked(
        self, kind: ResourceType, resource: JSON, client: Client, old: Stored | None = None
    ) -> Lifted:
        require_type(resource, kind.name)
        lifted = await lift(resource, bodies=self._bodies, owner=client.own, now=self._clock())
        await asyncio.to_thread(check, resource)
        if old is None or old.message is None:
            require_no_claims(resource, self._terms)
        if kind.name == "Subscription":
            subscribed(resource, old, client, self._hook_hosts, self._terms)
        wanted = conditional_references(resource)
        if wanted:
            now = self._clock()
            places = await self._database.read(lambda c: places_of(c, wanted, client, now))
            resource.update(with_references(resource, places))
        return lifted

    async def _present(
        self,
        kind: ResourceType,
        identity: UUID,
        client: Client,
        expected: int | None,
        *,
        deleted: bool = False,
    ) -> Stored:
        require_version(expected, demanded=self._require_if_match)
        old = await self._database.read(lambda c: store.read(c, kind.name, identity, client.owners))
        if old is None:
            raise not_found()
        if old.deleted and not deleted:
            gone = [Issue("deleted", "The resource was deleted.")]
            raise FhirError(Reason.RESOURCE_NOT_FOUND, gone, status=410)
        if expected is not None and expected != old.version:
            raise stale()
        return old

    async def _send(
        self,
        kind: ResourceType,
        resource: JSON,
        lifted: Lifted,
        client: Client,
        old: Stored | None,
        beside: Beside | None = None,
    ) -> Written:
        """Send a Communication, or what a CommunicationRequest asks for."""
        client.require("Communication", "c")
        status = 201 if old is None else 200
        if kind.name == "Communication":
            sent = await self._dispatcher.send(resource, lifted, client, old, beside)
            identity = sent.id
        else:
            now = self._clock()
            identity = old.id if old else new_id(now)
            message = communication_of(resource, identity, terms=self._terms)

            def request(connection: sa.Connection, owner: str, _: UUID) -> None:
                withdraw(connection, resource, client, now, terms=self._terms)
                if old is None:
                    store.insert(
                        connection,
                        resource,
                        identity=identity,
                        owner=owner,
                        now=now,
                        terms=self._terms,
                    )
                else:
                    fresh(store.replace(connection, old, resource, now=now, terms=self._terms))

            sent = await self._dispatcher.send(message, lifted, client, beside=request)
        # Design 4.4: so that the answer can show what was decided for each recipient.
        wait_s = self._decision_wait_s
        await asyncio.gather(*(self._outbox.settled(m, wait_s) for m in sent.messages))
        stored = await self._database.read(
            lambda c: store.read(c, kind.name, identity, client.mailboxes)
        )
        return Written(fresh(stored), status, staying(kind, sent.stays, sent.in_envelope))

    def _keep(self, connection: sa.Connection, lifted: Lifted, identity: UUID, owner: str) -> None:
        for body in lifted.bodies:
            self._bodies.record(connection, body)
        rows = [replace(row, communication_id=identity, owner=owner) for row in lifted.binaries]
        add_binaries(connection, rows, self._clock())
