"""gateway.retention."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from certs.address import parse_address
from certs.ids import new_id
from fhir_bridge.tables import fhir_binary
from gateway import audit, messages, spool, tables
from gateway.database import SqlDatabase
from gateway.messages import Direction, MessageState, NewMessage, Source
from gateway.ports import StoredBody
from gateway.recipients import set_recipient
from gateway.retention import Forgotten, Retention, forget
from gateway.spool import INLINE_OCTETS, SpoolBodies

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LARGE = bytes(INLINE_OCTETS + 1)
SMITH = parse_address("smith@direct.lakeview.example")
RETENTION = Retention(content=timedelta(days=30), record=timedelta(days=60))


def days(count: float) -> datetime:
    return NOW + timedelta(days=count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def bodies(database: SqlDatabase, folder: Path) -> SpoolBodies:
    return SpoolBodies(database=database, folder=folder, clock=lambda: NOW)


async def finished(
    database: SqlDatabase,
    bodies: SpoolBodies,
    *,
    at: datetime | None = NOW,
    parent: UUID | None = None,
) -> UUID:
    """A message with a body of each kind, finished `at`; None: it is under way."""
    received, content, sealed = [await body(bodies) for _ in range(3)]
    new = NewMessage(
        id=new_id(NOW),
        direction=Direction.OUTGOING,
        source=Source.EDGE,
        actor="ehr",
        envelope_sender=SMITH,
        recipients=(SMITH,),
        body=received,
        parent=parent,
    )

    def store(connection: sa.Connection) -> None:
        messages.accept(connection, new, [], NOW)
        spool.record(connection, sealed, NOW)
        set_recipient(connection, new.id, SMITH, state="relayed", now=NOW, sealed=sealed)
        state = MessageState.FINISHED if at else MessageState.PROCESSING
        messages.set_outcome(connection, new.id, state=state, now=at or NOW, content=content)

    await database.write(store)
    return new.id


async def body(bodies: SpoolBodies) -> StoredBody:
    sink = bodies.sink()
    sink.write(LARGE)
    return await sink.finish()


async def keys(database: SqlDatabase) -> set[str]:
    query = sa.select(tables.body.c.key)
    return set(await database.read(lambda c: c.execute(query).scalars().all()))


async def all_ids(database: SqlDatabase) -> Sequence[UUID]:
    found = await database.read(lambda c: messages.list_messages(c, limit=999))
    return [one.id for one in found]


async def test_content_goes_first_and_the_record_later(
    database: SqlDatabase, bodies: SpoolBodies
) -> None:
    message_id = await finished(database, bodies)
    assert await forget(database, bodies, RETENTION, days(29)) == Forgotten(0, 0, 0)
    assert len(await keys(database)) == 3

    assert (await forget(database, bodies, RETENTION, days(31))).contents == 1
    found = await database.read(lambda c: messages.get(c, message_id))
    assert found is not None
    assert (found.body_key, found.content_key, found.size) == (None, None, len(LARGE))
    assert await keys(database) == set()

    later = await forget(database, bodies, RETENTION, days(61))
    assert (later.contents, later.records) == (0, 1)
    assert await all_ids(database) == []


async def test_the_files_of_forgotten_bodies_go_too(
    database: SqlDatabase, bodies: SpoolBodies, folder: Path
) -> None:
    await finished(database, bodies)
    for file in folder.iterdir():
        os.utime(file, (NOW.timestamp(), NOW.timestamp()))
    assert (await forget(database, bodies, RETENTION, days(31))).files == 3
    assert list(folder.iterdir()) == []


async def test_what_is_under_way_is_kept_however_old(
    database: SqlDatabase, bodies: SpoolBodies
) -> None:
    message_id = await finished(database, bodies, at=None)
    assert await forget(database, bodies, RETENTION, days(999)) == Forgotten(0, 0, 0)
    assert await all_ids(database) == [message_id]


async def test_content_that_a_fhir_binary_serves_is_kept(
    database: SqlDatabase, bodies: SpoolBodies
) -> None:
    message_id = await finished(database, bodies)
    found = await database.read(lambda c: messages.get(c, message_id))
    assert found is not None
    binary = {
        "id": new_id(NOW),
        "owner": SMITH.key,
        "body_key": found.content_key,
        "offset": 0,
        "length": 1,
        "encoding": "identity",
        "content_type": "text/plain",
        "size": 1,
        "sha1": "",
        "sha256": "",
        "created_at": NOW,
    }
    await database.write(lambda c: c.execute(fhir_binary.insert(), binary) and None)
    await forget(database, bodies, RETENTION, days(61))
    assert await keys(database) == {found.content_key}


async def test_a_body_that_another_message_names_is_kept(
    database: SqlDatabase, bodies: SpoolBodies
) -> None:
    old = await finished(database, bodies)
    young = await finished(database, bodies, at=days(50))
    found = await database.read(lambda c: messages.get(c, old))
    assert found is not None
    share = (
        tables.message.update()
        .where(tables.message.c.id == young)
        .values(content_key=found.content_key)
    )
    await database.write(lambda c: c.execute(share) and None)
    await forget(database, bodies, RETENTION, days(61))
    assert found.content_key in await keys(database)


async def test_a_notification_outlives_the_message_that_it_answers(
    database: SqlDatabase, bodies: SpoolBodies
) -> None:
    old = await finished(database, bodies)
    notification = await finished(database, bodies, at=days(10), parent=old)
    await forget(database, bodies, RETENTION, days(61))
    assert await all_ids(database) == [notification]
    found = await database.read(lambda c: messages.get(c, notification))
    assert found is not None
    assert found.parent is None


async def test_more_than_one_batch_is_forgotten(database: SqlDatabase, bodies: SpoolBodies) -> None:
    new = NewMessage(
        id=new_id(NOW),
        direction=Direction.INCOMING,
        source=Source.BACKBONE,
        actor="peer",
        envelope_sender=None,
        recipients=(SMITH,),
        body=StoredBody("", 1, "", b"x"),
    )
    for _ in range(205):
        message_id = new_id(NOW)
        one = replace(new, id=message_id, body=replace(new.body, key=message_id.hex))
        await database.write(partial(messages.accept, new=one, jobs=[], now=NOW))
        await database.write(
            partial(
                messages.set_outcome, message_id=message_id, state=MessageState.REFUSED, now=NOW
            )
        )
    assert await forget(database, bodies, RETENTION, days(61)) == Forgotten(205, 205, 0)
    assert await keys(database) == set()


async def test_the_audit_chain_stays(database: SqlDatabase, bodies: SpoolBodies) -> None:
    await finished(database, bodies)
    await forget(database, bodies, RETENTION, days(61))
    assert (await database.read(audit.head)).number == 1
