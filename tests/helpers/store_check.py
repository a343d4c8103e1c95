"""Is what the store acknowledged there, whole, and worked off once?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from uuid import UUID

import sqlalchemy as sa

from gateway import audit, messages, queue
from gateway.messages import Message, MessageState
from gateway.queue import Job
from gateway.recipients import Recipient, recipients_of
from tests.helpers.accepting import Store, clock

__all__ = ["accepted_in", "check"]


def accepted_in(lines: Iterable[str]) -> dict[UUID, str]:
    """Return id and SHA-256 of each message that a whole line says was accepted."""
    words = [line.split() for line in lines if line.endswith("\n")]
    return {UUID(word[1]): word[2] for word in words if word[0] == "accepted"}


async def check(store: Store, accepted: Mapping[UUID, str]) -> None:
    """Work off what is left, then hold the store to what was acknowledged.

    Raises:
        AssertionError: something is lost, half, done twice or unsound.
    """
    everything = await _everything(store)
    lost = accepted.keys() - {message.id for message in everything}
    assert not lost, f"lost: {lost}"
    await _work_off(store)
    for message in await _everything(store):
        await _check_message(store, message, accepted.get(message.id))
    assert await store.database.read(audit.verify) is None, "audit chain is broken"
    sound = await store.database.read(
        lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()
    )
    assert sound == "ok", sound


async def _everything(store: Store) -> list[Message]:
    return list(await store.database.read(partial(messages.list_messages, limit=10**6)))


async def _check_message(store: Store, message: Message, sha256: str | None) -> None:
    assert message.state is MessageState.FINISHED
    assert message.evidence is not None
    assert message.body_key is not None
    async with store.bodies.open(message.body_key) as body:
        digest = hashlib.sha256(body.read()).hexdigest()
    assert digest == message.evidence["sha256"]
    assert digest == (sha256 or digest), "another body than was acknowledged"
    assert len(await store.database.read(partial(_recipients, message_id=message.id))) == 2
    events = await store.database.read(partial(audit.list_events, limit=9, subject=str(message.id)))
    assert sorted(event.action for event in events) == ["message-accepted", "message-finished"]


def _recipients(connection: sa.Connection, message_id: UUID) -> list[Recipient]:
    return list(recipients_of(connection, message_id))


async def _work_off(store: Store) -> None:
    """Do what is left to do, an hour later: the leases of a killed process are over."""
    later = clock() + timedelta(hours=1)
    claim = partial(queue.claim, now=later, lease_s=60, limit=100)
    while jobs := await store.database.write(claim):
        for job in jobs:
            result = await store.incoming(job)
            await store.database.write(partial(_settle, job=job, record=result.record))


def _settle(connection: sa.Connection, job: Job, record: Callable[[sa.Connection], object]) -> None:
    queue.finish(connection, job)
    record(connection)
