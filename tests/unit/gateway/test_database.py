"""gateway.database, gateway.sqlite, gateway.postgresql and gateway.migrations."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from certs.errors import DirectError, Reason
from gateway import spool
from gateway.database import SqlDatabase
from gateway.migrations.write import PATH, initial_revision
from gateway.ports import StoredBody
from gateway.sqlite import WAL_OCTETS, SqliteEngine
from gateway.tables import all_metadata, paused_destination
from tests.helpers.database import PostgresqlServer, open_sqlite

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def pause(name: str) -> Callable[[sa.Connection], str]:
    """A work that writes one row and returns its name."""

    def work(connection: sa.Connection) -> str:
        connection.execute(paused_destination.insert(), {"destination": name, "paused_at": NOW})
        return name

    return work


def names(connection: sa.Connection) -> list[str]:
    query = sa.select(paused_destination.c.destination).order_by("destination")
    return list(connection.execute(query).scalars())


def fail(connection: sa.Connection) -> None:
    pause("half")(connection)
    raise LookupError("no")


async def test_a_write_returns_what_the_work_returns_and_is_there_after_it(
    database: SqlDatabase,
) -> None:
    assert await database.write(pause("a")) == "a"
    assert await database.read(names) == ["a"]


async def test_a_work_that_raises_leaves_nothing_and_its_caller_hears_the_error(
    database: SqlDatabase,
) -> None:
    with pytest.raises(LookupError):
        await database.write(fail)
    assert await database.read(names) == []


async def test_a_work_that_ends_an_iteration_of_its_own_keeps_nobody_waiting(
    database: SqlDatabase,
) -> None:
    works = [pause("a"), lambda _: next(iter(())), pause("b")]
    async with asyncio.timeout(10):
        gathered = asyncio.gather(*(database.write(w) for w in works), return_exceptions=True)
        results = await gathered
    assert [type(r) for r in results] == [str, RuntimeError, str]


async def test_a_failing_work_does_not_undo_the_others_of_its_batch(
    database: SqlDatabase,
) -> None:
    works = [pause("a"), fail, pause("b"), fail, pause("c")]
    results = await asyncio.gather(*(database.write(w) for w in works), return_exceptions=True)
    assert [type(r) for r in results] == [str, LookupError, str, LookupError, str]
    assert await database.read(names) == ["a", "b", "c"]


async def test_a_statement_that_fails_does_not_undo_the_others_of_its_batch(
    database: SqlDatabase,
) -> None:
    works = [pause("a"), pause("a"), pause("b")]
    results = await asyncio.gather(*(database.write(w) for w in works), return_exceptions=True)
    assert sorted(await database.read(names)) == ["a", "b"]
    [error] = [r for r in results if isinstance(r, BaseException)]
    assert isinstance(error, DirectError)
    assert error.reason is Reason.INTERNAL


async def test_the_text_of_a_database_error_holds_no_value(database: SqlDatabase) -> None:
    await database.write(pause("patient.example"))
    with pytest.raises(DirectError) as caught:
        await database.write(pause("patient.example"))
    assert "patient" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_more_works_than_one_batch_holds_are_all_committed(database: SqlDatabase) -> None:
    wanted = [f"{n:03}" for n in range(200)]
    assert await asyncio.gather(*(database.write(pause(n)) for n in wanted)) == wanted
    assert await database.read(names) == wanted


async def test_reading_cannot_write(database: SqlDatabase) -> None:
    with pytest.raises(DirectError) as caught:
        await database.read(pause("a"))
    assert caught.value.reason is Reason.INTERNAL
    assert await database.read(names) == []


async def test_a_read_sees_one_snapshot_while_others_write(sqlite_database: SqlDatabase) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def twice(connection: sa.Connection) -> tuple[list[str], list[str]]:
        first = names(connection)
        begun.set()
        go_on.wait()
        return first, names(connection)

    reading = asyncio.create_task(sqlite_database.read(twice))
    await asyncio.to_thread(begun.wait)
    await sqlite_database.write(pause("a"))
    go_on.set()
    assert await reading == ([], [])


async def test_a_read_sees_all_that_was_committed_before_it(database: SqlDatabase) -> None:
    async def caller(number: int) -> None:
        for turn in range(20):
            name = f"d{number}x{turn}.example"
            await database.write(pause(name))
            assert name in await database.read(names)

    await asyncio.gather(*map(caller, range(12)))


async def test_a_read_that_fails_does_not_spoil_the_others(database: SqlDatabase) -> None:
    def fails(connection: sa.Connection) -> list[str]:
        return list(connection.execute(sa.text("SELECT x FROM no_such_table")).scalars())

    await database.write(pause("a.example"))
    works = [fails if number % 3 == 0 else names for number in range(30)]
    results = await asyncio.gather(*map(database.read, works), return_exceptions=True)
    assert all(isinstance(result, DirectError) for result in results[::3])
    assert [r for n, r in enumerate(results) if n % 3] == [["a.example"]] * 20


async def test_a_closed_database_refuses_reads(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path) as database:
        pass
    with pytest.raises(DirectError) as caught:
        await database.read(names)
    assert caught.value.reason is Reason.INTERNAL


async def test_the_log_of_sqlite_is_cut_after_a_long_moment(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path) as database:
        octets = b"x" * 1024 * 1024
        bodies = [StoredBody(f"{n}", len(octets), "0" * 64, octets) for n in range(70)]
        now = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
        await database.write(lambda c: [spool.record(c, stored, now) for stored in bodies])
        log = tmp_path / "gateway.db-wal"
        assert log.stat().st_size > 70 * len(octets)
        await database.write(pause("a.example"))
        assert log.stat().st_size <= WAL_OCTETS


async def test_a_cancelled_caller_whose_work_has_begun_leaves_it_committed_whole(
    sqlite_database: SqlDatabase,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> None:
        pause("a")(connection)
        begun.set()
        go_on.wait()
        pause("b")(connection)

    writing = asyncio.create_task(sqlite_database.write(slow))
    await asyncio.to_thread(begun.wait)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    go_on.set()
    await sqlite_database.write(pause("c"))
    assert await sqlite_database.read(names) == ["a", "b", "c"]


async def test_a_cancelled_caller_whose_work_has_not_begun_leaves_nothing(
    sqlite_database: SqlDatabase,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> None:
        begun.set()
        go_on.wait()

    first = asyncio.create_task(sqlite_database.write(slow))
    await asyncio.to_thread(begun.wait)
    second = asyncio.create_task(sqlite_database.write(pause("a")))
    await asyncio.sleep(0)  # it is in the queue now
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    go_on.set()
    await first
    await sqlite_database.write(pause("b"))
    assert await sqlite_database.read(names) == ["b"]


async def test_a_cancelled_caller_leaves_the_work_committed_whole_on_postgresql(
    postgresql_server: PostgresqlServer,
) -> None:
    begun = asyncio.Event()

    def slow(connection: sa.Connection) -> None:
        pause("a")(connection)
        begun.set()
        connection.exec_driver_sql("SELECT pg_sleep(0.05)")
        pause("b")(connection)

    url = await postgresql_server.migrated_database()
    async with SqlDatabase.open(url) as database:
        writing = asyncio.create_task(database.write(slow))
        await begun.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    async with SqlDatabase.open(url) as database:  # closing has waited for the work
        assert await database.read(names) == ["a", "b"]


async def test_where_a_transaction_cannot_begin_all_that_wait_for_it_hear_so(
    tmp_path: Path,
) -> None:
    async with open_sqlite(tmp_path):
        pass
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    other = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
    async with SqlDatabase.open(url, lock_wait_s=0.01) as database:
        other.execute("BEGIN IMMEDIATE")
        works = [database.write(pause(name)) for name in "abc"]
        results = await asyncio.gather(*works, return_exceptions=True)
        assert [str(error) for error in results] == [
            "internal: database: OperationalError database is locked"
        ] * 3
        other.execute("ROLLBACK")
        assert await database.write(pause("d")) == "d"
        assert await database.read(names) == ["d"]
    other.close()


async def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "gateway.db", 1.0)
    await engine.close()
    await engine.close()


async def test_closing_commits_what_waits(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path) as database:
        writing = [asyncio.create_task(database.write(pause(n))) for n in "abc"]
        await asyncio.sleep(0)
    assert await asyncio.gather(*writing) == ["a", "b", "c"]
    async with open_sqlite(tmp_path) as database:
        assert await database.read(names) == ["a", "b", "c"]


async def test_a_closed_database_refuses_writes(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path) as database:
        pass
    with pytest.raises(DirectError) as caught:
        await database.write(pause("a"))
    assert caught.value.reason is Reason.INTERNAL


def test_the_interpreter_ends_where_nobody_closed_the_database(tmp_path: Path) -> None:
    program = f"""
