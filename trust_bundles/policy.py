"""Which way a trust anchor counts, and when.

Pure: values only.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, section 4.2.3
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

__all__ = ["ALWAYS", "Direction", "Period", "Purpose"]


class Direction(Enum):
    """Anchors are configured for mail that comes in and mail that goes out apart (AS-080)."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


class Purpose(Enum):
    """What a certificate is wanted for."""

    ENCRYPT = "encrypt"  # to a recipient: outgoing anchors
    SIGN = "sign"  # by a sender: incoming anchors


@dataclass(frozen=True, slots=True)
class Period:
    """From when, included, until when, excluded, somebody is trusted; None: no such limit."""

    begins: datetime | None = None
    ends: datetime | None = None


ALWAYS: Final = Period()
