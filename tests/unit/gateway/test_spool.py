"""gateway.spool."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.errors import DirectError, Reason
from gateway import spool
from gateway.database import SqlDatabase
from gateway.ports import StoredBody
from gateway.spool import FRESH_OCTETS, INLINE_OCTETS, SpoolBodies

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
SMALL = b"small body\r\n"
LARGE = bytes(range(256)) * 2048  # twice INLINE_OCTETS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def bodies(database: SqlDatabase, folder: Path) -> SpoolBodies:
    return SpoolBodies(database=database, folder=folder, clock=lambda: NOW)


async def store(
    database: SqlDatabase, bodies: SpoolBodies, content: bytes, chunk: int = 1 << 16
) -> StoredBody:
    sink = bodies.sink()
    for start in range(0, len(content), chunk):
        assert sink.write(memoryview(content)[start : start + chunk]) == len(
            content[start : start + chunk]
        )
    assert sink.size == len(content)
    stored = await sink.finish()
    await database.write(lambda c: spool.record(c, stored, NOW))
    async with bodies.open(stored.key):
        pass  # what was just made is opened from memory once; from here on it is the stored one
    return stored


def age(path: Path, hours: float) -> None:
    at = (NOW - timedelta(hours=hours)).timestamp()
    os.utime(path, (at, at))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(SMALL, id="small"),
        pytest.param(b"x" * INLINE_OCTETS, id="largest-in-a-row"),
        pytest.param(b"x" * (INLINE_OCTETS + 1), id="smallest-in-a-file"),
        pytest.param(LARGE, id="large"),
    ],
)
async def test_a_body_is_read_back_as_it_was_written(
    database: SqlDatabase, bodies: SpoolBodies, content: bytes
) -> None:
    stored = await store(database, bodies, content)
    assert (stored.size, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    async with bodies.open(stored.key) as body:
        assert body.read() == content
        body.seek(3)
        assert body.read(5) == content[3:8]


async def test_a_small_body_makes_no_file(
    database: SqlDatabase, bodies: SpoolBodies, folder: Path
) -> None:
    stored = await store(database, bodies, SMALL)
    assert stored.inline == SMALL
    assert list(folder.iterdir()) == []


async def test_a_large_body_is_a_file_that_only_its_owner_reads(
    database: SqlDatabase, bodies: SpoolBodies, folder: Path
) -> None:
    stored = await store(database, bodies, LARGE)
    assert stored.inline is None
    [file] = folder.iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == (stored.key, 0o600)
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_large_body_stays_out_of_memory(bodies: SpoolBodies) -> None:
    chunk = bytes(1 << 18)
    tracemalloc.start()
    sink = bodies.sink()
    for _ in range(80):  # 20 MiB
        sink.write(chunk)
    await sink.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


async def test_a_discarded_body_leaves_no_file(bodies: SpoolBodies, folder: Path) -> None:
    for content in (SMALL, LARGE):
        sink = bodies.sink()
        sink.write(content)
        await sink.discard()
        await sink.discard()
    assert list(folder.iterdir()) == []


async def test_discarding_a_finished_body_keeps_what_a_row_may_name(
    database: SqlDatabase, bodies: SpoolBodies
) -> None:
    sink = bodies.sink()
    sink.write(LARGE)
    stored = await sink.finish()
    await database.write(lambda c: spool.record(c, stored, NOW))
    await sink.discard()
    async with bodies.open(stored.key) as body:
        assert body.read() == LARGE


async def test_no_such_body(bodies: SpoolBodies) -> None:
    with pytest.raises(DirectError) as caught:
        async with bodies.open("nothing"):
            pass
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND


async def test_a_body_whose_file_is_missing_is_an_internal_error(
    database: SqlDatabase, bodies: SpoolBodies, folder: Path
) -> None:
    stored = await store(database, bodies, LARGE)
    (folder / stored.key).unlink()
    with pytest.raises(DirectError) as caught:
        async with bodies.open(stored.key):
            pass
    assert caught.value.reason is Reason.INTERNAL


async def test_a_sweep_removes_old_files_without_a_row_and_nothing_else(
    database: SqlDatabase, bodies: SpoolBodies, folder: Path
) -> None:
    named = await store(database, bodies, LARGE)
    forgotten = await store(database, bodies, LARGE)
    await database.write(lambda c: spool.forget(c, [forgotten.key]))
    unfinished, recent = bodies.sink(), bodies.sink()
    unfinished.write(LARGE)
    recent.write(LARGE)
    for file in folder.iterdir():
        age(file, 1.1)
    just_now = await recent.finish()
    age(folder / just_now.key, 0.9)
    assert await bodies.sweep(NOW) == 2
    assert {file.name for file in folder.iterdir()} == {named.key, just_now.key}


async def test_a_file_that_cannot_be_made_durable_is_an_internal_error(
    bodies: SpoolBodies, folder: Path
) -> None:
    sink = bodies.sink()
    sink.write(LARGE)
    [part] = folder.iterdir()
    part.unlink()
    with pytest.raises(DirectError) as caught:
        await sink.finish()
    assert caught.value.reason is Reason.INTERNAL
    await sink.discard()


async def test_a_disk_that_takes_no_more_is_an_internal_error(
    database: SqlDatabase, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    bodies = SpoolBodies(database=database, folder=gone, clock=lambda: NOW)
    gone.rmdir()
    with pytest.raises(DirectError) as caught:
        bodies.sink().write(LARGE)
    assert caught.value.reason is Reason.INTERNAL


async def test_what_was_just_made_is_opened_without_the_database_once(bodies: SpoolBodies) -> None:
    sink = bodies.sink()
    sink.write(b"small")
    body = await sink.finish()
    async with bodies.open(body.key) as file:
        assert file.read() == b"small"
    # The second time its row counts, which there is not.
    with pytest.raises(DirectError) as caught:
        async with bodies.open(body.key):
            pass
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND


async def test_few_fresh_bodies_are_kept_the_oldest_go_first(bodies: SpoolBodies) -> None:
    keys = []
    for _ in range(FRESH_OCTETS // INLINE_OCTETS + 1):
        sink = bodies.sink()
        sink.write(b"x" * INLINE_OCTETS)
        keys.append((await sink.finish()).key)
    with pytest.raises(DirectError):
        async with bodies.open(keys[0]):
            pass
    async with bodies.open(keys[1]) as file:
        assert len(file.read()) == INLINE_OCTETS
