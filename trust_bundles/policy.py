"""Which way a trust anchor counts.

Pure: values only.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, section 4.2.3
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Direction", "Purpose"]


class Direction(Enum):
    """Anchors are configured for mail that comes in and mail that goes out apart (AS-080)."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


class Purpose(Enum):
    """What a certificate is wanted for."""

    ENCRYPT = "encrypt"  # to a recipient: outgoing anchors
    SIGN = "sign"  # by a sender: incoming anchors
