"""Resources over HTTP: read, versions, history, create, update, patch, delete.

Talks to the database; writes go through `writing.Writer`.

Standards:
    FHIR    R4 http.html
    fhir.md section 1.8: what real clients send
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from certs.errors import Reason
from certs.ports import Database
from fhir_bridge.clients import Client
from fhir_bridge.exchange import body_of, resource_response, stored_response
from fhir_bridge.history import history_bundle, history_page, parse_history
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.patching import json_patch, merge_patch
from fhir_bridge.registry import ResourceType
from fhir_bridge.resources import load, load_any
from fhir_bridge.store import Stored, read, version
from fhir_bridge.terms import JSON
from fhir_bridge.write_rules import not_found
from fhir_bridge.writing import Writer, Written

__all__ = ["ResourceApi", "answer_of", "identity_of"]

INLINE_OCTETS = 16 * 1024  # reading so little costs less than a thread
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = frozenset({"application/merge-patch+json", "application/json"})


class ResourceApi:
    """Serves and takes resources."""

    def __init__(
        self, *, database: Database, writer: Writer, base_url: str, limit_octets: int
    ) -> None:
        self._database = database
        self._writer = writer
        self._base_url = base_url
        self._limit_octets = limit_octets

    async def read(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Read the present version."""
        identity = identity_of(request)
        stored = await self._database.read(lambda c: read(c, kind.name, identity, client.owners))
        return _present(request, stored)

    async def vread(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Read one version."""
        identity, number = identity_of(request), request.path_params["version"]
        if not re.fullmatch(r"[1-9]\d{0,8}", number):
            raise not_found()
        stored = await self._database.read(
            lambda c: version(c, kind.name, identity, int(number), client.owners)
        )
        return _present(request, stored)

    async def history(
        self, request: Request, kind: ResourceType | None, client: Client
    ) -> Response:
        """Show the versions of one resource, of a type, or of everything."""
        identity = identity_of(request) if "id" in request.path_params else None
        pairs = request.query_params.multi_items()
        query = parse_history(pairs, kind=kind.name if kind else None, identity=identity)
        versions, following = await self._database.read(
            lambda c: history_page(c, query, client.owners)
        )
        if identity is not None and not versions and query.cursor is None and not query.since:
            raise not_found()
        steps = [kind.name if kind else "", str(identity) if identity else "", "_history"]
        url = "/".join([self._base_url, *filter(None, steps)])
        links: list[JSON] = [{"relation": "self", "url": _link(url, pairs)}]
        if following is not None:
            kept = [pair for pair in pairs if pair[0] != "_cursor"]
            next_url = _link(url, [*kept, ("_cursor", following)])
            links.append({"relation": "next", "url": next_url})
        return resource_response(history_bundle(versions, links, base_url=self._base_url))

    async def create(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Create a resource; with If-None-Exist, or a query as fhirpy has it, only if none is."""
        resource = await self._resource(request)
        given = request.headers.get("if-none-exist")
        condition = request.query_params.multi_items() if given is None else _query(given)
        written = await self._writer.create(kind, resource, client, _criteria(condition))
        return answer_of(request, written, client, self._base_url)

    async def update(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Update a resource by id, or the one that the query matches."""
        resource = await self._resource(request)
        if "id" in request.path_params:
            written = await self._writer.update(
                kind, identity_of(request), resource, client, _expected(request)
            )
        else:
            condition = _criteria(request.query_params.multi_items()) or []
            written = await self._writer.update_matching(kind, condition, resource, client)
        return answer_of(request, written, client, self._base_url)

    async def patch(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Patch a resource by JSON Patch or by merge patch."""
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != JSON_PATCH and media not in MERGE_PATCH:
            issue = Issue(
                "not-supported", f"A patch is {JSON_PATCH} or application/merge-patch+json."
            )
            raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=415)
        body = await body_of(request, self._limit_octets, {JSON_PATCH, *MERGE_PATCH})
        patch = await asyncio.to_thread(load_any, body)
        if media == JSON_PATCH:
            client.require(kind.name, "r")  # RFC6902 4.6: `test` tells what is there
            change = partial(json_patch, operations=patch)
        elif isinstance(patch, dict):
            change = partial(merge_patch, patch=patch)
        else:
            issue = Issue("structure", "A merge patch is an object.")
            raise FhirError(Reason.RESOURCE_INVALID, [issue])
        written = await self._writer.patch(
            kind, identity_of(request), change, client, _expected(request)
        )
        return answer_of(request, written, client, self._base_url)

    async def delete(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Delete a resource."""
        await self._writer.delete(kind, identity_of(request), client, _expected(request))
        return Response(status_code=204)

    async def _resource(self, request: Request) -> JSON:
        body = await body_of(request, self._limit_octets)
        if len(body) <= INLINE_OCTETS:
            return load(body)
        return await asyncio.to_thread(load, body)


def answer_of(request: Request, written: Written, client: Client, base_url: str) -> Response:
    """Return the answer to a write of `client`."""
    stored = written.stored
    return stored_response(
        request,
        stored,
        status=written.status,
        location=f"{base_url}/{stored.type}/{stored.id}/_history/{stored.version}",
        issues=written.issues,
        readable=client.scopes.allow(stored.type, "r"),
    )


def identity_of(request: Request, name: str = "id") -> UUID:
    """Return the id in the path; one that is no id of ours is not found."""
    try:
        return UUID(request.path_params[name])
    except ValueError:
        raise not_found() from None


def _present(request: Request, stored: Stored | None) -> Response:
    if stored is None:
        raise not_found()
    if stored.deleted:
        issue = Issue("deleted", "The resource was deleted.")
        raise FhirError(Reason.RESOURCE_NOT_FOUND, [issue], status=410)
    known = request.headers.get("if-none-match", "")
    if known.strip() and _version(known) == stored.version:
        return Response(status_code=304, headers={"etag": f'W/"{stored.version}"'})
    return stored_response(request, stored)


def _expected(request: Request) -> int | None:
    """Return the version that If-Match names; one that cannot be is never present."""
    given = request.headers.get("if-match")
    return None if given is None else _version(given) or 0


def _version(etag: str) -> int | None:
    # FHIR writes W/"3"; fhirpy sends the bare number (fhir.md 1.8).
    match = re.fullmatch(r'\s*(?:W/)?"?(\d{1,9})"?\s*', etag)
    return int(match[1]) if match else None


def _query(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text.partition("?")[2] or text, keep_blank_values=True)


def _criteria(pairs: list[tuple[str, str]]) -> list[tuple[str, str]] | None:
    """Return what of a query is a condition: not what only shapes the answer."""
    shaping = {"_format", "_pretty", "_summary", "_elements", "_totalMethod"}
    return [pair for pair in pairs if pair[0] not in shaping] or None


def _link(url: str, pairs: list[tuple[str, str]]) -> str:
    return f"{url}?{urlencode(pairs, quote_via=quote)}" if pairs else url
