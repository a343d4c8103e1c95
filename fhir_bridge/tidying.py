"""Once an hour: forget what `upkeep` says nobody has use for.

Talks to the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import sqlalchemy as sa
import structlog

from certs.errors import DirectError
from certs.ports import Clock, Database
from fhir_bridge.export_rows import forget_exports
from fhir_bridge.ports import Bodies
from fhir_bridge.upkeep import forget_drafts, forget_tokens, forget_uploads

__all__ = ["Tidying"]

POLL_S: Final = 3600.0
UPLOADS_KEPT: Final = timedelta(days=1)

_log = structlog.get_logger(__name__)


class Tidying:
    """Forgets, in small transactions. `drafts_kept`: how long a draft is left untouched."""

    def __init__(
        self, *, database: Database, bodies: Bodies, clock: Clock, drafts_kept: timedelta
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._clock = clock
        self._drafts_kept = drafts_kept

    async def run(self) -> None:
        """Tidy again and again, until cancelled."""
        while True:
            try:
                await self.run_once()
            except DirectError as error:
                _log.error("tidying failed", reason=error.reason.code, detail=error.detail)
            await asyncio.sleep(POLL_S)

    async def run_once(self) -> None:
        """Forget all that may be forgotten now."""
        now = self._clock()
        await self._database.write(lambda c: forget_tokens(c, now))
        await self._database.write(lambda c: forget_exports(c, now))
        await self._all(lambda c: forget_uploads(c, self._bodies, now - UPLOADS_KEPT))
        await self._all(lambda c: forget_drafts(c, now - self._drafts_kept, now))

    async def _all(self, some: Callable[[sa.Connection], int]) -> None:
        while await self._database.write(some):
            continue
