"""How many deliveries one destination gets at a time, and when it is left alone for a while.

Pure; time is an argument in seconds of a monotonic clock. The window of a destination grows by one
for each delivery that reached it and shrinks by one for each that did not; a destination that is
not reached even alone is down for a moment, so that it does not hold up those that are there.
(The idea, not the code, is Postfix's queue manager's: SCHEDULER_README.)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["DESTINATIONS", "DOWN_S", "WINDOW", "Congestion", "Verdict"]

WINDOW: Final = 5
DOWN_S: Final = 10.0
# Above this many, those that are neither running nor down are forgotten.
DESTINATIONS: Final = 1000


class Verdict(Enum):
    """What a delivery is to do."""

    GO = "go"
    WAIT = "wait"  # until another delivery to the same destination is done
    DOWN = "down"  # the destination did not answer a moment ago


@dataclass(slots=True)
class _Destination:
    running: int = 0
    window: int = 1
    down_until_s: float = 0.0


class Congestion:
    """The destinations that were delivered to lately."""

    def __init__(self) -> None:
        self._destinations: dict[str, _Destination] = {}

    def begin(self, destination: str, now_s: float) -> Verdict:
        """Say what a delivery is to do; GO counts it as running until `end`."""
        state = self._destinations.get(destination) or self._new(destination, now_s)
        if now_s < state.down_until_s:
            return Verdict.DOWN
        if state.running >= state.window:
            return Verdict.WAIT
        state.running += 1
        return Verdict.GO

    def end(self, destination: str, now_s: float, *, reached: bool) -> None:
        """Count a delivery that went as done."""
        state = self._destinations[destination]
        state.running -= 1
        if reached:
            state.window = min(WINDOW, state.window + 1)
        elif state.window > 1:
            state.window -= 1
        else:
            state.down_until_s = now_s + DOWN_S

    def _new(self, destination: str, now_s: float) -> _Destination:
        if len(self._destinations) >= DESTINATIONS:
            self._destinations = {
                name: state
                for name, state in self._destinations.items()
                if state.running or now_s < state.down_until_s
            }
        return self._destinations.setdefault(destination, _Destination())
