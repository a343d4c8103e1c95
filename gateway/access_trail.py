"""The audit trail as the FHIR bridge uses it: accesses go in, events come out.

Talks to the database; implements `fhir_bridge.access.Trail`.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from certs.ports import Database
from fhir_bridge.access import Access, Recorded
from gateway import audit
from gateway.audit import AuditEvent

__all__ = ["AccessTrail"]


class AccessTrail:
    """Records accesses beside all other events, in the one chain."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, accesses: Sequence[Access]) -> None:
        """Append events, in one transaction."""

        def work(connection: sa.Connection) -> None:
            for access in accesses:
                audit.record(
                    connection,
                    now=access.at,
                    actor=f"client:{access.client}",
                    action=f"fhir-{access.interaction}",
                    subject=access.target,
                    outcome=str(access.status),
                )

        await self._database.write(work)

    async def one(self, number: int) -> Recorded | None:
        """Return an event."""
        found = await self._database.read(lambda c: audit.events_since(c, number - 1, limit=1))
        return _recorded(found[0]) if found and found[0].number == number else None

    async def events(
        self, *, before: int | None, limit: int, actor: str | None, action: str | None
    ) -> Sequence[Recorded]:
        """Return events, newest first, that were recorded before the one numbered `before`."""
        found = await self._database.read(
            lambda c: audit.list_events(c, limit=limit, before=before, actor=actor, action=action)
        )
        return [_recorded(event) for event in found]


def _recorded(event: AuditEvent) -> Recorded:
    return Recorded(event.number, event.at, event.actor, event.action, event.subject, event.outcome)
