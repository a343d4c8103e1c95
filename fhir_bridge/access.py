"""Who did what through the API: an event for each access, without content.

Talks to the trail it is handed. What changes something is recorded before its answer goes out;
reads are gathered, and recorded together within a second, so that an event costs a read nothing
but its share. A crash can lose the last second of reads, and nothing else.

Standards:
    FHIR    R4 AuditEvent; IHE BALP for what an event of a REST access says
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import structlog

from certs.errors import DirectError

__all__ = ["Access", "AccessLog", "Recorded", "Trail"]

GATHERED_S: Final = 1.0
GATHERED_MAX: Final = 500
# Where the database does not take them: the oldest go, and how many is logged.
WAITING_MAX: Final = 50_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """A client did `interaction` on `target`, such as "Communication/123"; HTTP's `status`."""

    at: datetime
    client: str
    interaction: str
    target: str
    status: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event of the trail, the gateway's own ones too. `number` names it."""

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    outcome: str


class Trail(Protocol):
    """The gateway's audit trail."""

    async def record(self, accesses: Sequence[Access]) -> None:
        """Append events, in one transaction."""
        ...

    async def one(self, number: int) -> Recorded | None:
        """Return an event."""
        ...

    async def events(
        self, *, before: int | None, limit: int, actor: str | None, action: str | None
    ) -> Sequence[Recorded]:
        """Return events, newest first, that were recorded before the one numbered `before`."""
        ...


class AccessLog:
    """Records accesses on a trail."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._waiting: list[Access] = []
        self._full = asyncio.Event()

    async def record(self, access: Access) -> None:
        """Record an access now, and what waits with it."""
        self._waiting.append(access)
        await self.flush()

    def gather(self, access: Access) -> None:
        """Record an access soon."""
        self._waiting.append(access)
        if len(self._waiting) >= GATHERED_MAX:
            self._full.set()

    async def flush(self) -> None:
        """Record what was gathered.

        Raises:
            DirectError: what the trail raises; the events wait for the next time.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            await self._trail.record(waiting)
        except BaseException:
            self._waiting = [*waiting, *self._waiting]
            raise

    async def run(self) -> None:
        """Record what was gathered, again and again, and a last time when it is cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(GATHERED_S):
                        await self._full.wait()
                except TimeoutError:
                    pass
                self._full.clear()
                await self._flush_or_log()
        finally:
            await self._flush_or_log()

    async def _flush_or_log(self) -> None:
        try:
            await self.flush()
        except DirectError as error:
            lost = max(0, len(self._waiting) - WAITING_MAX)
            del self._waiting[:lost]
            _log.error("audit failed", reason=error.reason.code, detail=error.detail, lost=lost)
