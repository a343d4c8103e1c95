"""A disk that is full, a database that is locked, corrupt or away: INTERNAL, and on it goes.

INTERNAL is what the listeners answer by 451: the peer sends again. The faults are real ones.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from certs.errors import DirectError, Reason
from gateway import messages, spool
from gateway.database import SqlDatabase
from gateway.ports import StoredBody
from gateway.tables import body
from tests.helpers.accepting import Store, open_store
from tests.helpers.database import open_sqlite, running_postgresql

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
SMALL, LARGE = 0, 3  # the numbers of a message that goes into a row, and of one into a file


@contextmanager
def no_file_may_grow_beyond(octets: int) -> Iterator[None]:
    """The kernel refuses every write of this process beyond `octets`, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def accepted(store: Store) -> int:
    return len(await store.database.read(lambda c: messages.list_messages(c, limit=1000)))


@pytest.mark.parametrize("number", [SMALL, LARGE], ids=["in-a-row", "in-a-file"])
async def test_a_full_disk_refuses_and_accepts_again_when_there_is_room(
    tmp_path: Path, number: int
) -> None:
    told: list[str] = []
    async with open_store(tmp_path, told.append) as store:
        assert await store.accept(number) is not None
        wal = (tmp_path / "gateway.db-wal").stat().st_size
        with no_file_may_grow_beyond(min(wal, 200_000)):
            for _ in range(3):
                assert await store.accept(number) is None
            assert await accepted(store) == 1
        assert await store.accept(number) is not None
        assert await accepted(store) == 2
    assert [line.split(":")[0].split()[0] for line in told] == [
        "accepted",
        *["refused"] * 3,
        "accepted",
    ]
    assert all("internal" in line for line in told[1:4])
    assert len(list((tmp_path / "spool").iterdir())) == (2 if number == LARGE else 0)


async def test_a_disk_that_fills_up_within_a_batch_keeps_exactly_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    """SQLite undoes a whole transaction by itself where it fails in the midst of one."""
    octets = b"x" * 200_000
    bodies = [StoredBody(f"{n}", len(octets), "0" * 64, octets) for n in range(100)]
    async with open_sqlite(tmp_path) as database:
        await database.write(partial(spool.record, stored=bodies.pop(), now=NOW))
        with no_file_may_grow_beyond(8_000_000):  # about 40 bodies; SQLite caches 10 of them
            works = [partial(spool.record, stored=stored, now=NOW) for stored in bodies]
            results = await asyncio.gather(*map(database.write, works), return_exceptions=True)
        refused = [result for result in results if result is not None]
        assert refused  # all of them, where all were in one transaction
        assert all(isinstance(error, DirectError) for error in refused)
        kept = await database.read(lambda c: set(c.execute(sa.select(body.c.key)).scalars()))
        acknowledged = {one.key for one, r in zip(bodies, results, strict=True) if r is None}
        assert kept == {*acknowledged, "99"}
        again = replace(bodies[0], key="again")
        await database.write(partial(spool.record, stored=again, now=NOW))


async def test_a_locked_database_refuses_and_accepts_again_when_it_is_free(
    tmp_path: Path,
) -> None:
    async with open_sqlite(tmp_path):
        pass
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with SqlDatabase.open(url, lock_wait_s=0.05) as database:
        store = Store(database, tmp_path, print)
        other = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert await store.accept(SMALL) is None
        assert await accepted(store) == 0  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        assert await store.accept(SMALL) is not None


@pytest.mark.parametrize("where", [0, 4096 * 3], ids=["header", "page"])
async def test_a_corrupt_database_is_an_internal_error_and_a_backup_brings_it_back(
    tmp_path: Path, where: int
) -> None:
    async with open_store(tmp_path, print) as store:
        assert await store.accept(SMALL) is not None
    file = tmp_path / "gateway.db"
    shutil.copy(file, tmp_path / "backup")
    with file.open("r+b") as damaged:
        damaged.seek(where)
        damaged.write(b"\xa5" * 4096 * 30)

    url = f"sqlite:///{file}"
    async with SqlDatabase.open(url) as database:
        broken = Store(database, tmp_path, print)
        assert await broken.accept(SMALL) is None
        with pytest.raises(DirectError) as caught:
            await accepted(broken)
        assert caught.value.reason is Reason.INTERNAL

    shutil.copy(tmp_path / "backup", file)
    async with open_store(tmp_path, print) as store:
        assert await store.accept(SMALL) is not None
        assert await accepted(store) == 2


async def test_a_database_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    with running_postgresql() as server:
        async with SqlDatabase.open(await server.migrated_database()) as database:
            store = Store(database, tmp_path, print)
            assert await store.accept(SMALL) is not None
            server.stop()
            assert await store.accept(SMALL) is None
            server.start()
            assert await store.accept(SMALL) is not None
            assert await accepted(store) == 2
