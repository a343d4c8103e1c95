"""A private place for a message in clear text while it is judged.

Talks to the file system: in memory while small, then in a file that has no name and vanishes
with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

__all__ = ["scratch"]

MEMORY_OCTETS: Final = 1024 * 1024


@contextmanager
def scratch() -> Iterator[BinaryIO]:
    """Yield an empty, seekable file that nobody else can open."""
    with tempfile.SpooledTemporaryFile(MEMORY_OCTETS) as file:
        yield cast(BinaryIO, file)
