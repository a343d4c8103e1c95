"""What the gateway tells the bridge, inside the gateway's own transactions.

Store functions: plain synchronous SQL on the caller's connection; they never commit, and telling
the same thing twice changes nothing.

Standards:
    fhir.md sections 3.2 (threads), 3.5 (delivery), 3.7 (repeated Message-IDs)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from certs.errors import DirectError, Reason
from fhir_bridge.binaries import add_binaries
from fhir_bridge.blind_copies import original_of
from fhir_bridge.delivery import RecipientState, with_delivery
from fhir_bridge.derived import delivery_tasks
from fhir_bridge.inbound import InboundView
from fhir_bridge.indexing import local_id
from fhir_bridge.local_directory import with_actors, with_patient
from fhir_bridge.read_state import store_read_task
from fhir_bridge.requests import outcome_of
from fhir_bridge.store import Stored, by_id, by_message, insert, read, replace
from fhir_bridge.terms import DEFAULT_CANONICAL, JSON, Terms, extension_value
from fhir_bridge.threads import find_message, in_thread

__all__ = ["delivery_changed", "store_received", "store_tasks"]


WRITERS_MAX: Final = 20


def store_received(
    connection: sa.Connection,
    received: InboundView,
    now: datetime,
    *,
    canonical: str = DEFAULT_CANONICAL,
) -> UUID:
    """Store a received message and return the id of its Communication.

    `received` was made by `inbound.view` beforehand, in a thread. The body it points to is
    recorded by the caller.
    """
    terms = Terms(canonical)
    identity = UUID(received.communication["id"])
    owner = received.mailbox.key
    if read(connection, "Communication", identity, [owner]) is not None:
        return identity
    answered = (
        find_message(connection, owner, received.in_reply_to) if received.in_reply_to else None
    )
    communication = with_actors(connection, _answering(received, answered, terms), owner=owner)
    communication, documents = with_patient(
        connection, communication, received.documents, owner=owner
    )
    if find_message(connection, owner, received.message_id) is not None:
        # fhir.md 3.7: the same Message-ID on other content: both are kept.
        flag = {"url": terms.extension("duplicate-message-id"), "valueBoolean": True}
        communication["extension"] = [*communication["extension"], flag]
    communication = in_thread(
        connection,
        communication,
        owner=owner,
        thread_id=str(extension_value(communication, terms.extension("thread-id"))),
        now=now,
        terms=terms,
    )
    insert(
        connection,
        communication,
        identity=identity,
        owner=owner,
        now=now,
        terms=terms,
        message=received.message,
    )
    store_read_task(connection, identity, owner=owner, now=now, terms=terms)
    add_binaries(connection, received.binaries, now)
    for resource in (*documents, received.provenance):
        if resource is not None:
            insert(
                connection,
                resource,
                identity=UUID(resource["id"]),
                owner=owner,
                now=now,
                terms=terms,
            )
    return identity


def delivery_changed(
    connection: sa.Connection,
    *,
    message: UUID,
    states: Callable[[], Sequence[RecipientState]],
    now: datetime,
    canonical: str = DEFAULT_CANONICAL,
) -> bool:
    """Show the states on the Communication that was sent as `message`, as a new version.

    Return whether there is one: a message from the mail edge has none. The states are asked for
    after the resource was read, and again where somebody else has written it meanwhile: never is
    a later state replaced by an earlier one.
    """
    terms = Terms(canonical)
    for _ in range(WRITERS_MAX):
        stored = by_message(connection, message) or _copied(connection, message)
        if stored is None:
            return False
        before = stored.resource()
        after = with_delivery(before, states(), terms=terms)
        if after == before:
            return True
        # Of a message and its blind copies, several may be told of at once.
        if replace(connection, stored, after, now=now, terms=terms) is not None:
            store_tasks(connection, after, owner=stored.owner, now=now, terms=terms)
            _tell_requests(connection, after, stored.owner, now, terms)
            return True
    raise DirectError(Reason.INTERNAL, "a Communication changed again and again")


def _copied(connection: sa.Connection, message: UUID) -> Stored | None:
    """Return the Communication that `message` is a blind copy of."""
    identity = original_of(connection, message)
    return by_id(connection, identity) if identity is not None else None


def store_tasks(
    connection: sa.Connection, communication: JSON, *, owner: str, now: datetime, terms: Terms
) -> None:
    """Make or update the Task of each recipient of a sent Communication (fhir.md 3.5)."""
    for identity, task in delivery_tasks(communication, terms=terms).items():
        stored = read(connection, "Task", identity, [owner])
        if stored is None:
            insert(connection, task, identity=identity, owner=owner, now=now, terms=terms)
            continue
        before = stored.resource()
        after = {**before, **task}  # what a person added, such as an owner or a note, stays
        if not stored.deleted and after != before:
            replace(connection, stored, after, now=now, terms=terms)


def _tell_requests(
    connection: sa.Connection, communication: JSON, owner: str, now: datetime, terms: Terms
) -> None:
    """Let the requests that a Communication fulfils end with it (fhir.md 3.4)."""
    for reference in communication.get("basedOn", ()):
        literal = reference.get("reference", "")
        identity = local_id(literal)
        if identity is None or not literal.startswith("CommunicationRequest/"):
            continue
        request = read(connection, "CommunicationRequest", identity, [owner])
        if request is not None and not request.deleted:
            before = request.resource()
            after = outcome_of(before, communication)
            if after != before:
                replace(connection, request, after, now=now, terms=terms)


def _answering(received: InboundView, answered: Stored | None, terms: Terms) -> JSON:
    """Return the resource with a literal reference to the message it answers, if it is here."""
    communication = dict(received.communication)
    if answered is None:
        return communication
    literal = {"reference": f"Communication/{answered.id}", **communication["inResponseTo"][0]}
    communication["inResponseTo"] = [literal]
    url = terms.extension("thread-id")
    root = extension_value(answered.resource(), url) if received.notice else None
    if root is not None:
        # A notification has no References: it belongs to the thread of what it is about.
        communication["extension"] = [
            {**item, "valueString": root} if item["url"] == url else item
            for item in communication["extension"]
        ]
    return communication
