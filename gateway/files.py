"""Files that only their owner may read.

Talks to the file system.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_secret", "write_secret"]


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; it must not exist yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_secret(path: Path, data: bytes) -> None:
    """Write such a file whether it exists or not: the old content or the new, never less."""
    beside = path.with_name(f".{path.name}.writing")
    beside.unlink(missing_ok=True)
    write_secret(beside, data)
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
