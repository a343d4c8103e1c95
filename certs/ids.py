"""Identifiers made by the application: UUID version 7.

Pure but for the randomness of the identifier itself.

Standards:
    RFC9562 section 5.7
"""

from __future__ import annotations

import os
from datetime import datetime
from uuid import UUID

__all__ = ["new_id"]


def new_id(now: datetime) -> UUID:
    """Return a UUIDv7: it sorts by `now`, to the millisecond."""
    milliseconds = int(now.timestamp() * 1000) & ((1 << 48) - 1)
    random = int.from_bytes(os.urandom(10))
    return UUID(
        int=milliseconds << 80
        | 0x7 << 76
        | (random >> 62 & 0xFFF) << 64
        | 0b10 << 62
        | random & ((1 << 62) - 1)
    )
