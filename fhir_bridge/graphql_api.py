"""`$graphql` on the base: lists and resources in one answer, as inbox screens ask for them.

Talks to the database: all of a query is read in one go.

Standards:
    FHIR    R4 graphql.html
    fhir.md section 2 row 14
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.clients import Client
from fhir_bridge.definitions import TYPES
from fhir_bridge.exchange import body_of
from fhir_bridge.finding import find
from fhir_bridge.graphql_query import answer
from fhir_bridge.outcome import FhirError, Issue, issue_of, operation_outcome
from fhir_bridge.resources import dump, load, load_any
from fhir_bridge.search import parse_query
from fhir_bridge.search_scopes import require_searchable
from fhir_bridge.store import Stored, read
from fhir_bridge.terms import JSON

__all__ = ["GraphqlApi"]

BODY_OCTETS_MAX: Final = 128 * 1024
GRAPHQL: Final = "application/graphql"
_TYPES: Final = frozenset({"application/json", "application/fhir+json", GRAPHQL})


class GraphqlApi:
    """Answers GraphQL."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def serve(self, request: Request, client: Client) -> Response:
        """Answer a query that is posted, or stands in the URL."""
        try:
            query, variables, name = await _query(request)
            data = await self._database.read(
                lambda c: answer(query, variables, name, _Rows(c, client, self._clock))
            )
        except DirectError as error:
            status, issues = issue_of(error)
            if status >= 500 or error.reason is Reason.THROTTLED:
                raise
            # FHIR graphql.html: errors carry the OperationOutcome beside GraphQL's message.
            outcome = {"resource": operation_outcome(issues)}
            told = {"message": issues[0].text, "extensions": outcome}
            return _json({"errors": [told]}, status)
        return _json({"data": data}, 200)


class _Rows:
    """What one client may see, on one connection (`graphql_query.Source`)."""

    def __init__(self, connection: sa.Connection, client: Client, clock: Clock) -> None:
        self._connection = connection
        self._client = client
        self._now = clock()

    def listed(self, kind: str, parameters: Sequence[tuple[str, str]]) -> Sequence[JSON]:
        known = TYPES.get(kind)
        if known is None or "search-type" not in known.interactions or kind == "AuditEvent":
            issue = Issue("not-supported", "There is no list of this type here.")
            raise FhirError(Reason.RESOURCE_INVALID, [issue])
        query = parse_query(known, parameters, strict=True)
        require_searchable(query, self._client)
        found = find(self._connection, query, self._client.owners, self._now)
        return [_resource(row) for row in found.rows]

    def one(self, kind: str, identity: str) -> JSON | None:
        if kind not in TYPES or not self._client.scopes.allow(kind, "r"):
            return None
        try:
            found = read(self._connection, kind, UUID(identity), self._client.owners)
        except ValueError:
            return None
        return None if found is None or found.deleted else _resource(found)


def _resource(stored: Stored) -> JSON:
    return load(stored.body.encode())  # decimals keep their digits


async def _query(request: Request) -> tuple[str, Mapping[str, Any], str | None]:
    """Return the query, its variables, and the operation's name.

    Raises:
        FhirError: 415; RESOURCE_INVALID, not of this form.
    """
    given: Any = dict(request.query_params)
    if request.method == "GET":
        given["variables"] = load_any(given.get("variables", "{}").encode())
    else:
        body = await body_of(request, BODY_OCTETS_MAX, _TYPES)
        if request.headers.get("content-type", "").startswith(GRAPHQL):
            given = {"query": body.decode("utf-8", "replace")}
        else:
            given = await asyncio.to_thread(load, body)
    query, name = given.get("query"), given.get("operationName")
    variables = given.get("variables") or {}
    if not isinstance(query, str) or not isinstance(variables, dict):
        issue = Issue("required", "Post a query, and variables as an object.")
        raise FhirError(Reason.RESOURCE_INVALID, [issue])
    return query, variables, name if isinstance(name, str) and name else None


def _json(content: JSON, status: int) -> Response:
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(dump(content), status, headers, "application/json")
