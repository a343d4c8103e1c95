"""Threads: the header that a conversation hangs on, and the message that is answered.

Store functions: plain synchronous SQL on the caller's connection; they never commit. A thread is
found by its Message-IDs alone, never by guessing from patient or subject (fhir.md 2, row 24).

Standards:
    FHIR    R4 Communication.partOf, .inResponseTo
    fhir.md section 2 rows 2 to 5; section 3.2 (thread identity)
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from certs.errors import Reason
from certs.ids import new_id
from fhir_bridge.compose import Ancestry
from fhir_bridge.delivery import address_of
from fhir_bridge.headers import message_ids
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.store import Stored, insert, lookup, read, replace, touch
from fhir_bridge.terms import (
    DIRECT_MEDIUM,
    JSON,
    URI_SYSTEM,
    Terms,
    extension_value,
    message_id_of,
    mid_identifier,
)

__all__ = ["ancestry_of", "find_message", "in_thread"]


def ancestry_of(connection: sa.Connection, resource: JSON, *, owner: str, terms: Terms) -> Ancestry:
    """Return what a message of mailbox `owner` answers: by inResponseTo, else by its thread.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED; inResponseTo refers to a message that is not here.
    """
    for reference in resource.get("inResponseTo", ()):
        known = message_id_of([reference.get("identifier", {})])
        found = _literal(connection, reference, owner)
        if found is None and known is not None:
            found = find_message(connection, owner, known)
        if found is not None:
            parent = found.resource()
            parent_id = message_id_of(parent.get("identifier", ()))
            if parent_id is not None:
                # RFC5322 3.6.4: the parent's References, then the parent's Message-ID.
                return Ancestry(parent_id, (*_references(parent, terms), parent_id))
        if known is not None:
            return Ancestry(known, (known,))
        issue = Issue("not-found", "There is no such message.", "Communication.inResponseTo")
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue])
    for reference in resource.get("partOf", ()):
        header = _literal(connection, reference, owner)
        root = header and extension_value(header.resource(), terms.extension("thread-id"))
        if root:
            return Ancestry(None, (str(root),))
    return Ancestry()


def find_message(connection: sa.Connection, owner: str, message_id: str) -> Stored | None:
    """Return the Communication of mailbox `owner` with this Message-ID (in angle brackets)."""
    value = mid_identifier(message_id)["value"]
    return lookup(
        connection, "Communication", "identifier", value, system=URI_SYSTEM, owners=[owner]
    )


def in_thread(
    connection: sa.Connection,
    communication: JSON,
    *,
    owner: str,
    thread_id: str,
    now: datetime,
    terms: Terms,
) -> JSON:
    """Return `communication` as part of its thread's header, which is made where there is none.

    The header that the client named in partOf becomes the thread's, if it has no thread yet. A
    new participant is added to the header's recipients, so that `recipient=` finds the thread.
    """
    system = terms.namespace("thread")
    header = lookup(
        connection, "Communication", "identifier", thread_id[:512], system=system, owners=[owner]
    )
    participants = _participants(communication)
    if "partOf" in communication:
        named = _literal(connection, communication["partOf"][0], owner)
        if named is not None:
            _join(connection, named, participants, now, terms, thread_id if not header else None)
            touch(connection, named.id, communication)
        return communication
    if header is None:
        header = insert(
            connection,
            _header(communication, participants, thread_id, terms),
            identity=new_id(now),
            owner=owner,
            now=now,
            terms=terms,
        )
    else:
        _join(connection, header, participants, now, terms)
    touch(connection, header.id, communication)
    return {**communication, "partOf": [{"reference": f"Communication/{header.id}"}]}


def _header(communication: JSON, participants: list[JSON], thread_id: str, terms: Terms) -> JSON:
    # fhir.md 2 row 2: no payload and no partOf; in-progress while the thread is open.
    header: JSON = {
        "resourceType": "Communication",
        "extension": [{"url": terms.extension("thread-id"), "valueString": thread_id}],
        "identifier": [{"system": terms.namespace("thread"), "value": thread_id}],
        "status": "in-progress",
        "medium": [DIRECT_MEDIUM],
        "recipient": participants,
    }
    if "topic" in communication:
        header["topic"] = communication["topic"]
    subject = communication.get("subject", {})
    if subject.get("reference", "#").startswith("#") is False:
        header["subject"] = subject
    return header


def _participants(communication: JSON) -> list[JSON]:
    """Return everybody once, the sender too (fhir.md 2 row 3), by what survives on its own."""
    found: dict[str, JSON] = {}
    for reference in (communication.get("sender", {}), *communication.get("recipient", ())):
        kept = {k: reference[k] for k in ("type", "identifier", "display") if k in reference}
        literal = reference.get("reference", "#")
        if not literal.startswith("#"):
            kept["reference"] = literal
        key = address_of(reference) or literal
        if kept and key not in found:
            found[key] = kept
    return list(found.values())


def _join(
    connection: sa.Connection,
    header: Stored,
    participants: list[JSON],
    now: datetime,
    terms: Terms,
    thread_id: str | None = None,
) -> None:
    """Add participants to a header, and make it the header of `thread_id` if it has no thread."""
    resource = header.resource()
    listed = resource.get("recipient", [])
    known = {address_of(r) or r.get("reference") for r in listed}
    new = [p for p in participants if (address_of(p) or p.get("reference")) not in known]
    joined = {**resource, "recipient": [*listed, *new]}
    url = terms.extension("thread-id")
    if thread_id is not None and extension_value(resource, url) is None:
        mark = {"url": url, "valueString": thread_id}
        identifier = {"system": terms.namespace("thread"), "value": thread_id}
        joined["extension"] = [*resource.get("extension", ()), mark]
        joined["identifier"] = [*resource.get("identifier", ()), identifier]
    if joined != resource:
        replace(connection, header, joined, now=now, terms=terms)


def _literal(connection: sa.Connection, reference: JSON, owner: str) -> Stored | None:
    """Return the Communication of mailbox `owner` that a literal reference names."""
    kind, _, identity = reference.get("reference", "").partition("/")
    try:
        found = read(connection, "Communication", UUID(identity), [owner])
    except ValueError:
        return None
    return found if found is not None and kind == "Communication" else None


def _references(parent: JSON, terms: Terms) -> tuple[str, ...]:
    """Return the References of a stored message; `inbound` keeps them raw if they say more."""
    for item in parent.get("extension", ()):
        if item.get("url") == terms.extension("mime-header"):
            parts = {part["url"]: part.get("valueString") for part in item["extension"]}
            if parts.get("name") == "references":
                return message_ids(parts.get("value") or "")
    own = message_id_of(parent.get("identifier", ()))
    before = [message_id_of([r.get("identifier", {})]) for r in parent.get("inResponseTo", ())]
    chain = [extension_value(parent, terms.extension("thread-id")), *before]
    return tuple(dict.fromkeys(str(i) for i in chain if i is not None and i != own))
