"""Communications over HTTP: create (which may send), read, read a version, search.

Talks to the database, the body store and the outbox.

Standards:
    FHIR    R4 http.html: create, read, vread, search
    fhir.md section 4.1; decision D10 (sending only when told)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from certs.errors import Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge.binaries import add_binaries
from fhir_bridge.clients import Client
from fhir_bridge.delivery import address_of
from fhir_bridge.exchange import body_of, stored_response
from fhir_bridge.lifting import Lifted, lift
from fhir_bridge.outbound import is_to_be_sent
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies, Outbox
from fhir_bridge.resources import check, load, require_type
from fhir_bridge.sending import Dispatcher
from fhir_bridge.store import Stored, insert, read
from fhir_bridge.terms import JSON, Terms

__all__ = ["CommunicationApi"]


class CommunicationApi:
    """Takes Communications; what is in progress it sends."""

    def __init__(
        self,
        *,
        database: Database,
        bodies: Bodies,
        outbox: Outbox,
        dispatcher: Dispatcher,
        clock: Clock,
        base_url: str,
        decision_wait_s: float,
        limit_octets: int,
        terms: Terms,
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._clock = clock
        self._base_url = base_url
        self._decision_wait_s = decision_wait_s
        self._limit_octets = limit_octets
        self._terms = terms

    async def create(self, request: Request, client: Client) -> Response:
        """Store what was posted; send it first where it says so (D10)."""
        body = await body_of(request, self._limit_octets)
        resource = await asyncio.to_thread(load, body)
        require_type(resource, "Communication")
        lifted = await lift(resource, bodies=self._bodies, owner=client.own, now=self._clock())
        await asyncio.to_thread(check, resource)
        if is_to_be_sent(resource):
            stored, issues = await self._send(resource, lifted, client)
        else:
            stored, issues = await self._keep(resource, lifted, client), []
        location = f"{self._base_url}/Communication/{stored.id}/_history/{stored.version}"
        return stored_response(request, stored, status=201, location=location, issues=issues)

    async def _send(
        self, resource: JSON, lifted: Lifted, client: Client
    ) -> tuple[Stored, Sequence[Issue]]:
        sent = await self._dispatcher.send(resource, lifted, client)
        # Design 4.4: so that the answer can show what was decided for each recipient.
        await self._outbox.settled(sent.message, self._decision_wait_s)
        stored = await self._database.read(
            lambda c: read(c, "Communication", sent.id, client.mailboxes)
        )
        if stored is None:  # what was committed above cannot be gone
            raise FhirError(Reason.INTERNAL, [Issue("exception", "It was not stored.")])
        issues = [
            Issue(
                "informational",
                "This element does not travel.",
                f"Communication.{name}",
                severity="information",
            )
            for name in sent.stays
        ]
        return stored, issues

    async def _keep(self, resource: JSON, lifted: Lifted, client: Client) -> Stored:
        """Store a draft, a record or a thread header in the mailbox it belongs to."""
        owner = _owner(resource, client)
        now = self._clock()
        identity = new_id(now)

        def work(connection: sa.Connection) -> Stored:
            for body in lifted.bodies:
                self._bodies.record(connection, body)
            rows = [replace(row, communication_id=identity, owner=owner) for row in lifted.binaries]
            add_binaries(connection, rows, now)
            return insert(
                connection, resource, identity=identity, owner=owner, now=now, terms=self._terms
            )

        return await self._database.write(work)


def _owner(resource: JSON, client: Client) -> str:
    """Return the client's mailbox that a Communication belongs to: its sender's, else the only.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED; it names no mailbox, and the client has several.
    """
    sender = address_of(resource.get("sender", {}))
    named = [sender] if sender else []
    named += [a for a in map(address_of, resource.get("recipient", ())) if a]
    for address in named:
        if address in client.mailboxes:
            return address
    if len(client.mailboxes) == 1:
        return min(client.mailboxes)
    issue = Issue("required", "Name the mailbox this belongs to as sender.", "Communication.sender")
    raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue])