import asyncio
from gateway.database import SqlDatabase

async def main():
    opened = SqlDatabase.open("sqlite:///{tmp_path}/gateway.db")
    database = await opened.__aenter__()
    await database.migrate()
    await database.write(lambda c: c.exec_driver_sql("SELECT 1"))
    await database.read(lambda c: c.exec_driver_sql("SELECT 1"))
    print("done", flush=True)

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert (ended.stdout, ended.returncode) == ("done\n", 0)


async def test_sqlite_has_a_log_synced_by_us_and_is_readable_by_its_owner_only(
    tmp_path: Path, sqlite_database: SqlDatabase
) -> None:
    def pragmas(connection: sa.Connection) -> list[object]:
        wanted = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted]

    normal = 1  # `tests/integration/test_wal.py` sees when it is synced
    assert await sqlite_database.write(pragmas) == ["wal", normal, 1, 5000]
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.glob("gateway.db*")}
    assert modes == {0o600}


async def test_postgresql_is_durable_at_every_commit(postgresql_server: PostgresqlServer) -> None:
    async with SqlDatabase.open(postgresql_server.url("postgres")) as database:
        level = await database.write(
            lambda c: c.exec_driver_sql("SHOW synchronous_commit").scalar()
        )
    assert level == "on"


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("nonsense", id="not-a-url"),
        pytest.param("sqlite://", id="in-memory"),
        pytest.param("sqlite:///:memory:", id="in-memory-by-name"),
        pytest.param("mysql://localhost/x", id="another-database"),
    ],
)
async def test_not_a_database_of_ours(url: str) -> None:
    with pytest.raises(DirectError) as caught:
        async with SqlDatabase.open(url):
            pass
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def test_a_file_that_cannot_be_made_is_an_internal_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectError) as caught:
        async with SqlDatabase.open(f"sqlite:///{tmp_path}/file/gateway.db"):
            pass
    assert caught.value.reason is Reason.INTERNAL


