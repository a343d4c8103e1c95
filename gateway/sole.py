"""Make sure that one process at a time serves a data folder.

Talks to the file system. On SQLite this is what lets a start take over, at once, the work that a
killed process had begun; on PostgreSQL several processes share the work and leases run out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from certs.errors import DirectError, Reason

__all__ = ["sole_process"]


@contextmanager
def sole_process(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel gives back however the process ends.

    Raises:
        DirectError: CONFIGURATION_INVALID; another process holds it, or it cannot be had.
    """
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        detail = f"{folder}: {error.strerror}"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        detail = f"{folder}: another gateway serves it already"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
    try:
        yield
    finally:
        os.close(descriptor)
