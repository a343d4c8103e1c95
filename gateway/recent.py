"""What was found a moment ago, and is taken for true a moment more.

Pure: `now` is an argument. For questions that a busy client asks again with each message, and
whose answer may come into force as late as within a second.
"""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Final

__all__ = ["Recent"]

LIMIT: Final = 10_000


class Recent:
    """Remembers facts for as long as one `lasts`, and of these no more than `LIMIT`."""

    def __init__(self, lasts: timedelta) -> None:
        self._lasts = lasts
        self._found: dict[Hashable, datetime] = {}

    def holds(self, fact: Hashable, now: datetime) -> bool:
        """Say whether `fact` was found less than `lasts` ago, and not after `now`."""
        found = self._found.get(fact)
        return found is not None and timedelta(0) <= now - found < self._lasts

    def found(self, fact: Hashable, now: datetime) -> None:
        """Take note of a fact."""
        if not self._lasts:
            return
        if len(self._found) >= LIMIT:
            # Dearer to forget one by one than to ask for each once more.
            self._found.clear()
        self._found[fact] = now
