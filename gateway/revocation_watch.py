"""Tells the administrator where revocation could not be learnt, and what that meant.

Talks to the log, and to the counter it is handed. A policy that lets messages pass without an
answer (K-06) is only safe where somebody hears of it.

Standards:
    RFC5280 section 6.3, RFC6960 (what could not be had)
    AS-087 and K-06 of our catalogue
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

import structlog

from certs.errors import Reason
from certs.evidence import Evidence
from certs.ocsp import Status
from trust_bundles.decision import Decision, Verdict

__all__ = ["Alert", "RevocationWatch"]

QUIET: Final = timedelta(minutes=10)  # between two lines about the same thing
REMEMBERED: Final = 1000

_log = structlog.get_logger(__name__)


class Alert(Enum):
    """What was done without a fresh answer. The value is a label of the counter."""

    SOFT_FAIL = "soft-fail"  # let pass, not knowing
    HARD_FAIL = "hard-fail"  # refused for now, not knowing
    LAST_GOOD = "last-good"  # known from an answer that could not be renewed


class RevocationWatch:
    """Sees every decision; `count` is told of each one made without a fresh answer."""

    def __init__(self, count: Callable[[Alert], None]) -> None:
        self._count = count
        self._told: dict[tuple[Alert, str], datetime] = {}

    def seen(self, evidence: Evidence, decisions: Iterable[Decision], now: datetime) -> None:
        """Count and log what `decisions` over `evidence` did without a fresh answer."""
        unreachable = evidence.revocation.unreachable
        for decision in decisions:
            for verdict in decision.verdicts:
                alert = _alert(verdict, unreachable)
                if alert is not None:
                    self._count(alert)
                    self._tell(alert, verdict, unreachable, now)

    def _tell(
        self, alert: Alert, verdict: Verdict, unreachable: tuple[str, ...], now: datetime
    ) -> None:
        issuer = verdict.certificate.issuer.rfc4514_string()
        key = (alert, " ".join(unreachable) or issuer)
        told = self._told.pop(key, None)
        quiet = told is not None and told <= now < told + QUIET
        self._told[key] = told if quiet and told is not None else now
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        if not quiet:
            _log.warning(
                "revocation not learnt",
                alert=alert.value,
                issuer=issuer,
                serial=f"{verdict.certificate.serial_number:x}",
                unreachable=unreachable,
            )


def _alert(verdict: Verdict, unreachable: tuple[str, ...]) -> Alert | None:
    if verdict.reason is Reason.REVOCATION_UNKNOWN:
        return Alert.HARD_FAIL
    if verdict.reason is not None or verdict.anchor is None:
        return None
    if verdict.revocation is Status.UNKNOWN:
        return Alert.SOFT_FAIL
    return Alert.LAST_GOOD if unreachable else None
