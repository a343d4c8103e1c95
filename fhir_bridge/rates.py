"""How often a client may call: a bucket of requests that fills again with time.

Pure: whoever asks says what time it is. Each process counts for itself.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import Final

__all__ = ["Rates"]

CALLERS_MAX: Final = 10_000


class Rates:
    """Counts requests by caller; `per_minute` may come at once, and as many in each minute."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, datetime]] = OrderedDict()

    def wait_s(self, caller: str, now: datetime) -> float:
        """Count a request of `caller`; return 0.0, or in how many seconds to try again."""
        left, since = self._buckets.pop(caller, (float(self._per_minute), now))
        per_second = self._per_minute / 60
        passed = max(0.0, (now - since).total_seconds())
        left = min(float(self._per_minute), left + passed * per_second)
        wait = 0.0 if left >= 1 else (1 - left) / per_second
        self._buckets[caller] = (left if wait else left - 1, now)
        if len(self._buckets) > CALLERS_MAX:
            self._buckets.popitem(last=False)  # who has not called for the longest
        return wait
