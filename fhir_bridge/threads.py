"""Threads: the header that a conversation hangs on, and the message that is answered.

Store functions: plain synchronous SQL on the caller's connection; they never commit. A thread is
found by its Message-IDs alone, never by guessing from patient or subject (fhir.md 2, row 24).

Standards:
    FHIR    R4 Communication.partOf, .inResponseTo
    fhir.md section 2 rows 2 to 5; section 3.2 (thread identity)
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from certs.ids import new_id
from fhir_bridge.delivery import address_of
from fhir_bridge.store import Stored, insert, lookup, replace
from fhir_bridge.terms import DIRECT_MEDIUM, JSON, URI_SYSTEM, Terms, mid_identifier

__all__ = ["find_message", "in_thread"]


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
    """Return `communication` as part of the thread's header, which is made where there is none.

    A new participant is added to the header's recipients, so that `recipient=` finds the thread.
    """
    system = terms.namespace("thread")
    header = lookup(
        connection, "Communication", "identifier", thread_id[:512], system=system, owners=[owner]
    )
    participants = _participants(communication)
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
    connection: sa.Connection, header: Stored, participants: list[JSON], now: datetime, terms: Terms
) -> None:
    resource = header.resource()
    listed = resource.get("recipient", [])
    known = {address_of(r) or r.get("reference") for r in listed}
    new = [p for p in participants if (address_of(p) or p.get("reference")) not in known]
    if new:
        joined = {**resource, "recipient": [*listed, *new]}
        replace(connection, header, joined, now=now, terms=terms)
