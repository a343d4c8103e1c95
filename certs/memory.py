"""Answers kept in memory by key, with one fetch at a time for each key.

Talks to nobody itself: the clock is the caller's, and so is the fetching.

Standards:
    CD  Certificate Discovery for Direct v4.1 (caching, as K-06 and CD-007 decide)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

from certs.errors import DirectError

__all__ = ["Kept", "Memory"]

T = TypeVar("T")

RETRY: Final = timedelta(minutes=1)
AHEAD: Final = 10  # fetched anew in the last 1/10 of its time


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """The last good answer, if there ever was one, and until when nobody need ask again.

    `failure` says what went wrong the last time, while the answer is an older one or none.
    """

    answer: T | None
    since: datetime
    until: datetime
    failure: str | None = None


class Memory(Generic[T]):
    """At most `size` answers, the least recently used going first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, Kept[T]] = OrderedDict()
        self._running: dict[Hashable, asyncio.Task[Kept[T]]] = {}

    async def get(
        self, key: Hashable, now: datetime, fetch: Callable[[], Awaitable[Kept[T]]]
    ) -> Kept[T]:
        """Return what is kept under `key`, or else what `fetch` returns.

        Where `fetch` raises a `DirectError`, the last good answer is returned beside the failure,
        and nobody asks again for a minute. In the last tenth of its time an answer is fetched anew
        while the old one serves, so that what is used often is never waited for. A caller that is
        cancelled does not cancel the fetch that others wait for.
        """
        kept = self._kept.get(key)
        if kept is not None and kept.since <= now < kept.until:
            self._kept.move_to_end(key)
            if kept.answer is not None and now > kept.until - (kept.until - kept.since) / AHEAD:
                self._start(key, now, fetch)
            return kept
        return await asyncio.shield(self._start(key, now, fetch))

    def last(self, key: Hashable) -> T | None:
        """Return the last good answer, however old."""
        kept = self._kept.get(key)
        return kept.answer if kept else None

    def clear(self) -> None:
        """Forget all answers."""
        self._kept.clear()

    def _start(
        self, key: Hashable, now: datetime, fetch: Callable[[], Awaitable[Kept[T]]]
    ) -> asyncio.Task[Kept[T]]:
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._refresh(key, now, fetch))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    async def _refresh(
        self, key: Hashable, now: datetime, fetch: Callable[[], Awaitable[Kept[T]]]
    ) -> Kept[T]:
        old = self._kept.get(key)
        try:
            kept = await fetch()
        except DirectError as error:
            kept = Kept(old.answer if old else None, now, now + RETRY, error.detail)
        self._keep(key, kept)
        return kept

    def _keep(self, key: Hashable, kept: Kept[T]) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
