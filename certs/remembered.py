"""Answers kept in memory and in an archive; the last good one serves while there is no better.

Talks to the archive, where there is one. What is fetched, and how, is the caller's business.

Standards:
    K-06 (last good list), CD-007 (caching) of our catalogue
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Generic, TypeVar

import structlog

from certs.errors import DirectError
from certs.memory import RETRY, Kept, Memory
from certs.ports import Archive, Kind, Stored

__all__ = ["Fetched", "Remembered"]

T = TypeVar("T")

IN_USE: Final = timedelta(days=1)  # what was not asked for this long is not fetched ahead
AHEAD_AT_ONCE: Final = 4
ARCHIVED_OCTETS: Final = 16 * 1024 * 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched(Generic[T]):
    """An answer, as it came and as it was read. `lasting` says that it may go to the archive."""

    answer: T
    content: bytes
    until: datetime
    lasting: bool = True


Fetch = Callable[[T | None, datetime], Awaitable[Fetched[T]]]


class Remembered(Generic[T]):
    """At most `size` answers of one kind in memory; `read` parses what an archive holds."""

    def __init__(
        self, kind: Kind, *, size: int, archive: Archive | None, read: Callable[[bytes], T]
    ) -> None:
        self._kind = kind
        self._archive = archive
        self._read = read
        self._size = size
        self._memory: Memory[T] = Memory(size)
        self._used: dict[str, tuple[datetime, Fetch[T]]] = {}

    async def get(self, key: str, now: datetime, fetch: Fetch[T]) -> Kept[T]:
        """Return what is kept under `key`, or else what `fetch` returns.

        `fetch` is given the last good answer, and the time. Where it raises a `DirectError`, that
        answer serves on, beside the failure, however old it is: whoever judges it sees its dates.
        """
        self._used.pop(key, None)
        self._used[key] = (now, fetch)
        if len(self._used) > self._size:
            del self._used[next(iter(self._used))]
        return await self._look(key, now, fetch)

    async def fetch_ahead(self, now: datetime) -> None:
        """Fetch anew what is in use and about to run out, so that no message waits for it."""
        gate = asyncio.Semaphore(AHEAD_AT_ONCE)

        async def one(key: str, fetch: Fetch[T]) -> None:
            async with gate:
                await self._look(key, now, fetch)

        due = [(key, fetch) for key, (used, fetch) in self._used.items() if now - used < IN_USE]
        ends = await asyncio.gather(*(one(*item) for item in due), return_exceptions=True)
        for (key, _), end in zip(due, ends, strict=True):
            if end is not None:
                _log.error("not fetched ahead", kind=self._kind.value, key=key, error=repr(end))

    def forget(self) -> None:
        """Forget what is in memory."""
        self._memory.clear()
        self._used.clear()

    async def store(self, key: str, fetched: Fetched[T], now: datetime) -> None:
        """Put an answer into the archive; one that cannot be written is kept in memory alone."""
        if self._archive is None or len(fetched.content) > ARCHIVED_OCTETS:
            return
        try:
            await self._archive.store(self._kind, key, Stored(fetched.content, now, fetched.until))
        except DirectError as error:
            _log.warning("archive not written", kind=self._kind.value, error=error.detail)

    async def _look(self, key: str, now: datetime, fetch: Fetch[T]) -> Kept[T]:
        return await self._memory.get(key, now, partial(self._learn, key, now, fetch))

    async def _learn(self, key: str, now: datetime, fetch: Fetch[T]) -> Kept[T]:
        old = self._memory.last(key)
        stored = await self._archived(key) if old is None else None
        if stored is not None:
            old = stored.answer
            if stored.since <= now < stored.until:
                return stored
        try:
            fetched = await fetch(old, now)
        except DirectError as error:
            if old is None:
                raise
            return Kept(old, now, now + RETRY, error.detail)
        if fetched.lasting:
            await self.store(key, fetched, now)
        return Kept(fetched.answer, now, fetched.until)

    async def _archived(self, key: str) -> Kept[T] | None:
        if self._archive is None:
            return None
        try:
            stored = await self._archive.last_good(self._kind, key)
            if stored is None:
                return None
            answer = await asyncio.to_thread(self._read, stored.content)
        except DirectError as error:
            _log.warning("archive not read", kind=self._kind.value, error=error.detail)
            return None
        return Kept(answer, stored.since, stored.until)
