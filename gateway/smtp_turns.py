"""Lets deliveries to one destination take turns.

Talks to nobody but the event loop; `gateway.congestion` decides.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque

from gateway.congestion import Congestion, Verdict

__all__ = ["Turns"]


class Turns:
    """Who waits for which destination, first come, first served."""

    def __init__(self) -> None:
        self._congestion = Congestion()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    async def begin(self, destination: str) -> bool:
        """Return True when a delivery may go, to be followed by `end`; False where it is down."""
        while True:
            verdict = self._congestion.begin(destination, _now_s())
            if verdict is not Verdict.WAIT:
                return verdict is Verdict.GO
            turn = asyncio.get_running_loop().create_future()
            self._waiting[destination].append(turn)
            await turn

    def end(self, destination: str, *, reached: bool) -> None:
        """Tell that a delivery is done, and let all who wait ask again, in order."""
        self._congestion.end(destination, _now_s(), reached=reached)
        for turn in self._waiting.pop(destination, ()):
            if not turn.done():
                turn.set_result(None)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
