"""The one clock. Everything else is told the time.

Talks to the system clock.
"""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utc_now"]


def utc_now() -> datetime:
    """Return the present time, aware and in UTC."""
    return datetime.now(UTC)
