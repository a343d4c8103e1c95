"""The Protocols that more than one package is handed.

Pure: declarations only.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeVar

from sqlalchemy import Connection

__all__ = ["Clock", "Database", "Writable"]

T = TypeVar("T")


class Clock(Protocol):
    """Returns the present time, aware and in UTC."""

    def __call__(self) -> datetime:
        """Return the present time."""
        ...


class Database(Protocol):
    """Runs plain synchronous SQLAlchemy Core work off the event loop, in a transaction.

    The work gets a `Connection`, never commits and never blocks on anything but the database.
    """

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns; it sees one consistent snapshot and writes nothing."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns once it is durably committed; roll back where it raises."""
        ...


class Writable(Protocol):
    """Where octets go, one piece after the other."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take the next octets."""
        ...
