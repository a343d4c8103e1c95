"""`$export`: everything that a client may read, as files of one resource on each line.

Talks to the database. Nothing is prepared: the kick-off keeps what was asked, and each file is read
while it is fetched, a page at a time, as it was at the moment of the kick-off. What the client may
no longer see is then no longer in it.

Standards:
    BULK    Bulk Data Access 2.0.0, export
    FHIR    R4 async.html
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import Final

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.clients import Client, find_client
from fhir_bridge.definitions import TYPES
from fhir_bridge.exchange import body_of, prefers
from fhir_bridge.export_pages import Page, Place, deleted_page, holds, members_of, page_of
from fhir_bridge.export_query import PATIENT, Wanted, pairs_of, read_wanted
from fhir_bridge.export_rows import Export, add_export, find_export, forget_export
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import ResourceType
from fhir_bridge.resource_api import identity_of
from fhir_bridge.resources import load, require_type
from fhir_bridge.store import stamp
from fhir_bridge.terms import JSON
from fhir_bridge.write_rules import not_found

__all__ = ["SETTLED", "ExportApi"]

NDJSON: Final = "application/fhir+ndjson"
BODY_OCTETS_MAX: Final = 64 * 1024
# What has its time from before an export is committed by then, or has failed: a write waits for
# five seconds at most. A file read earlier could lack it, and no later `_since` would bring it.
SETTLED: Final = timedelta(seconds=6)
_DELETED: Final = "deleted"
_SUFFIX: Final = ".ndjson"
_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

_Read = Callable[[sa.Connection, ResourceType, Client, Place | None], Page]


class ExportApi:
    """Answers exports."""

    def __init__(self, *, database: Database, clock: Clock, base_url: str) -> None:
        self._database = database
        self._clock = clock
        self._base_url = base_url

    async def begin(self, request: Request, client: Client, level: str | None) -> Response:
        """Begin an export of everything, of `level` Patient, or of a Group; say where it is.

        Raises:
            FhirError: RESOURCE_INVALID, without `Prefer: respond-async`, and as `read_wanted`;
                RESOURCE_NOT_FOUND, no such Group; THROTTLED.
        """
        if prefers(request, "respond-async") is None:
            # BULK: the header is required; nothing is answered that would have to be waited for.
            text = "An export is asked for with the header Prefer: respond-async."
            raise FhirError(Reason.RESOURCE_INVALID, [Issue("required", text)])
        within = level if level in (None, PATIENT) else f"{level}/{identity_of(request)}"
        pairs = request.query_params.multi_items()
        url = f"{self._base_url}{request.scope['path'].partition('/fhir/R4')[2]}"
        if request.method == "POST":
            pairs = [*pairs, *await _posted(request)]
        elif request.url.query:
            url = f"{url}?{request.url.query}"
        lenient = prefers(request, "handling") == "lenient"
        wanted = read_wanted(pairs, client, within=within, lenient=lenient)
        now = self._clock()

        def work(connection: sa.Connection) -> Export:
            _require_group(connection, wanted, client)
            return add_export(connection, client, wanted, url, now)

        export = await self._database.write(work)
        headers = {**_HEADERS, "content-location": f"{self._base_url}/$export/{export.id}"}
        return Response(status_code=202, headers=headers)

    async def status(self, request: Request, client: Client) -> Response:
        """Say how far an export is; when it is done, where its files are."""
        export = await self._find(request, client)
        wait_s = (export.at + SETTLED - self._clock()).total_seconds()
        if wait_s > 0:
            told = {"retry-after": str(math.ceil(wait_s)), "x-progress": "in progress"}
            return Response(status_code=202, headers={**_HEADERS, **told})
        manifest = await self._database.read(lambda c: self._manifest(c, export, client))
        headers = {**_HEADERS, "expires": format_datetime(export.expires, usegmt=True)}
        return Response(orjson.dumps(manifest), 200, headers, "application/json")

    async def forget(self, request: Request, client: Client) -> Response:
        """Forget an export; its files are gone."""
        export = await self._find(request, client)
        await self._database.write(lambda c: forget_export(c, export.id, client))
        return Response(status_code=202, headers=_HEADERS)

    async def file(self, request: Request, client: Client) -> Response:
        """Serve a file of an export."""
        export = await self._find(request, client)
        name = request.path_params["name"].removesuffix(_SUFFIX)
        if self._clock() < export.at + SETTLED:
            raise not_found()
        if name == _DELETED:
            blocks = self._deletions(export, client)
        elif name in export.wanted.kinds:
            client.require(name, "rs")
            blocks = self._lines(export, TYPES[name], client)
        else:
            raise not_found()
        # The first page is read before anything is answered: what fails then can be told.
        first = await anext(blocks, b"")
        return StreamingResponse(_joined(first, blocks), 200, _HEADERS, NDJSON)

    async def _find(self, request: Request, client: Client) -> Export:
        identity, now = identity_of(request, "export"), self._clock()
        export = await self._database.read(lambda c: find_export(c, identity, client, now))
        if export is None:
            raise not_found()
        return export

    def _manifest(self, connection: sa.Connection, export: Export, client: Client) -> JSON:
        owners, files = client.owners, f"{self._base_url}/$export/{export.id}"
        kinds = _open(export, client)
        manifest: JSON = {
            "transactionTime": stamp(export.at),
            "request": export.request,
            "requiresAccessToken": True,
            "output": [
                {"type": kind.name, "url": f"{files}/{kind.name}{_SUFFIX}"}
                for kind in kinds
                if holds(connection, export, kind, owners)
            ],
            "error": [],
        }
        if _tells_deletions(export):
            gone = any(holds(connection, export, kind, owners, deleted=True) for kind in kinds)
            url = f"{files}/{_DELETED}{_SUFFIX}"
            manifest["deleted"] = [{"type": "Bundle", "url": url}] if gone else []
        return manifest

    async def _lines(
        self, export: Export, kind: ResourceType, client: Client
    ) -> AsyncIterator[bytes]:
        # BULK, attachments: their urls are absolute. The text is JSON of ours, in which these
        # characters are never a part of a string.
        relative, absolute = '"url":"Binary/', f'"url":"{self._base_url}/Binary/'

        def some(
            connection: sa.Connection, kind: ResourceType, client: Client, after: Place | None
        ) -> Page:
            return page_of(connection, export, kind, client.owners, after)

        async for page in self._pages(kind, client, some):
            bodies = (body.replace(relative, absolute) for _, body in page.rows)
            yield "".join(f"{body}\n" for body in bodies).encode()

    async def _deletions(self, export: Export, client: Client) -> AsyncIterator[bytes]:
        """Yield Bundles of what was deleted; nothing where that is not told."""

        def some(
            connection: sa.Connection, kind: ResourceType, client: Client, after: Place | None
        ) -> Page:
            return deleted_page(connection, export, kind, client.owners, after)

        for kind in _open(export, client) if _tells_deletions(export) else ():
            async for page in self._pages(kind, client, some):
                entries = [
                    {"request": {"method": "DELETE", "url": f"{kind.name}/{identity}"}}
                    for identity, _ in page.rows
                ]
                bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
                yield orjson.dumps(bundle, option=orjson.OPT_APPEND_NEWLINE)

    async def _pages(self, kind: ResourceType, client: Client, some: _Read) -> AsyncIterator[Page]:
        """Yield pages; what the client is registered for is asked anew for each."""
        after: Place | None = None

        def work(connection: sa.Connection) -> Page:
            present = find_client(connection, client.id)
            if present is None:
                raise DirectError(Reason.AUTHENTICATION_FAILED, "the client is gone")
            present.require(kind.name, "rs")
            return some(connection, kind, present, after)

        while True:
            page = await self._database.read(work)
            if page.rows:
                yield page
            if page.following is None:
                return
            after = page.following


def _open(export: Export, client: Client) -> list[ResourceType]:
    """Return the types of the export that the client's scopes still open."""
    return [TYPES[name] for name in export.wanted.kinds if client.scopes.allow(name, "rs")]


def _tells_deletions(export: Export) -> bool:
    # Whom a deleted resource concerned is not known any more.
    return export.wanted.since is not None and export.wanted.within is None


def _require_group(connection: sa.Connection, wanted: Wanted, client: Client) -> None:
    """Return where the Group that is asked for is there, and theirs to read."""
    if wanted.within is not None and wanted.within != PATIENT:
        # Clients ask for tokens of the types that they export; what they are registered for counts.
        (find_client(connection, client.id) or client).require("Group", "r")
        members_of(connection, wanted.within, client.owners)


async def _posted(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of a POST; without a body there are none."""
    body = await body_of(request, BODY_OCTETS_MAX)
    if not body:
        return []
    parameters = await asyncio.to_thread(load, body)
    require_type(parameters, "Parameters")
    return pairs_of(parameters)


async def _joined(first: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in blocks:
        yield block
