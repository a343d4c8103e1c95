"""What becomes of a message whose job broke too often: those who wait for it are told.

Talks to the database through the connection it is handed. The job itself is kept for an
administrator (`queue list --state dead`); this is written with its last outcome.

Standards:
    DN  DN-006, DN-014 of the requirements
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from certs.address import parse_address
from certs.errors import Reason
from gateway import messages, progress, queue
from gateway.progress import Change
from gateway.queue import Job, NewJob
from gateway.queue_control import GIVE_UP
from gateway.recipients import Recipient, recipients_of, set_recipient
from gateway.tracking import Event, State

__all__ = ["abandon"]


def abandon(connection: Connection, job: Job, now: datetime) -> None:
    """Fail the recipients that wait for `job`; others have been told, or are told by its retry.

    A received message that could not be judged stays as it is: nothing is said about it (AS-077),
    and it is delivered when the job is retried.
    """
    if job.kind in ("outgoing", "deliver"):
        _fail(connection, job, now)
    elif job.kind == "relay" and "copy" not in job.payload:
        _give_up_relay(connection, job, now)


def _give_up_relay(connection: Connection, job: Job, now: datetime) -> None:
    if GIVE_UP not in job.payload:
        # DN-006: the sender is owed a notice, which takes more than a transaction to make.
        payload = {**job.payload, GIVE_UP: True}
        queue.put(connection, NewJob(job.kind, payload, now, job.destination), now)
        return
    set_recipient(
        connection,
        UUID(job.payload["message"]),
        parse_address(job.payload["recipient"]),
        state=State.FAILED.value,
        was=State.PROCESSED.value,
        now=now,
        reason=Reason.INTERNAL,
        detail=_detail(job),
    )


def _fail(connection: Connection, job: Job, now: datetime) -> None:
    message = messages.get(connection, UUID(job.payload["message"]))
    if message is None:
        return
    waiting = _waiting(recipients_of(connection, message.id), job.payload.get("body"))
    changes = [Change(r.address, Event.GAVE_UP, Reason.INTERNAL, _detail(job)) for r in waiting]
    progress.advance(connection, message, changes, now=now)


def _waiting(recipients: Sequence[Recipient], body_key: str | None) -> list[Recipient]:
    """Return those queued under this sealed body; None: those nothing was sealed for yet."""
    return [r for r in recipients if (r.state, r.body_key) == (State.QUEUED.value, body_key)]


def _detail(job: Job) -> str:
    return f"job {job.id} is a dead letter"
