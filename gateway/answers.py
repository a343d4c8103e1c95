"""The notices that a job sends: accepted in its transaction, and taken up as that is committed.

Talks to the database through the connection it is handed.

Standards:
    AS  Applicability Statement v1.3, sections 2 and 3 (AS-040: a notice goes out as any message)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy import Connection

from gateway import messages
from gateway.messages import Message, MessageState, NewMessage
from gateway.notify import USUAL_WISH
from gateway.outcomes import Task
from gateway.queue import NewJob
from gateway.recipients import Recipient
from gateway.results import Next

__all__ = ["Answers", "as_accepted"]


class Answers:
    """Notices to send at `now`."""

    def __init__(self, notices: Sequence[NewMessage], now: datetime) -> None:
        self._notices = notices
        self._now = now
        self._accepted: set[UUID] = set()

    def record(self, connection: Connection) -> None:
        """Accept the notices, but those that were sent before: a job may run again."""
        self._accepted.clear()
        for new in self._notices:
            _, is_new = messages.accept(connection, new, [], self._now)
            if is_new:
                self._accepted.add(new.id)

    @property
    def then(self) -> Sequence[Next]:
        """The jobs that send the notices, of those that `record` accepted."""
        return [
            Next(
                NewJob("outgoing", {"message": str(new.id)}, self._now),
                as_accepted(new, self._now),
                partial(self._accepted.__contains__, new.id),
            )
            for new in self._notices
        ]


def as_accepted(new: NewMessage, now: datetime) -> Task:
    """Return what `outcomes.load` does of a message that was accepted at `now`."""
    message = Message(
        id=new.id,
        direction=new.direction,
        source=new.source,
        kind=new.kind,
        state=MessageState.RECEIVED,
        envelope_sender=new.envelope_sender,
        author=new.author,
        message_id_header=new.message_id_header,
        body_key=new.body.key,
        content_key=None,
        size=new.body.size,
        wants_dispatched=new.wants_dispatched,
        reason=None,
        detail=None,
        evidence=None,
        dedupe_key=new.dedupe_key,
        received_at=now,
        finished_at=None,
        parent=new.parent,
        envelope_id=new.envelope_id,
    )
    recipients = [
        Recipient(
            message_id=new.id,
            ordinal=ordinal,
            address=address,
            state=new.recipient_state,
            reason=None,
            detail=None,
            status=None,
            body_key=None,
            updated_at=now,
            relayed_at=None,
            processed_at=None,
            dispatched_at=None,
            due_at=new.due_at,
            wish=new.wishes.get(address, USUAL_WISH),
        )
        for ordinal, address in enumerate(dict.fromkeys(new.recipients))
    ]
    return Task(message, tuple(recipients))
