"""The messages that were processed: each once, whatever happens to its answer.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    FHIR    R4 messaging.html 2.4.4 (a message that comes again is answered again)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from certs.errors import Reason
from certs.ids import new_id
from fhir_bridge.clients import Client
from fhir_bridge.message_bundle import Message
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.tables import fhir_processed

__all__ = ["Processed", "add_processed", "find_processed"]


@dataclass(frozen=True, slots=True)
class Processed:
    """What a message came to. `id` is its answer's."""

    id: UUID
    communication: UUID
    at: datetime


def find_processed(connection: sa.Connection, message: Message, client: Client) -> Processed | None:
    """Return what `message` came to, where `client` has sent it before.

    Raises:
        FhirError: RESOURCE_CONFLICT; it has sent another one under this id, or in this envelope.
    """
    table = fhir_processed
    same = table.c.message_id == message.id
    if message.envelope is not None:
        same = sa.or_(same, table.c.envelope == message.envelope)
    rows = connection.execute(sa.select(table).where(table.c.client_id == client.id, same)).all()
    if not rows:
        return None
    if any(row.digest != message.digest for row in rows):
        raise _conflict("Another message had this id, or this identifier of its Bundle.")
    return Processed(rows[0].answer_id, rows[0].communication_id, rows[0].processed_at)


def add_processed(
    connection: sa.Connection, message: Message, client: Client, communication: UUID, now: datetime
) -> None:
    """Remember that `message` was sent as that Communication, in the transaction that sends it.

    Raises:
        FhirError: RESOURCE_CONFLICT; it was processed meanwhile.
    """
    if find_processed(connection, message, client) is not None:
        raise _conflict("This message was processed meanwhile.")
    row = fhir_processed.insert().values(
        client_id=client.id,
        message_id=message.id,
        envelope=message.envelope,
        digest=message.digest,
        answer_id=new_id(now),
        communication_id=communication,
        processed_at=now,
    )
    try:
        connection.execute(row)
    except sa.exc.IntegrityError:  # on PostgreSQL another process sends the same one
        raise _conflict("This message was processed meanwhile.") from None


def _conflict(text: str) -> FhirError:
    return FhirError(Reason.RESOURCE_CONFLICT, [Issue("duplicate", text, "MessageHeader.id")])
