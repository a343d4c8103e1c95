"""Send a `Communication`: from the checked resource to the gateway's outbox.

Talks to the database, the body store and the outbox. The message is written once, streaming, in a
thread; the resource, its Binaries and the gateway's message are committed together.

Standards:
    FHIR    R4 Communication
    fhir.md section 3.4, decision D10
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO
from uuid import UUID

import sqlalchemy as sa

from certs.errors import Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge import store
from fhir_bridge.attached_documents import document_urls, with_files
from fhir_bridge.binaries import add_binaries, attach, find_binary
from fhir_bridge.binary_rows import BinaryRow
from fhir_bridge.blind_copies import Copy, copies_of, keep_copies
from fhir_bridge.clients import Client
from fhir_bridge.compose import Ancestry, compose
from fhir_bridge.definitions import TYPES
from fhir_bridge.enclosures import local_resources, mismatches, references_of, sent_along
from fhir_bridge.envelope import Enclosure, Facts, enclosed
from fhir_bridge.groups import expanded, group_references
from fhir_bridge.handover import letter_of, stored_form, with_urls
from fhir_bridge.lifting import Lifted, binary_id
from fhir_bridge.outbound import Draft, draft_of
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies, Body, Outbox, Submission
from fhir_bridge.records import store_tasks
from fhir_bridge.requests import communication_of, due_at
from fhir_bridge.store import Stored, insert
from fhir_bridge.terms import JSON, Terms
from fhir_bridge.threads import ancestry_of, find_message, in_thread

__all__ = ["Beside", "Dispatcher", "Sent"]

# More work in the transaction that sends: it is told the mailbox and the Communication's id.
Beside = Callable[[sa.Connection, str, UUID], None]


@dataclass(frozen=True, slots=True)
class Sent:
    """The stored Communication, the gateway's messages, and the elements that do not travel.

    Those `in_envelope` do, for recipients whose gateway reads envelopes.
    """

    id: UUID
    messages: tuple[UUID, ...]
    stays: tuple[str, ...]
    in_envelope: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Ready:
    """Everything that is known before the message is written. `id` is the Communication's."""

    id: UUID
    now: datetime
    resource: JSON
    draft: Draft
    ancestry: Ancestry
    binaries: Mapping[str, BinaryRow]
    octets: Mapping[str, bytes]  # of bodies that are not recorded yet, by key
    replaces: Stored | None

    @property
    def owner(self) -> str:
        return self.draft.sender.address.key

    @property
    def message_id(self) -> str:
        return self.draft.message_id or f"<{self.id}@{self.draft.sender.address.domain}>"

    @property
    def thread_id(self) -> str:
        return (*self.ancestry.references, self.message_id)[0]


