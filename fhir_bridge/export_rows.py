"""The exports that clients began: kept for a day, seen only by who began them.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    BULK    Bulk Data Access 2.0.0, export: status and delete requests
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from certs.errors import Reason
from certs.ids import new_id
from fhir_bridge.clients import Client
from fhir_bridge.export_query import Wanted
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.tables import fhir_export

__all__ = ["KEPT", "Export", "add_export", "find_export", "forget_export", "forget_exports"]

KEPT: Final = timedelta(days=1)
EXPORTS_MAX: Final = 10  # of a client, at a time
_AGAIN_S: Final = 300
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Export:
    """An export. Its files show everything as it was `at` that time."""

    id: UUID
    request: str
    wanted: Wanted
    at: datetime

    @property
    def expires(self) -> datetime:
        """When it is forgotten."""
        return self.at + KEPT


def add_export(
    connection: sa.Connection, client: Client, wanted: Wanted, request: str, now: datetime
) -> Export:
    """Return a new export of `client`, which asked for it by the URL `request`.

    Raises:
        FhirError: THROTTLED; the client has too many of them.
    """
    table = fhir_export
    mine = sa.select(sa.func.count()).where(
        table.c.client_id == client.id, table.c.created_at > now - KEPT
    )
    if connection.execute(mine).scalar_one() >= EXPORTS_MAX:
        text = f"You have {EXPORTS_MAX} exports already: delete one, or wait."
        error = FhirError(Reason.THROTTLED, [Issue("throttled", text)])
        error.retry_after_s = _AGAIN_S
        raise error
    # An instant is told in milliseconds: this one is no earlier than what was written before it.
    at = now + (-timedelta(microseconds=now.microsecond)) % _MILLISECOND
    export = Export(new_id(now), request, wanted, at)
    connection.execute(
        table.insert().values(
            id=export.id,
            client_id=client.id,
            request=request,
            types=",".join(wanted.kinds),
            since=wanted.since,
            within=wanted.within,
            created_at=at,
        )
    )
    return export


def find_export(
    connection: sa.Connection, identity: UUID, client: Client, now: datetime
) -> Export | None:
    """Return the export `identity` where `client` began it, and it is still kept."""
    table = fhir_export
    statement = sa.select(table).where(
        table.c.id == identity, table.c.client_id == client.id, table.c.created_at > now - KEPT
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    wanted = Wanted(tuple(filter(None, row.types.split(","))), row.since, row.within)
    return Export(row.id, row.request, wanted, row.created_at)


def forget_export(connection: sa.Connection, identity: UUID, client: Client) -> None:
    """Forget an export of `client`."""
    table = fhir_export
    connection.execute(table.delete().where(table.c.id == identity, table.c.client_id == client.id))


def forget_exports(connection: sa.Connection, now: datetime) -> None:
    """Forget the exports that are no longer kept."""
    connection.execute(fhir_export.delete().where(fhir_export.c.created_at <= now - KEPT))
