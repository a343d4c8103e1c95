"""The Protocols that more than one package is handed.

Pure: declarations, and the values that go through them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol, TypeVar

from sqlalchemy import Connection

__all__ = ["Archive", "Clock", "Database", "Kind", "Stored", "Writable"]

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


class Kind(Enum):
    """What is kept in an archive. The value is the first part of its key in the database."""

    CRL = "crl"
    OCSP = "ocsp"
    ISSUERS = "issuers"  # certificates from authorityInfoAccess


@dataclass(frozen=True, slots=True)
class Stored:
    """What an archive holds: as it came, when, and until when nobody need ask again."""

    content: bytes
    since: datetime
    until: datetime


class Archive(Protocol):
    """Keeps what was fetched where a restart does not lose it."""

    async def last_good(self, kind: Kind, key: str) -> Stored | None:
        """Return what was last stored under `key`, also where its time is over."""
        ...

    async def store(self, kind: Kind, key: str, stored: Stored) -> None:
        """Keep an answer in the place of the one before it."""
        ...


class Writable(Protocol):
    """Where octets go, one piece after the other."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take the next octets."""
        ...
