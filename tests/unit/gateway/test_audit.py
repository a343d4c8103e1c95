"""gateway.audit."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from gateway import audit
from gateway.audit import Head
from gateway.database import SqlDatabase
from gateway.tables import audit_event

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


async def act(database: SqlDatabase, subject: str, *, actor: str = "admin") -> int:
    return await database.write(
        lambda c: audit.record(
            c,
            now=NOW,
            actor=actor,
            action="anchor-added",
            subject=subject,
            outcome="done",
            new="ab" * 32,
        )
    )


async def three(database: SqlDatabase) -> None:
    for subject in ("a.example", "b.example", "c.example"):
        await act(database, subject)


async def test_events_are_numbered_and_chained(database: SqlDatabase) -> None:
    await three(database)
    newest, middle, oldest = await database.read(lambda c: audit.list_events(c, limit=9))
    assert [e.number for e in (newest, middle, oldest)] == [3, 2, 1]
    assert (newest.previous, middle.previous) == (middle.digest, oldest.digest)
    assert (oldest.at, oldest.actor, oldest.subject) == (NOW, "admin", "a.example")
    assert await database.read(audit.verify) is None


async def test_nothing_recorded_is_sound(database: SqlDatabase) -> None:
    assert await database.read(audit.head) == Head(0, "0" * 64)
    assert await database.read(audit.verify) is None


@pytest.mark.parametrize(
    "column", ["at", "actor", "action", "subject", "outcome", "old", "new", "previous", "digest"]
)
async def test_an_edit_is_found(sqlite_database: SqlDatabase, column: str) -> None:
    await three(sqlite_database)
    value = NOW.replace(hour=13) if column == "at" else "x" * 64
    edit = audit_event.update().where(audit_event.c.number == 2).values({column: value})
    await sqlite_database.write(lambda c: c.execute(edit) and None)
    assert await sqlite_database.read(audit.verify) == 2


@pytest.mark.parametrize("number", [1, 2])
async def test_a_gap_is_found(database: SqlDatabase, number: int) -> None:
    await three(database)
    cut = audit_event.delete().where(audit_event.c.number == number)
    await database.write(lambda c: c.execute(cut) and None)
    assert await database.read(audit.verify) == number


async def test_a_cut_end_is_found_by_a_head_that_was_kept(database: SqlDatabase) -> None:
    await three(database)
    kept = await database.read(audit.head)
    cut = audit_event.delete().where(audit_event.c.number == 3)
    await database.write(lambda c: c.execute(cut) and None)
    assert await database.read(audit.verify) is None
    assert await database.read(lambda c: audit.verify(c, known=kept)) == 3


async def test_a_rewritten_chain_is_found_by_a_head_that_was_kept(database: SqlDatabase) -> None:
    await three(database)
    kept = await database.read(audit.head)
    await database.write(lambda c: c.execute(sa.delete(audit_event)) and None)
    await three(database)
    assert await database.read(lambda c: audit.verify(c, known=kept)) is None
    await database.write(lambda c: c.execute(sa.delete(audit_event)) and None)
    for subject in ("a.example", "b.example", "other.example", "c.example"):
        await act(database, subject)
    assert await database.read(audit.verify) is None
    assert await database.read(lambda c: audit.verify(c, known=kept)) == 3


async def test_those_who_append_at_once_make_one_chain(database_url: str) -> None:
    async with SqlDatabase.open(database_url) as one, SqlDatabase.open(database_url) as other:
        each = [act(db, f"{n}.example") for n in range(10) for db in (one, other)]
        assert sorted(await asyncio.gather(*each)) == list(range(1, 21))
        assert await one.read(audit.verify) is None


async def test_listing_continues_and_filters(database: SqlDatabase) -> None:
    await three(database)
    await act(database, "a.example", actor="other")

    first = await database.read(lambda c: audit.list_events(c, limit=2))
    rest = await database.read(lambda c: audit.list_events(c, limit=9, before=first[-1].number))
    assert [e.number for e in (*first, *rest)] == [4, 3, 2, 1]
    by_subject = await database.read(lambda c: audit.list_events(c, limit=9, subject="a.example"))
    by_actor = await database.read(lambda c: audit.list_events(c, limit=9, actor="other"))
    by_action = await database.read(lambda c: audit.list_events(c, limit=9, action="none"))
    assert [[e.number for e in found] for found in (by_subject, by_actor, by_action)] == [
        [4, 1],
        [4],
        [],
    ]