class Dispatcher:
    """Turns resources into messages for one gateway."""

    def __init__(
        self,
        *,
        database: Database,
        bodies: Bodies,
        outbox: Outbox,
        clock: Clock,
        base_url: str,
        terms: Terms,
        envelopes: bool = False,
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._outbox = outbox
        self._clock = clock
        self._base_url = base_url
        self._terms = terms
        self._envelopes = envelopes

    async def send(
        self,
        resource: JSON,
        lifted: Lifted,
        client: Client,
        draft: Stored | None = None,
        beside: Beside | None = None,
    ) -> Sent:
        """Hand the message that `resource` describes to the outbox, and store `resource`.

        It takes the place of the stored `draft`, if there is one. `beside` does more in the same
        transaction.

        Raises:
            FhirError: RESOURCE_UNSUPPORTED (422), SENDER_NOT_ALLOWED (403), RESOURCE_CONFLICT
                (409, the Message-ID is used already).
            DirectError: what the outbox raises.
        """
        resource = await self._expanded(resource, client)
        ready = await self._ready(resource, lifted, client, draft)
        copies = copies_of(
            ready.draft,
            message_id=ready.message_id,
            ancestry=ready.ancestry,
            ids=[new_id(ready.now) for _ in ready.draft.bcc],
        )
        envelope = await self._envelope(ready)
        first, *others = [await self._submission(ready, copy, envelope) for copy in copies]
        stored = stored_form(
            resource,
            ready.draft,
            message_id=ready.message_id,
            thread_id=ready.thread_id,
            date=ready.now,
            terms=self._terms,
        )

        def record(connection: sa.Connection, message: UUID) -> None:
            self._record(connection, message, stored, lifted, ready)
            keep_copies(connection, ready.id, copies)
            if beside is not None:
                beside(connection, ready.owner, ready.id)

        message = await self._outbox.submit(replace(first, copies=tuple(others)), record)
        messages = (message, *(copy.id for copy in copies[1:] if copy.id is not None))
        carried = envelope.elements if envelope else frozenset()
        stays = tuple(name for name in ready.draft.stays if name not in carried)
        return Sent(ready.id, messages, stays, tuple(n for n in ready.draft.stays if n in carried))

    async def waits(self, resource: JSON, client: Client) -> bool:
        """Say whether `resource` is a request to send at a later time.

        Raises:
            FhirError: as `draft` does: what cannot be sent now is not kept until then.
        """
        now, due = self._clock(), due_at(resource)
        if resource["resourceType"] != "CommunicationRequest" or due is None or due <= now:
            return False
        client.require("Communication", "c")
        await self.draft(communication_of(resource, new_id(now), terms=self._terms), client)
        return True

    async def draft(self, resource: JSON, client: Client) -> Draft:
        """Return what `resource` would send, sending nothing.

        Raises:
            FhirError: as `send` does, short of what the outbox finds.
        """
        resource = await self._expanded(resource, client)
        for kind in sorted({literal.partition("/")[0] for literal in sent_along(resource)}):
            if kind in TYPES and kind != "Binary":
                client.require(kind, "r")  # it leaves to be read elsewhere
        literals = references_of(resource)
        directory = await self._database.read(lambda c: local_resources(c, literals, client))
        draft = draft_of(resource, directory=directory, terms=self._terms)
        if draft.sender.address.key not in client.mailboxes:
            issue = Issue("forbidden", "You may not send as this address.", "Communication.sender")
            raise FhirError(Reason.SENDER_NOT_ALLOWED, [issue])
        return draft

    async def _expanded(self, resource: JSON, client: Client) -> JSON:
        """Return `resource` with the members of its groups, and the files of its documents."""
        groups = group_references(resource)
        documents = document_urls(resource, self._base_url)
        literals = groups | documents
        if not literals:
            return resource
        if documents:
            client.require("DocumentReference", "r")
        found = await self._database.read(lambda c: local_resources(c, literals, client))
        some = {k: found[k] for k in documents & found.keys()}
        whole = with_files(resource, some, self._base_url)
        return expanded(whole, {k: found[k] for k in groups & found.keys()}, self._terms)

    async def _ready(
        self, resource: JSON, lifted: Lifted, client: Client, replaces: Stored | None
    ) -> _Ready:
        draft = await self.draft(resource, client)
        owner = draft.sender.address.key
        binaries = await self._binaries(draft, lifted, client)
        ancestry = await self._database.read(
            lambda c: ancestry_of(c, resource, owner=owner, terms=self._terms)
        )
        now = self._clock()
        identity = replaces.id if replaces else new_id(now)
        octets = lifted.octets
        return _Ready(identity, now, resource, draft, ancestry, binaries, octets, replaces)

    async def _envelope(self, ready: _Ready) -> Enclosure | None:
        """Return the part that carries what mail cannot, where that is wanted and possible."""
        # A blind copy is a message of its own, of which the others' envelopes could tell.
        if not self._envelopes or ready.draft.bcc:
            return None
        return await asyncio.to_thread(
            enclosed,
            ready.resource,
            ready.draft,
            Facts(ready.id, ready.message_id, ready.ancestry.in_reply_to, ready.now),
            binaries=ready.binaries,
            base_url=self._base_url,
            terms=self._terms,
        )

    async def _binaries(self, draft: Draft, lifted: Lifted, client: Client) -> dict[str, BinaryRow]:
        """Return the Binary row behind each content, by its `at`.

        Raises:
            FhirError: RESOURCE_UNSUPPORTED; a foreign url (never fetched), a Binary that is not
                theirs, or a size or hash that is not the Binary's.
        """
        own = {row.id: row for row in lifted.binaries}
        wanted = {c.at: binary_id(c.url, self._base_url) for c in draft.contents if c.url}
        owners = client.owners
        if not client.scopes.allow("Binary", "r"):
            owners = frozenset({client.own})  # what it has uploaded itself
        rows = await self._database.read(
            lambda c: {at: own.get(i) or find_binary(c, i, owners) for at, i in wanted.items() if i}
        )
        issues = [
            issue
            for content in draft.contents
            if content.url is not None
            for issue in mismatches(content, rows.get(content.at))
        ]
        if issues:
            raise FhirError(Reason.RESOURCE_UNSUPPORTED, issues)
        return {at: row for at, row in rows.items() if row is not None}

    async def _submission(
        self, ready: _Ready, copy: Copy, envelope: Enclosure | None
    ) -> Submission:
        return Submission(
            sender=ready.draft.sender.address,
            recipients=tuple(mailbox.address for mailbox in copy.recipients),
            content=await self._written(ready, copy, envelope),
            message_id=copy.message_id,
            wants_dispatched=ready.draft.wants_dispatched,
            id=copy.id,
        )

    async def _written(self, ready: _Ready, copy: Copy, envelope: Enclosure | None) -> Body:
        """Write the message into a new body."""
        sink = self._bodies.sink()
        try:
            async with AsyncExitStack() as stack:
                files: dict[str, BinaryIO] = {}
                for key in {row.body_key for row in ready.binaries.values()}:
                    octets = ready.octets.get(key)
                    files[key] = (
                        await stack.enter_async_context(self._bodies.open(key))
                        if octets is None
                        else io.BytesIO(octets)
                    )
                letter = letter_of(
                    copy.draft,
                    message_id=copy.message_id,
                    date=ready.now,
                    ancestry=copy.ancestry,
                    binaries=ready.binaries,
                    files=files,
                )
                if envelope is not None:
                    attachments = (*letter.attachments, envelope.attachment)
                    letter = replace(letter, attachments=attachments)
                await asyncio.to_thread(compose, letter, sink, boundary=f"=_{ready.id.hex}")
            return await sink.finish()
        except BaseException:
            await sink.discard()
            raise

    def _record(
        self,
        connection: sa.Connection,
        message: UUID,
        resource: JSON,
        lifted: Lifted,
        ready: _Ready,
    ) -> None:
        """Store the Communication beside the gateway's message, in its transaction."""
        owner, now, terms = ready.owner, ready.now, self._terms
        if find_message(connection, owner, ready.message_id) is not None:
            text = "This Message-ID is used already."
            issue = Issue("duplicate", text, "Communication.identifier")
            raise FhirError(Reason.RESOURCE_CONFLICT, [issue])
        for body in lifted.bodies:
            self._bodies.record(connection, body)
        add_binaries(connection, lifted.binaries, now)
        placed = {
            content.url: attach(
                connection, ready.binaries[content.at], communication=ready.id, owner=owner, now=now
            )
            for content in ready.draft.contents
            if content.url is not None
        }
        threaded = in_thread(
            connection,
            with_urls(resource, placed),
            owner=owner,
            thread_id=ready.thread_id,
            now=now,
            terms=terms,
        )
        described = {**threaded, "id": str(ready.id)}
        store_tasks(connection, described, owner=owner, now=now, terms=terms)
        if ready.replaces is None:
            insert(
                connection,
                threaded,
                identity=ready.id,
                owner=owner,
                now=now,
                terms=terms,
                message=message,
            )
        elif not store.replace(
            connection,
            ready.replaces,
            threaded,
            now=now,
            terms=terms,
            owner=owner,
            message=message,
        ):
            issue = Issue("conflict", "Another version is present.")
            raise FhirError(Reason.RESOURCE_CONFLICT, [issue], status=412)
