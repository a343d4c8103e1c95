"""What a page includes beside its matches: `_include` and `_revinclude`.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    FHIR    R4 search.html 3.1.1.5.5
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from fhir_bridge.clients import Client
from fhir_bridge.definitions import TYPES
from fhir_bridge.search import Include
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.tables import fhir_index, fhir_resource

__all__ = ["included"]

INCLUDED_MAX: Final = 1000
ROUNDS_MAX: Final = 4


def included(
    connection: sa.Connection,
    matches: Sequence[Stored],
    includes: Sequence[Include],
    client: Client,
) -> tuple[Stored, ...]:
    """Return every resource that `includes` add to `matches`, each once, at most 1,000.

    What the client may not see is left out as if it were not there: what is another mailbox's,
    and what its scopes do not open to reading.
    """
    seen = {stored.id for stored in matches}
    found: list[Stored] = []
    latest: Sequence[Stored] = matches
    for number in range(ROUNDS_MAX):
        added: list[Stored] = []
        for include in includes:
            if number == 0 or include.iterate:
                added += _one(connection, latest, include, client, seen)
        found += added
        latest = added
        if not added or len(found) >= INCLUDED_MAX:
            break
    return tuple(found[:INCLUDED_MAX])


def _one(
    connection: sa.Connection,
    sources: Sequence[Stored],
    include: Include,
    client: Client,
    seen: set[UUID],
) -> list[Stored]:
    if not include.reverse:
        sources = [stored for stored in sources if stored.type == include.kind.name]
    if not sources:
        return []
    here, there = fhir_index.c.resource_id, fhir_index.c.target
    if include.reverse:
        here, there = there, here
    statement = (
        sa.select(fhir_resource)
        .join(fhir_index, fhir_resource.c.id == there)
        .where(
            fhir_index.c.type == include.kind.name,
            fhir_index.c.name.in_([p.name for p in include.parameters]),
            here.in_([stored.id for stored in sources]),
            fhir_resource.c.owner.in_(client.owners),
            fhir_resource.c.type.in_([kind for kind in TYPES if client.scopes.allow(kind, "r")]),
            fhir_resource.c.deleted.is_(False),
        )
        .distinct()
        .order_by(fhir_resource.c.id)
        .limit(INCLUDED_MAX)
    )
    if include.target is not None and not include.reverse:
        statement = statement.where(fhir_resource.c.type == include.target)
    rows = [stored_of(row) for row in connection.execute(statement)]
    new = [stored for stored in rows if stored.id not in seen]
    seen.update(stored.id for stored in new)
    return new
