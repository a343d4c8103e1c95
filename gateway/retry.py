"""When to try a delivery again, and when to give up.

Pure; the randomness is an argument.

Standards:
    RFC5321 section 4.5.4.1 (sending strategy) advises a first retry after 30 minutes and to give up
            after 4 to 5 days. The first retries come earlier here, as in every large server, and
            we give up after one day: a late failure of a clinical message is worse than an early
            one. The sender's notice of DN-011 is independent of this and comes first.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

__all__ = ["GIVE_UP_AFTER", "next_attempt"]

GIVE_UP_AFTER: Final = timedelta(hours=24)

# The wait after the first, second, ... attempt; the last one repeats.
_WAITS: Final = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
)

# Each wait is stretched by up to this share, either way, so that retries do not come in step.
_SPREAD: Final = 0.1


def next_attempt(
    attempts: int,
    accepted_at: datetime,
    now: datetime,
    jitter: float,
    patience: timedelta = GIVE_UP_AFTER,
) -> datetime | None:
    """Return when to try again after `attempts` attempts, or None to give up.

    `jitter` lies in [0, 1). The last attempt is made when `patience` ends, not before it.
    """
    expiry = accepted_at + patience
    if attempts == 0:
        return now
    if now >= expiry:
        return None
    wait = _WAITS[min(attempts, len(_WAITS)) - 1]
    return min(now + wait * (1 - _SPREAD + 2 * _SPREAD * jitter), expiry)