async def test_a_server_that_does_not_answer_is_an_internal_error() -> None:
    async with SqlDatabase.open("postgresql://nobody@127.0.0.1:9/nothing") as database:
        for attempt in (database.read(names), database.write(names), database.migrate()):
            with pytest.raises(DirectError) as caught:
                await attempt
            assert caught.value.reason is Reason.INTERNAL


async def test_the_migrated_schema_is_what_the_tables_say(database: SqlDatabase) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), all_metadata()))

    assert await database.read(differences) == []


async def test_migrating_again_changes_nothing(database: SqlDatabase) -> None:
    await database.write(pause("a"))
    await database.migrate()
    assert await database.read(names) == ["a"]


async def test_databases_that_are_migrated_at_once_get_a_schema_each(
    tmp_path: Path, postgresql_server: PostgresqlServer
) -> None:
    urls = [f"sqlite:///{tmp_path / name}" for name in "abc"]
    urls += [postgresql_server.url(await postgresql_server.new_database()) for _ in range(2)]
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(SqlDatabase.open(url)) for url in urls]
        await asyncio.gather(*(database.migrate() for database in databases))
        assert [await database.read(names) for database in databases] == [[]] * 5


async def test_a_schema_of_a_later_version_is_refused(database: SqlDatabase) -> None:
    later = sa.text("UPDATE alembic_version SET version_num = '9999'")
    await database.write(lambda c: c.execute(later) and None)
    with pytest.raises(DirectError) as caught:
        await database.migrate()
    assert caught.value.reason is Reason.INTERNAL


async def test_processes_that_start_together_migrate_once(
    postgresql_server: PostgresqlServer,
) -> None:
    url = postgresql_server.url(await postgresql_server.new_database())
    async with SqlDatabase.open(url) as one, SqlDatabase.open(url) as other:
        await asyncio.gather(one.migrate(), other.migrate())
        assert await other.read(names) == []


def test_the_initial_revision_is_the_one_that_the_tables_give() -> None:
    written = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "-"],
        input=initial_revision(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert PATH.read_text() == written.stdout


async def test_a_migration_that_breaks_a_foreign_key_is_undone(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path) as database:
        pass
    with sqlite3.connect(tmp_path / "gateway.db") as connection:  # foreign keys are off here
        connection.execute("INSERT INTO edge_user_address VALUES ('nobody', 'a@b.example')")
    async with SqlDatabase.open(f"sqlite:///{tmp_path / 'gateway.db'}") as database:
        with pytest.raises(DirectError) as caught:
            await database.migrate()
        assert caught.value.reason is Reason.INTERNAL
