"""What a condition names: the one resource that matches it, among those that a client may see.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    FHIR    R4 http.html 3.1.0.5.2 (conditional create), 3.1.0.11.2.1 (conditional references)
    fhir.md section 2 row 22
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from urllib.parse import parse_qsl

import sqlalchemy as sa

from certs.errors import Reason
from fhir_bridge.clients import Client
from fhir_bridge.definitions import TYPES
from fhir_bridge.finding import find
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.search import Query
from fhir_bridge.search_scopes import require_searchable
from fhir_bridge.store import Stored
from fhir_bridge.write_rules import condition_of

__all__ = ["match", "places_of"]


def match(connection: sa.Connection, query: Query, client: Client, now: datetime) -> Stored | None:
    """Return what matches `query`; None where nothing does.

    Raises:
        FhirError: 412, more than one matches; ACCESS_FORBIDDEN.
    """
    require_searchable(query, client)
    rows = find(connection, query, client.owners, now).rows
    if len(rows) > 1:
        issue = Issue("multiple-matches", "The condition matches more than one resource.")
        raise FhirError(Reason.RESOURCE_CONFLICT, [issue], status=412)
    return rows[0] if rows else None


def places_of(
    connection: sa.Connection, wanted: Collection[str], client: Client, now: datetime
) -> dict[str, str]:
    """Return the one resource that each of the conditional references `wanted` means.

    Raises:
        FhirError: 412, one matches nothing; as `match` does.
    """
    places = {}
    for text in wanted:
        name, _, query = text.partition("?")
        kind = TYPES.get(name)
        condition = parse_qsl(query, keep_blank_values=True)
        search = condition_of(kind, condition) if kind else None
        found = match(connection, search, client, now) if search else None
        if found is None:
            issue = Issue("not-found", "A conditional reference matches nothing.")
            raise FhirError(Reason.RESOURCE_CONFLICT, [issue], status=412)
        places[text] = f"{name}/{found.id}"
    return places
