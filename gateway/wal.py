"""The write-ahead log of a SQLite file, made durable apart from the commits that wrote to it.

Talks to the file system, and never to SQLite.

SQLite's own way (`synchronous=FULL`) is to sync within the commit, while it holds the lock that all
others wait for who want to write. Here a commit is written (`synchronous=NORMAL`), the next writer
goes on, and whoever asked for it is answered when the log was synced: one sync for all that was
committed meanwhile. Measured with two processes on two processors: of the time in which one of them
could write, a half was a commit's, and is a seventh now.

After a power failure SQLite takes the log up to the first frame that is not whole. So what stands
before a synced frame must be on the disk as well; and after a sync that failed nobody knows what
is. The kernel tells of a failure once, to each descriptor that was open then; it takes for clean
what it could not write, and writing the same blocks again may reach the disk and not the file
(seen on ext4, where the log had grown). So such a log is copied into the database file and
emptied, and a process begins with that: it cannot know what others have failed with before.

What remains: where the kernel drops, in the moments between the failure and that copy, what it
could not write, the copy is of what the disk has. Whoever sees such a failure looks at the disk.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Lock

__all__ = ["WriteAheadLog"]


class WriteAheadLog:
    """The log beside one database file. `sync` is for one thread, and all else for another.

    `era` counts from one `begin` to the next. What was committed in an era in which a sync has
    failed is never known to be durable.
    """

    def __init__(self, database: Path) -> None:
        self._path = f"{database}-wal"
        self._file: int | None = None
        self._lock = Lock()  # held by who uses the file, or takes another
        self._lost = 0  # the last era in which a sync failed
        self.era = 0

    @property
    def is_lost(self) -> bool:
        """Whether the log must be emptied before anything else is committed."""
        return self.era <= self._lost

    def begin(self) -> None:
        """Take the log that is there, in which nothing stands that may not be on the disk.

        The connection that writes to it stays open until the next `begin`, so that no other takes
        its place. From now on every failure to write it is seen.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            self._let_go()
            self._file = os.open(self._path, os.O_RDONLY)
            self.era += 1

    def sync(self, era: int) -> None:
        """Return when all that was committed in `era` until now is on the disk.

        Raises:
            OSError: it is not known to be, and never will.
        """
        if era <= self._lost:
            raise OSError(errno.EIO, "a sync of the log failed before")
        with self._lock:
            if self._file is None:
                raise OSError(errno.EBADF, "the log is closed")
            try:
                os.fdatasync(self._file)
            except OSError:
                self._lost = self.era
                raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
