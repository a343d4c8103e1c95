"""How much may go to one destination at a time, and when to leave it alone.

Pure. A destination that answers gets more at a time, up to a limit; one that does not answer gets
one try at a time, and after a second silence none for a while. So a destination that is away
takes neither the workers from the others, nor a try of each message that waits for it.

Standards:
    RFC5321 section 4.5.4.1: queue entries by unreachable destination, not by message
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

__all__ = ["Destinations", "Rooms"]

# Postfix begins with 5 as well (`initial_destination_concurrency`).
START: Final = 5
_FIRST_REST: Final = timedelta(seconds=30)
_LONGEST_REST: Final = timedelta(minutes=10)


@dataclass(slots=True)
class _Destination:
    allowed: int
    running: int = 0
    failures: int = 0
    not_before: datetime | None = None

    def room(self, now: datetime) -> int:
        """Return how many more may begin."""
        if self.not_before is not None and now < self.not_before:
            return 0
        return max(0, self.allowed - self.running)


class Rooms:
    """How much may begin to each destination in one go; used up as it is taken."""

    def __init__(self, left: dict[str, int], start: int) -> None:
        self._left = left
        self._start = start
        self.closed = frozenset(name for name, room in left.items() if room == 0)

    def take(self, destination: str) -> bool:
        """Say whether one more may begin to `destination`, and count it."""
        room = self._left.get(destination, self._start)
        if room == 0 and destination:
            return False
        self._left[destination] = room - 1
        return True


class Destinations:
    """The destinations of one worker; none, the empty name, has no bounds.

    `limit` is the most that runs to one destination at a time.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, _Destination] = {}

    def rooms(self, now: datetime) -> Rooms:
        """Return how much may begin now."""
        left = {name: known.room(now) for name, known in self._known.items()}
        return Rooms(left, min(START, self._limit))

    def has_room(self, destination: str, now: datetime) -> bool:
        """Say whether one more may begin to `destination` now."""
        known = self._known.get(destination)
        return known is None or known.room(now) > 0

    def begun(self, destination: str) -> None:
        """One more runs to `destination`."""
        if destination:
            start = _Destination(min(START, self._limit))
            self._known.setdefault(destination, start).running += 1

    def left(self, destination: str) -> None:
        """One that had begun was not tried after all."""
        if destination:
            known = self._known[destination]
            known.running -= 1
            if known.running == 0 and known.failures == 0:
                del self._known[destination]

    def ended(self, destination: str, now: datetime, *, answered: bool) -> None:
        """One that had begun has ended; `answered` says whether the destination was there."""
        if not destination:
            return
        known = self._known[destination]
        known.running -= 1
        if answered:
            known.failures, known.not_before = 0, None
            known.allowed = min(known.allowed + 1, self._limit)
        else:
            known.failures += 1
            known.allowed = 1
            known.not_before = _rest_until(known.failures, now)
        if known.running == 0 and known.failures == 0:
            del self._known[destination]


def _rest_until(failures: int, now: datetime) -> datetime | None:
    if failures < 2:
        return None
    doubled: int = 2 ** min(failures - 2, 16)
    return now + min(_FIRST_REST * doubled, _LONGEST_REST)
