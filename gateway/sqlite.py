"""One SQLite file: one writer with group commit, and a few readers that share snapshots.

Talks to the file system. `gateway.database` is what others use.

Why a thread of our own: measured on one core of this project's machine, the durable accept of a
10 KB message (six statements) with 20 callers ran at 1,400 to 1,850 a second through this thread
and at 410 to 525 through aiosqlite with `AsyncConnection.run_sync`, which crosses threads twice
for every statement; this way a whole batch crosses once. Reads come in batches for the same reason:
a transaction for each cost 290 us of CPU, of which the query itself was 30.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, TypeAlias, TypeVar

import sqlalchemy as sa

from certs.errors import DirectError, Reason
from gateway.prepared import PreparedConnection, Statements
from gateway.turns import Turns
from gateway.wal import WriteAheadLog

__all__ = ["WAL_OCTETS", "SqliteEngine"]

T = TypeVar("T")

# One transaction takes what waits, up to these bounds: a bigger one gains nothing (measured from
# 32 works on) and makes the first of the batch wait for the last.
BATCH_WORKS: Final = 64
BATCH_S: Final = 0.01
# Reads that wait share a snapshot: few, for one that is slow keeps the others of its batch waiting.
BATCH_READS: Final = 8
READERS: Final = 4
WAL_OCTETS: Final = 64 * 1024 * 1024

# What a savepoint may have to take back: SQLite keeps 64 KiB of it in memory and the rest in a file
# in /var/tmp, in clear. A received message touches some hundred pages, each written there first.
_SAVEPOINTS: Final = "temp_store=MEMORY"

# SQLite's documentation, pragma synchronous: in WAL mode only FULL syncs at every commit; NORMAL
# may lose what was committed when the power fails. The writer leaves the sync to `gateway.wal`, and
# nothing is acknowledged before.
_SYNCED_LATER: Final = "synchronous=NORMAL"
_SYNCED: Final = "synchronous=FULL"

_PRAGMAS: Final = (
    # The log is as long as its longest moment was, unless it is cut at a checkpoint.
    f"journal_size_limit={WAL_OCTETS}",
    # In pages. The usual 1000 are 35 messages sent, or 10 received, and of what a checkpoint copies
    # most is written to again by the next: with 4000 a message costs a twentieth less.
    "wal_autocheckpoint=4000",
    # In KiB, for each connection that needs them. With 100,000 messages stored, a thread of 500 is
    # found in half of the time that the usual 2 MB let it take.
    "cache_size=-16384",
)


class SqliteEngine:
    """Runs works on one SQLite file."""

    def __init__(self, path: Path, lock_wait_s: float) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The file holds health information: only its owner may read it. SQLite gives the -wal
        # and -shm files the same mode. One that is there is left alone: who closes it drops all
        # locks that this process has on it (fcntl, POSIX).
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        wait = f"busy_timeout={lock_wait_s * 1000:.0f}"
        writing = _engine(path, wait, "foreign_keys=ON", _SAVEPOINTS, _SYNCED_LATER)
        statements = Statements(writing.dialect)
        self._writer = _Line(writing, "BEGIN IMMEDIATE", statements)
        migrating = _engine(path, wait, "foreign_keys=OFF", _SYNCED)
        self._migrator = _Line(migrating, "BEGIN IMMEDIATE", Statements(migrating.dialect))
        reading = _engine(path, wait, "query_only=ON")
        self._turns = Turns(path.parent)
        self._log = WriteAheadLog(path)
        self._writes: _Orders = queue.SimpleQueue()
        self._committed: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._reads: _Orders = queue.SimpleQueue()
        self._open = True
        self._loop = asyncio.get_running_loop()
        # Daemons: what is not committed was not acknowledged, so the interpreter may exit.
        self._syncer = threading.Thread(target=self._sync_all, name="sqlite-sync", daemon=True)
        self._threads = [
            self._syncer,
            threading.Thread(target=self._write_all, name="sqlite-write", daemon=True),
            *(
                threading.Thread(
                    target=self._read_all,
                    args=(_Line(reading, "BEGIN", statements),),
                    name=f"sqlite-read-{n}",
                    daemon=True,
                )
                for n in range(READERS)
            ),
        ]
        for thread in self._threads:
            thread.start()

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns on a read-only snapshot, taken after this call."""
        return await self._ordered(self._reads, work)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns once the transaction that held it is on the disk.

        A caller who is cancelled leaves a work that is committed whole or never begun.
        """
        return await self._ordered(self._writes, work)

    async def _ordered(self, orders: _Orders, work: Callable[[sa.Connection], T]) -> T:
        if not self._open:
            raise DirectError(Reason.INTERNAL, "the database is closed")
        order: _Order[T] = _Order(work, self._loop.create_future())
        orders.put(order)
        return await order.future

    async def migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        """Run `upgrade` in one transaction, without foreign keys until its end.

        SQLite's documentation, ALTER TABLE, section 7: a table is changed by making a new one,
        and dropping the old one would delete what refers to it.
        """
        await asyncio.to_thread(self._migrate, upgrade)

    def _migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        try:
            self._migrator.empty_log()
            with self._migrator.transaction() as connection:
                upgrade(connection)
                if connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise DirectError(Reason.INTERNAL, "a migration broke a foreign key")
        finally:
            self._migrator.close()

    async def close(self) -> None:
        """Commit what waits, then let go of threads and files. May be called twice."""
        if self._open:
            self._open = False
            self._writes.put(None)
            self._reads.put(None)
            for thread in self._threads:
                await asyncio.to_thread(thread.join)

    def _write_all(self) -> None:
        """The writer thread: batch after batch, until the None that `close` puts."""
        while (first := self._writes.get()) is not None:
            batch = _Batch([first])
            with batch, self._turns.turn():
                self._begin_log()
                with self._writer.transaction() as connection:
                    first.run_in_savepoint(connection)
                    for order in _waiting(self._writes):
                        batch.orders.append(order)
                        order.run_in_savepoint(connection)
            batch.era = self._log.era
            self._committed.put(batch)
        self._committed.put(None)
        self._syncer.join()  # the last connection to be closed removes the log
        self._writer.close()
        self._turns.close()

    def _begin_log(self) -> None:
        """See that all that stands in the log is known to be on the disk, or will be."""
        if self._writer.connect() or self._log.is_lost:
            self._writer.empty_log()
            self._log.begin()

    def _sync_all(self) -> None:
        """The thread that acknowledges: what was committed is on the disk when it is told."""
        while (first := self._committed.get()) is not None:
            batches = [first, *_at_once(self._committed)]
            for era, some in groupby(batches, key=attrgetter("era")):
                batch = _Batch([order for one in some for order in one.orders], era)
                with batch:
                    self._log.sync(era)
                self._tell(batch)
        self._log.close()

    def _read_all(self, reader: _Line) -> None:
        """A reader thread: batch after batch, until the None, which it leaves for the others."""
        while (first := self._reads.get()) is not None:
            # All are taken before the snapshot is: each sees what was committed when it came.
            batch = _Batch([first, *islice(_waiting(self._reads), BATCH_READS - 1)])
            with batch, reader.transaction() as connection:
                for order in batch.orders:
                    order.run(connection)
            self._tell(batch)
        self._reads.put(None)
        reader.close()

    def _tell(self, batch: _Batch) -> None:
        # The loop is closed where the process is on its way out and nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(batch.tell)


def _at_once(waiting: queue.SimpleQueue[T | None]) -> Iterator[T]:
    """Yield what waits, up to a None, which is left there."""
    with suppress(queue.Empty):
        while (one := waiting.get_nowait()) is not None:
            yield one
        waiting.put(None)


def _waiting(orders: _Orders) -> Iterator[_Order[Any]]:
    """Yield what waits, within the bounds of one batch."""
    end = time.monotonic() + BATCH_S
    for order in islice(_at_once(orders), BATCH_WORKS - 1):
        yield order
        if time.monotonic() > end:
            return


class _Order(Generic[T]):
    """One work, its outcome, and who waits for it.

    As a context manager it takes whatever the work raises: the failure is the caller's to handle,
    and neither the thread's nor that of the other works in the batch.
    """

    __slots__ = ("error", "future", "result", "work")

    def __init__(self, work: Callable[[sa.Connection], T], future: asyncio.Future[T]) -> None:
        self.work = work
        self.future = future
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self, connection: sa.Connection) -> None:
        """Run the work, unless nobody waits for it any more."""
        if not self.future.cancelled():
            with self:
                self.result = self.work(connection)

    def run_in_savepoint(self, connection: sa.Connection) -> None:
        """Run the work in a savepoint, which the driver makes at a tenth of SQLAlchemy's cost.

        Raises:
            sqlite3.OperationalError: the savepoint is gone. SQLite rolls the whole transaction
                back by itself when the disk is full or fails; nothing of the batch may be
                acknowledged then.
        """
        execute = connection.connection.cursor().execute
        execute("SAVEPOINT work")
        self.run(connection)
        if self.error is not None:
            execute("ROLLBACK TO work")
        execute("RELEASE work")

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        # A future takes every exception but this one, which no caller could tell from its own.
        stray = isinstance(error, StopIteration)
        self.error = RuntimeError("the work raised StopIteration") if stray else error
        return True


_Orders: TypeAlias = "queue.SimpleQueue[_Order[Any] | None]"


class _Batch:
    """The orders of one transaction. As a context manager: where it fails, all of them fail."""

    __slots__ = ("era", "orders")

    def __init__(self, orders: list[_Order[Any]], era: int = 0) -> None:
        self.orders = orders
        self.era = era

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None:
            for order in self.orders:
                order.error = order.error or error
        return True

    def tell(self) -> None:
        """Let each caller go on; runs in the event loop."""
        for order in self.orders:
            if order.future.done():
                continue
            if order.error is None:
                order.future.set_result(order.result)
            else:
                order.future.set_exception(order.error)


class _Line:
    """One connection, of one thread; after a failure, whatever it was, the next is a new one."""

    def __init__(self, engine: sa.Engine, begin: str, statements: Statements) -> None:
        self._engine = engine
        self._begin = begin
        self._statements = statements
        self._connection: sa.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Yield the connection in a transaction that is committed at the end."""
        try:
            connection = self._connected()
            with connection.begin():
                # The driver's own way: a listener for "begin" would cost every statement.
                connection.connection.cursor().execute(self._begin)
                yield connection
        except BaseException:
            self.close()
            raise

    def connect(self) -> bool:
        """Connect, and say whether it was not connected."""
        was_not = self._connection is None
        self._connected()
        return was_not

    def empty_log(self) -> None:
        """Copy all of the log into the database, synced, and begin it anew.

        Raises:
            sqlite3.OperationalError: the disk fails, or others do not stop to read the log.
        """
        try:
            _empty_log(self._connected().connection.cursor())
        except BaseException:
            self.close()
            raise

    def _connected(self) -> sa.Connection:
        if self._connection is None:
            self._connection = PreparedConnection(self._engine, self._statements)
        return self._connection

    def close(self) -> None:
        """Let go of the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _empty_log(cursor: Any) -> None:
    [(busy, *_)] = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if busy:
        raise sqlite3.OperationalError("database is locked")
    # The log is a file from the first read on.
    cursor.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()


def _engine(path: Path, *pragmas: str) -> sa.Engine:
    """Return an engine whose connections have these pragmas, and begin nothing by themselves."""
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool, hide_parameters=True)

    @sa.event.listens_for(engine.pool, "connect")
    def connected(connection: Any, record: object) -> None:
        connection.isolation_level = None
        if connection.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
            raise sqlite3.OperationalError("the file system has no room for a write-ahead log")
        for pragma in (*pragmas, *_PRAGMAS):
            connection.execute(f"PRAGMA {pragma}")

    return engine
