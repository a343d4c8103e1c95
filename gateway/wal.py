"""The write-ahead log of a SQLite file, made durable apart from the commits that wrote to it.

Talks to the file system, and never to SQLite.

SQLite's own way (`synchronous=FULL`) is to sync within the commit, while it holds the lock that all
others wait for who want to write. Here a commit is written (`synchronous=NORMAL`), the next writer
goes on, and whoever asked for it is answered when the log was synced: one sync for all that was
committed meanwhile. Measured with two processes on two processors: of the time in which one of them
could write, a half was a commit's, and is a seventh now.

After a power failure SQLite takes the log up to the first frame that is not whole. So what stands
before a synced frame must be on the disk as well; and after a sync that failed nobody knows what
is, for the kernel then takes for clean what it could not write. Nothing counts as synced after that
until the whole log was written once more: SQLite did the same, by writing the commit anew.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

__all__ = ["WriteAheadLog"]

_CHUNK_OCTETS: Final = 1 << 20


class WriteAheadLog:
    """The log beside one database file. `sync` is for one thread, and all else for another.

    `era` counts from one failed sync to the next: what was committed in an era in which one failed
    is never known to be durable.
    """

    def __init__(self, database: Path) -> None:
        self._path = f"{database}-wal"
        self._file: int | None = None
        self._lost = 0  # the last era in which a sync failed
        self.era = 1

    def sync(self, era: int) -> None:
        """Return when all that was committed in `era` until now is on the disk.

        Raises:
            OSError: it is not known to be, and never will.
        """
        if era <= self._lost:
            raise OSError(errno.EIO, "a sync of the log failed before")
        try:
            log = self._find()
            if log is not None:
                os.fdatasync(log)
        except OSError:
            self._lost = self.era
            raise

    def mend(self) -> None:
        """Write the log once more where a sync has failed; nobody else may write meanwhile.

        Raises:
            OSError: the disk still fails.
        """
        if self.era > self._lost:
            return
        log = os.open(self._path, os.O_RDWR)
        try:
            done = 0
            while chunk := os.pread(log, _CHUNK_OCTETS, done):
                done += os.pwrite(log, chunk, done)
            os.fdatasync(log)
        finally:
            os.close(log)
        self.era += 1

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _find(self) -> int | None:
        """Return the log, opened anew where it is another one by now; None where there is none."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            # SQLite removes it when all of it is in the database, and synced there.
            return None
        if self._file is None or not os.path.samestat(os.fstat(self._file), there):
            self.close()
            self._file = os.open(self._path, os.O_RDONLY)
        return self._file
