"""Times as an administrator writes them.

Pure.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from certs.errors import DirectError, Reason

__all__ = ["parse_time"]

_FROM_NOW: Final = re.compile(r"\+(\d{1,5})([dhm])")
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}


def parse_time(text: str, now: datetime) -> datetime:
    """Return the time that `text` means: `now`, `+14d`, `+12h`, `+30m`, or ISO 8601 in UTC.

    Raises:
        DirectError: CONFIGURATION_INVALID.
    """
    if text == "now":
        return now
    if match := _FROM_NOW.fullmatch(text):
        return now + timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        detail = f"{text}: write now, +14d, +12h, +30m or 2027-01-31T00:00:00Z"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
