"""Message bodies: small ones in their row, large ones as synced files in the spool folder.

Talks to the file system and the database. A file is written, synced, renamed, and its folder
synced, before the transaction that names it: a crash leaves a file without a row at worst, which
`sweep` removes, and never a row without its octets.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

import sqlalchemy as sa

from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from gateway.ports import StoredBody
from gateway.tables import body

__all__ = [
    "FRESH_OCTETS",
    "INLINE_OCTETS",
    "SpoolBodies",
    "SpoolSink",
    "forget",
    "record",
    "stored",
]

# Above this size a row costs more than a file, and holds SQLite's one writer for too long.
INLINE_OCTETS: Final = 256 * 1024
# Nothing takes an hour between the last octet of a body and the commit that names it.
ORPHAN_AGE: Final = timedelta(hours=1)
FRESH_OCTETS: Final = 8 * 1024 * 1024
_PART: Final = ".part"  # the suffix of a file that is not whole yet
_SWEEP_KEYS: Final = 500


class SpoolBodies:
    """Implements `gateway.ports.BodyStore`."""

    def __init__(self, *, database: Database, folder: Path, clock: Clock) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        self._fresh = _Fresh()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file is as durable as the folder that it is in, and that one as its own.
        _sync_folder(folder.parent)

    def sink(self) -> SpoolSink:
        """Return a new, empty sink."""
        return SpoolSink(self._folder / new_id(self._clock()).hex, self._fresh.keep)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[BinaryIO]:
        """Open a stored body for reading; seekable.

        Raises:
            DirectError: RESOURCE_NOT_FOUND; there is no such body. INTERNAL; its file cannot be
                opened.
        """
        fresh = self._fresh.take(key)
        if fresh is not None:
            yield io.BytesIO(fresh)
            return
        row = await self._database.read(lambda c: c.execute(_FIND, {"the_key": key}).first())
        if row is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no body {key}")
        if row.inline is not None:
            yield io.BytesIO(row.inline)
            return
        try:
            file = await asyncio.to_thread((self._folder / key).open, "rb")
        except OSError as error:
            raise _failed("open", error) from None
        try:
            yield file
        finally:
            file.close()

    async def sweep(self, now: datetime) -> int:
        """Remove files that no row names and nobody wrote to for an hour; return how many."""
        old = await asyncio.to_thread(self._older_than, now - ORPHAN_AGE)
        orphans: set[str] = set()
        for start in range(0, len(old), _SWEEP_KEYS):
            orphans |= await self._without_row(old[start : start + _SWEEP_KEYS])
        await asyncio.to_thread(self._remove, orphans)
        return len(orphans)

    def _older_than(self, limit: datetime) -> Sequence[str]:
        with os.scandir(self._folder) as entries:
            return [e.name for e in entries if e.stat().st_mtime < limit.timestamp()]

    async def _without_row(self, names: Sequence[str]) -> set[str]:
        named = sa.select(body.c.key).where(body.c.key.in_(names), body.c.inline.is_(None))
        known = await self._database.read(lambda c: set(c.execute(named).scalars()))
        return set(names) - known

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)


class _Fresh:
    """Small bodies that this process has just made: whoever works on them next opens them at once.

    Each is handed out once, and few are kept, so that nothing outlives its row for long.
    """

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._octets = 0

    def keep(self, key: str, octets: bytes) -> None:
        self._bodies[key] = octets
        self._octets += len(octets)
        while self._octets > FRESH_OCTETS:
            self.take(next(iter(self._bodies)))

    def take(self, key: str) -> bytes | None:
        octets = self._bodies.pop(key, None)
        self._octets -= len(octets or b"")
        return octets


def _nowhere(_key: str, _octets: bytes) -> None:
    """Keep nothing."""


class SpoolSink:
    """Implements `gateway.ports.BodySink`: in memory up to `INLINE_OCTETS`, then in a file.

    `write` is called from the event loop: it hands octets to the page cache and never waits for
    the disk. `finish` does, in a thread; what stays in memory it also hands to `keep`.
    """

    def __init__(self, path: Path, keep: Callable[[str, bytes], None] = _nowhere) -> None:
        self._path = path
        self._keep = keep
        self._memory = bytearray()
        self._file: io.FileIO | None = None
        self._hash = hashlib.sha256()
        self._size = 0

    @property
    def size(self) -> int:
        """Octets written so far."""
        return self._size

    @property
    def _part(self) -> Path:
        return self._path.with_suffix(_PART)

    def write(self, data: bytes | memoryview) -> int:
        """Take the next octets.

        Raises:
            DirectError: INTERNAL; the disk is full or failed. The sink is of no use after that.
        """
        octets = len(data)
        try:
            if self._file is None and self._size + octets > INLINE_OCTETS:
                self._file = self._spill()
            if self._file is None:
                self._memory += data
            else:
                _write_all(self._file, data, self._size)
        except OSError as error:
            raise _failed("write", error) from None
        self._hash.update(data)
        self._size += octets
        return octets

    def _spill(self) -> io.FileIO:
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        file = io.FileIO(descriptor, "wb")
        _write_all(file, self._memory, 0)
        self._memory = bytearray()
        return file

    async def finish(self) -> StoredBody:
        """Make the body durable and describe it.

        Raises:
            DirectError: INTERNAL; the disk failed. What it kept of the file is unknown then, so
                the body must be received again.
        """
        inline = None
        if self._file is None:
            inline = bytes(self._memory)
            self._keep(self._path.name, inline)
        else:
            try:
                await asyncio.to_thread(self._sync, self._file)
            except OSError as error:
                raise _failed("sync", error) from None
        return StoredBody(self._path.name, self._size, self._hash.hexdigest(), inline)

    def _sync(self, file: io.FileIO) -> None:
        os.fsync(file.fileno())
        file.close()
        self._part.rename(self._path)
        _sync_folder(self._path.parent)

    async def discard(self) -> None:
        """Forget the body; may be called at any time, also twice.

        A body that is finished may be in a committed row by now: it is left to `sweep`.
        """
        self._memory = bytearray()
        if self._file is not None:
            await asyncio.to_thread(self._abandon, self._file)

    def _abandon(self, file: io.FileIO) -> None:
        file.close()
        with suppress(FileNotFoundError):
            self._part.unlink()


def record(connection: sa.Connection, stored: StoredBody, now: datetime) -> None:
    """Write the row of a finished body."""
    connection.execute(
        _RECORD,
        {
            "key": stored.key,
            "size": stored.size,
            "sha256": stored.sha256,
            "created_at": now,
            "inline": stored.inline,
        },
    )


def stored(connection: sa.Connection, key: str) -> StoredBody:
    """Return what is recorded of a body, without its octets.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; there is no such body.
    """
    row = connection.execute(_DESCRIBE, {"the_key": key}).first()
    if row is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no body {key}")
    return StoredBody(key, row.size, row.sha256, None)


def forget(connection: sa.Connection, keys: Sequence[str]) -> None:
    """Delete the rows of bodies that nothing names any more; `sweep` removes their files."""
    connection.execute(body.delete().where(body.c.key.in_(keys)))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(file: io.FileIO, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data`: the system takes part of it where the disk or a quota ends."""
    with memoryview(data) as rest:
        written = 0
        while written < len(rest):
            written += os.pwrite(file.fileno(), rest[written:], offset + written)


def _failed(verb: str, error: OSError) -> DirectError:
    return DirectError(Reason.INTERNAL, f"spool: cannot {verb}: {error.strerror}")


_RECORD: Final = body.insert()
_FIND: Final = sa.select(body.c.inline).where(body.c.key == sa.bindparam("the_key"))
_DESCRIBE: Final = sa.select(body.c.size, body.c.sha256).where(
    body.c.key == sa.bindparam("the_key")
)
