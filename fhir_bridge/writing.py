"""Create, update, patch and delete: one path for every resource type.

Talks to the database, the body store and the outbox. A Communication that says so is sent on the
way (D10). A condition is checked in the transaction that writes.

Standards:
    FHIR    R4 http.html 3.1.0.5 to 3.1.0.9 (create, update, patch, delete, conditional forms)
    fhir.md section 3.5
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import sqlalchemy as sa

from certs.errors import Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge import store
from fhir_bridge.binaries import add_binaries
from fhir_bridge.clients import Client
from fhir_bridge.delivery import address_of
from fhir_bridge.finding import find
from fhir_bridge.immutability import require_changeable, require_deletable
from fhir_bridge.lifting import Lifted, lift
from fhir_bridge.outbound import is_to_be_sent
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies, Outbox
from fhir_bridge.registry import ResourceType
from fhir_bridge.resources import check, require_type
from fhir_bridge.search import Query, parse_query
from fhir_bridge.sending import Dispatcher
from fhir_bridge.store import Stored
from fhir_bridge.terms import JSON, Terms

__all__ = ["Writer", "Written"]


@dataclass(frozen=True, slots=True)
class Written:
    """What a write came to. `status` is HTTP's: 201 created, 200 updated or found."""

    stored: Stored
    status: int
    issues: tuple[Issue, ...] = ()


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
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._clock = clock
        self._decision_wait_s = decision_wait_s
        self._terms = terms

    async def create(
        self,
        kind: ResourceType,
        resource: JSON,
        client: Client,
        condition: Sequence[tuple[str, str]] | None = None,
    ) -> Written:
        """Store `resource`, and send it where it says so.

        With a condition: where one resource matches, that is the answer, and nothing is stored.

        Raises:
            FhirError: 400 and 422, it is not valid or cannot be sent; 412, the condition matches
                more than one.
        """
        query = _conditional(kind, condition)
        lifted = await self._checked(kind, resource, client)
        if query is not None:
            found = await self._database.read(lambda c: self._match(c, query, client))
            if found is not None:
                return Written(found, 200)
        if kind.name == "Communication" and is_to_be_sent(resource):
            return await self._send(resource, lifted, client, None)
        owner = _owner(kind, resource, client)
        identity, now = new_id(self._clock()), self._clock()

        def work(connection: sa.Connection) -> Written:
            found = self._match(connection, query, client) if query else None
            if found is not None:
                return Written(found, 200)
            self._keep(connection, lifted, identity, owner)
            stored = store.insert(
                connection, resource, identity=identity, owner=owner, now=now, terms=self._terms
            )
            return Written(stored, 201)

        return await self._database.write(work)

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
        if resource.get("id", str(identity)) != str(identity):
            issue = Issue("invalid", "The id is not that of the URL.", f"{kind.name}.id")
            raise FhirError(Reason.RESOURCE_INVALID, [issue])
        lifted = await self._checked(kind, resource, client)
        require_changeable(
            old.resource(), resource, message=old.message is not None, terms=self._terms
        )
        if kind.name == "Communication" and old.message is None and is_to_be_sent(resource):
            return await self._send(resource, lifted, client, old)
        now = self._clock()

        def work(connection: sa.Connection) -> Stored | None:
            self._keep(connection, lifted, identity, old.owner)
            return store.replace(connection, old, resource, now=now, terms=self._terms)

        return Written(_or_stale(await self._database.write(work)), 200)

    async def update_matching(
        self,
        kind: ResourceType,
        condition: Sequence[tuple[str, str]],
        resource: JSON,
        client: Client,
    ) -> Written:
        """Update the one resource that matches; create it where none does (http.html 3.1.0.6)."""
        query = _conditional(kind, condition)
        if query is None:
            issue = Issue("required", "A conditional update needs search parameters.")
            raise FhirError(Reason.RESOURCE_INVALID, [issue], status=412)
        found = await self._database.read(lambda c: self._match(c, query, client))
        if found is None:
            return await self.create(kind, resource, client, condition)
        return await self.update(kind, found.id, {**resource, "id": str(found.id)}, client)

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
        try:
            old = await self._present(kind, identity, client, expected)
        except FhirError as error:
            if error.status == 410:
                return
            raise
        require_deletable(old.resource(), message=old.message is not None)
        now = self._clock()
        _or_stale(await self._database.write(lambda c: store.remove(c, old, now=now)))

    async def _checked(self, kind: ResourceType, resource: JSON, client: Client) -> Lifted:
        require_type(resource, kind.name)
        lifted = await lift(resource, bodies=self._bodies, owner=client.own, now=self._clock())
        await asyncio.to_thread(check, resource)
        return lifted

    async def _present(
        self, kind: ResourceType, identity: UUID, client: Client, expected: int | None
    ) -> Stored:
        old = await self._database.read(lambda c: store.read(c, kind.name, identity, client.owners))
        if old is None:
            issue = Issue("not-found", "There is no such resource.")
            raise FhirError(Reason.RESOURCE_NOT_FOUND, [issue])
        if old.deleted:
            issue = Issue("deleted", "The resource was deleted.")
            raise FhirError(Reason.RESOURCE_NOT_FOUND, [issue], status=410)
        if expected is not None and expected != old.version:
            raise _stale()
        return old

    async def _send(
        self, resource: JSON, lifted: Lifted, client: Client, draft: Stored | None
    ) -> Written:
        sent = await self._dispatcher.send(resource, lifted, client, draft)
        # Design 4.4: so that the answer can show what was decided for each recipient.
        await self._outbox.settled(sent.message, self._decision_wait_s)
        stored = await self._database.read(
            lambda c: store.read(c, "Communication", sent.id, client.mailboxes)
        )
        text = "This element does not travel."
        issues = tuple(
            Issue("informational", text, f"Communication.{name}", severity="information")
            for name in sent.stays
        )
        return Written(_or_stale(stored), 201 if draft is None else 200, issues)

    def _keep(self, connection: sa.Connection, lifted: Lifted, identity: UUID, owner: str) -> None:
        for body in lifted.bodies:
            self._bodies.record(connection, body)
        rows = [replace(row, communication_id=identity, owner=owner) for row in lifted.binaries]
        add_binaries(connection, rows, self._clock())

    def _match(self, connection: sa.Connection, query: Query, client: Client) -> Stored | None:
        rows = find(connection, query, client.owners, self._clock()).rows
        if len(rows) > 1:
            issue = Issue("multiple-matches", "The condition matches more than one resource.")
            raise FhirError(Reason.RESOURCE_CONFLICT, [issue], status=412)
        return rows[0] if rows else None


def _conditional(kind: ResourceType, condition: Sequence[tuple[str, str]] | None) -> Query | None:
    """Return the condition as a search; what it says must all be understood."""
    if not condition:
        return None
    query = parse_query(kind, condition, strict=True)
    return replace(query, count=2, total=False, summary_count=False) if query.criteria else None


def _owner(kind: ResourceType, resource: JSON, client: Client) -> str:
    """Return who a new resource belongs to: a mailbox, or what the client's domain shares.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED; a Communication names no mailbox, and the client has
            several.
    """
    if not kind.in_mailbox:
        return client.home
    named = [resource.get("sender", {}), *resource.get("recipient", ())]
    for address in map(address_of, named):
        if address is not None and address in client.mailboxes:
            return address
    if len(client.mailboxes) == 1:
        return min(client.mailboxes)
    text = "Name the mailbox that this belongs to as sender."
    raise FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue("required", text, f"{kind.name}.sender")])


def _or_stale(stored: Stored | None) -> Stored:
    if stored is None:
        raise _stale()
    return stored


def _stale() -> FhirError:
    issue = Issue("conflict", "Another version is present.")
    return FhirError(Reason.RESOURCE_CONFLICT, [issue], status=412)
