"""Who hears how the agent is doing: what it decides, and how long it takes.

Pure: a Protocol. `gateway.metrics` implements it for Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol

from certs.errors import Reason

__all__ = ["Observer"]


class Observer(Protocol):
    """Hears of recipients and times; never of whom or what a message is about."""

    def decided(self, direction: str, reasons: Iterable[Reason | None]) -> None:
        """Hear what was decided of each recipient of a message; None: it goes on."""
        ...

    def heard(self, event: str, after: timedelta) -> None:
        """Hear that a recipient of a message came so far, so long after it was accepted."""
        ...

    def timed(self, step: str) -> AbstractContextManager[object]:
        """Measure the cryptography within: "seal" or "open"."""
        ...
