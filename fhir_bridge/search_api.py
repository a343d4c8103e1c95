"""Searches over HTTP: a page of results as a Bundle.

Talks to the database. A page is put together from the stored JSON, without reading it.

Standards:
    FHIR    R4 search.html 3.1.1.2, bundle.html (searchset), http.html paging
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlencode

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from certs.errors import Reason
from certs.ports import Clock, Database
from fhir_bridge.clients import Client
from fhir_bridge.criteria import bad_search
from fhir_bridge.exchange import form_of, prefers, resource_response
from fhir_bridge.finding import Page, find
from fhir_bridge.including import included
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import ResourceType
from fhir_bridge.resource_api import identity_of
from fhir_bridge.search import Query, parse_query, within_patient
from fhir_bridge.search_scopes import require_searchable
from fhir_bridge.store import Stored
from fhir_bridge.system_search import TYPE, find_in_types, parse_types, together, types_of
from fhir_bridge.terms import JSON
from fhir_bridge.write_rules import not_found

__all__ = ["SearchApi"]


class SearchApi:
    """Answers searches of one resource type, or of several."""

    def __init__(self, *, database: Database, clock: Clock, base_url: str) -> None:
        self._database = database
        self._clock = clock
        self._base_url = base_url

    async def search(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Return the page that the URL, or the posted form, asks for."""
        posted = request.method == "POST"
        pairs = await form_of(request) if posted else request.query_params.multi_items()
        strict = prefers(request, "handling") == "strict"
        if any(name == TYPE for name, _ in pairs):
            if "patient" in request.path_params:
                raise bad_search("not-supported", "_type is not searched within a patient.")
            # fhir.md 2 row 15: `Patient?_type=Patient,Practitioner` is how Medplum asks for both.
            return await self._in_types(pairs, client, strict=strict)
        query: Query | None = parse_query(kind, pairs, strict=strict)
        if query is not None and "patient" in request.path_params:
            query = within_patient(query, identity_of(request, "patient"))
        if query is None:
            raise not_found()
        require_searchable(query, client)
        wanted, now = query, self._clock()

        def work(connection: sa.Connection) -> tuple[Page, tuple[Stored, ...]]:
            page = find(connection, wanted, client.owners, now)
            return page, included(connection, page.rows, wanted.includes, client)

        patient = request.path_params.get("patient")
        within = f"Patient/{patient}/" if patient else ""
        url = f"{self._base_url}/{within}{kind.name}"
        page, extra = await self._database.read(work)
        return resource_response(self._bundle(wanted, page, extra, url))

    async def search_types(self, request: Request, client: Client) -> Response:
        """Return the page of several types that the URL of the base, or a form, asks for."""
        posted = request.method == "POST"
        pairs = await form_of(request) if posted else request.query_params.multi_items()
        strict = prefers(request, "handling") == "strict"
        return await self._in_types(pairs, client, strict=strict)

    async def _in_types(
        self, pairs: Sequence[tuple[str, str]], client: Client, *, strict: bool
    ) -> Response:
        kinds = types_of(pairs, client)
        for kind in kinds:
            client.require(kind.name, "s")
        if not kinds:
            raise FhirError(Reason.ACCESS_FORBIDDEN, [Issue("forbidden", "No type is open here.")])
        queries, now = parse_types(kinds, pairs, strict=strict), self._clock()
        for query in queries:
            require_searchable(query, client)
        whole = together(queries, kinds)

        def work(connection: sa.Connection) -> tuple[Page, tuple[Stored, ...]]:
            page = find_in_types(connection, queries, client.owners, now)
            return page, included(connection, page.rows, whole.includes, client)

        page, extra = await self._database.read(work)
        return resource_response(self._bundle(whole, page, extra, self._base_url))

    def _bundle(self, query: Query, page: Page, extra: Sequence[Stored], url: str) -> JSON:
        links = [{"relation": "self", "url": _link(url, query.used)}]
        if page.following is not None:
            following = [*query.used, ("_cursor", page.following)]
            links.append({"relation": "next", "url": _link(url, following)})
        bundle: JSON = {"resourceType": "Bundle", "type": "searchset", "link": links}
        if page.total is not None:
            bundle["total"] = page.total
        elif page.following is None and query.cursor is None:
            bundle["total"] = len(page.rows)
        if page.rows:
            bundle["entry"] = [
                *(self._entry(stored, query, "match") for stored in page.rows),
                *(self._entry(stored, query, "include") for stored in extra),
            ]
        return bundle

    def _entry(self, stored: Stored, query: Query, mode: str) -> JSON:
        return {
            "fullUrl": f"{self._base_url}/{stored.type}/{stored.id}",
            "resource": _shown(stored, query.elements if mode == "match" else ()),
            "search": {"mode": mode},
        }


def _shown(stored: Stored, elements: Sequence[str]) -> object:
    if not elements:
        return orjson.Fragment(stored.body)
    # FHIR: _elements keeps what it names and what is required; the result is marked as a part.
    kept = {"resourceType", "id", "meta", "status", *elements}
    shown = {k: v for k, v in stored.resource().items() if k in kept}
    tag = {
        "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
        "code": "SUBSETTED",
    }
    meta = shown["meta"]
    return {**shown, "meta": {**meta, "tag": [*meta.get("tag", ()), tag]}}


def _link(url: str, pairs: Sequence[tuple[str, str]]) -> str:
    return f"{url}?{urlencode(pairs, quote_via=quote, safe=':/,|')}" if pairs else url
