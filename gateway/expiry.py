"""When a certificate of ours is about to expire, and since when that is worth a word.

Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from certs.keys import OwnIdentity

__all__ = ["WARNING_DAYS", "Expiring", "expiring", "warning"]

# The first warning leaves time to ask a CA, the last one is for somebody's night.
WARNING_DAYS: Final = (60, 30, 7)


@dataclass(frozen=True, slots=True)
class Expiring:
    """A certificate in use, and the number of days within which it expires; 0: it has."""

    own: OwnIdentity
    within_days: int


def warning(not_after: datetime, now: datetime) -> int | None:
    """Return the fewest of `WARNING_DAYS` that remain, 0 once it has expired, else None."""
    if not_after < now:
        return 0
    within = [days for days in WARNING_DAYS if not_after <= now + timedelta(days=days)]
    return min(within, default=None)


def expiring(identities: Sequence[OwnIdentity], now: datetime) -> list[Expiring]:
    """Return those in use that expire soon or have, unless another already takes their place.

    Another takes the place of one where it has the same subject and uses and lasts longer.
    """
    used = [own for own in identities if not own.is_retired(now)]
    found = []
    for own in used:
        within = warning(own.certificate.not_valid_after_utc, now)
        if within is not None and not any(_replaces(other, own, now) for other in used):
            found.append(Expiring(own, within))
    return found


def _replaces(other: OwnIdentity, own: OwnIdentity, now: datetime) -> bool:
    later = other.certificate.not_valid_after_utc > own.certificate.not_valid_after_utc
    lasts = warning(other.certificate.not_valid_after_utc, now) is None
    return other.subject == own.subject and other.uses >= own.uses and later and lasts
