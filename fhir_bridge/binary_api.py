"""Binary over HTTP: raw upload, download as it is or as a resource, parts of it by Range.

Talks to the database and the body store. Octets are streamed both ways; what is served can do
nothing in a browser.

Standards:
    FHIR    R4 binary.html, http.html 3.1.0.1.10
    RFC9110 section 14 (Range), 8.8.3 (ETag); RFC6266 (Content-Disposition)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Final
from urllib.parse import quote
from uuid import UUID

import pybase64
import sqlalchemy as sa
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge.binaries import add_binaries, find_binary
from fhir_bridge.binary_rows import BinaryRow, Measure
from fhir_bridge.clients import Client
from fhir_bridge.exchange import FHIR_JSON, body_of, prefers, resource_response
from fhir_bridge.handover import octets_of
from fhir_bridge.medplum_compat import as_medplum
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies
from fhir_bridge.resource_api import identity_of
from fhir_bridge.resources import check, load, require_type
from fhir_bridge.terms import JSON
from fhir_bridge.upkeep import forget_upload
from fhir_bridge.write_rules import not_found

__all__ = ["BinaryApi"]

# A Binary asked for as JSON is built in memory; a larger one is served as it is only.
JSON_OCTETS_MAX: Final = 32 * 1024 * 1024
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_CONTENT_TYPE: Final = re.compile(r"[!-~]+/[!-~]+(?: *;[ -~]*)?")


class BinaryApi:
    """Serves and takes Binaries."""

    def __init__(
        self, *, database: Database, bodies: Bodies, clock: Clock, base_url: str, limit_octets: int
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._clock = clock
        self._base_url = base_url
        self._limit_octets = limit_octets

    async def create(self, request: Request, client: Client) -> Response:
        """Store the body of `request`: its octets as they come, or a Binary as FHIR JSON."""
        content_type = request.headers.get("content-type", "application/octet-stream")
        if content_type.partition(";")[0].strip().lower() == FHIR_JSON:
            blocks, content_type = await self._from_json(request)
        else:
            blocks = request.stream()
        if not _CONTENT_TYPE.fullmatch(content_type) or len(content_type) > 255:
            issue = Issue("value", "The Content-Type is not a media type.")
            raise FhirError(Reason.RESOURCE_INVALID, [issue])
        filename = request.query_params.get("_filename")
        row = await self._keep(blocks, content_type, filename, client)
        headers = {"location": f"{self._base_url}/Binary/{row.id}", "etag": _etag(row)}
        if prefers(request, "return") == "minimal":
            return Response(status_code=201, headers=headers)
        return resource_response(as_medplum(request.headers, _described(row)), 201, headers)

    async def read(self, request: Request, client: Client) -> Response:
        """Serve a Binary, as a FHIR resource where that is asked for."""
        return await self.serve(request, identity_of(request), client)

    async def serve(self, request: Request, identity: UUID, client: Client) -> Response:
        """Serve the Binary `identity` as `read` does."""
        row = await self._find(identity, client)
        if _etag(row) in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"etag": _etag(row)})
        if _wants_fhir(request):
            return await self._as_resource(row)
        start, length, status = _range(request.headers.get("range"), row.size)
        # The type goes out as it came in: the framework would add a charset to text.
        headers = {
            **_safe_headers(row),
            "content-type": row.content_type,
            "content-length": str(length),
        }
        if status == 206:
            headers["content-range"] = f"bytes {start}-{start + length - 1}/{row.size}"
        return StreamingResponse(self._octets(row, start, length), status, headers)

    async def whole(self, identity: UUID, client: Client) -> bytes | None:
        """Return all of the Binary `identity`; None where it is too large to be taken whole."""
        row = await self._find(identity, client)
        if row.size > JSON_OCTETS_MAX:
            return None
        return b"".join([block async for block in self._octets(row, 0, row.size)])

    async def delete(self, request: Request, client: Client) -> Response:
        """Delete an upload. One that a message has is kept (fhir.md 2 row 12)."""
        row = await self._find(identity_of(request), client)
        if row.communication_id is not None:
            issue = Issue("business-rule", "A message has this Binary.")
            raise FhirError(Reason.RESOURCE_CONFLICT, [issue])
        await self._database.write(lambda c: forget_upload(c, self._bodies, row.id))
        return Response(status_code=204)

    async def _find(self, identity: UUID, client: Client) -> BinaryRow:
        owners = client.owners
        row = await self._database.read(lambda c: find_binary(c, identity, owners))
        if row is None:
            raise not_found()
        return row

    async def _from_json(self, request: Request) -> tuple[AsyncIterator[bytes], str]:
        # Base64 is a third larger than the octets; the rest of a Binary is small.
        body = await body_of(request, self._limit_octets * 4 // 3 + 64 * 1024)
        resource = await asyncio.to_thread(load, body)
        require_type(resource, "Binary")
        data = resource.pop("data", "")
        try:
            octets = pybase64.b64decode(data if isinstance(data, str) else "!", validate=True)
        except ValueError:
            issue = Issue("value", "This is not base64.", "Binary.data")
            raise FhirError(Reason.RESOURCE_INVALID, [issue]) from None
        check(resource)
        return _once(octets), str(resource["contentType"])

    async def _keep(
        self,
        blocks: AsyncIterator[bytes],
        content_type: str,
        filename: str | None,
        client: Client,
    ) -> BinaryRow:
        sink, measure = self._bodies.sink(), Measure()
        try:
            async for block in _limited(blocks, self._limit_octets):
                sink.write(block)
                measure.add(block)
            body = await sink.finish()
        except ClientDisconnect:
            await sink.discard()
            raise DirectError(Reason.MESSAGE_MALFORMED, "the client went away") from None
        except BaseException:
            await sink.discard()
            raise
        now, measured = self._clock(), measure.result()
        row = BinaryRow(
            id=new_id(now),
            communication_id=None,
            owner=client.own,
            body_key=body.key,
            offset=0,
            length=body.size,
            encoding="binary",
            content_type=content_type,
            filename=filename[:255] if filename else None,
            size=measured.size,
            sha1=measured.sha1,
            sha256=measured.sha256,
        )

        def record(connection: sa.Connection) -> None:
            self._bodies.record(connection, body)
            add_binaries(connection, [row], now)

        await self._database.write(record)
        return row

    async def _as_resource(self, row: BinaryRow) -> Response:
        if row.size > JSON_OCTETS_MAX:
            issue = Issue("too-long", "This Binary is served as it is only.")
            raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=406)
        octets = b"".join([block async for block in self._octets(row, 0, row.size)])
        resource = _described(row)
        if octets:
            resource["data"] = await asyncio.to_thread(_base64, octets)
        return resource_response(resource, 200, {"etag": _etag(row)})

    async def _octets(self, row: BinaryRow, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield `length` decoded octets from `start` on."""
        async with self._bodies.open(row.body_key) as file:
            if row.encoding in ("binary", "8bit", "7bit"):
                stretch = replace(row, offset=row.offset + start, length=length)
                blocks = octets_of(stretch, file)
            else:
                blocks = _stretch(octets_of(row, file), start, length)
            while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                yield block


def _stretch(blocks: Iterator[bytes], start: int, length: int) -> Iterator[bytes]:
    for block in blocks:
        if start >= len(block):
            start -= len(block)
            continue
        piece = block[start : start + length]
        start, length = 0, length - len(piece)
        yield piece
        if not length:
            return


def _range(header: str | None, size: int) -> tuple[int, int, int]:
    """Return start, length and status for one byte range; anything else is the whole.

    Raises:
        FhirError: 416, the range is not within the Binary.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or not (match[1] or match[2]):
        return 0, size, 200
    if match[1]:
        start, last = int(match[1]), min(int(match[2] or size), size - 1)
    else:
        start, last = max(0, size - int(match[2])), size - 1
    if match[2] and match[1] and int(match[2]) < start:
        return 0, size, 200  # RFC9110 14.1.1: an invalid range is ignored
    if start >= size:
        issue = Issue("value", "The range is not within the Binary.")
        raise FhirError(Reason.RESOURCE_INVALID, [issue], status=416)
    return start, last - start + 1, 206


def _safe_headers(row: BinaryRow) -> dict[str, str]:
    headers = {
        "etag": _etag(row),
        "accept-ranges": "bytes",
        "cache-control": "private, no-store",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "content-disposition": "attachment",
    }
    if row.filename:
        # RFC6266 4.3: a plain name for all, the exact one for those that can read it.
        name = re.sub(r"[^A-Za-z0-9 ._-]", "_", row.filename.replace("\\", "/").split("/")[-1])
        exact = quote(row.filename, safe="")
        headers["content-disposition"] = (
            f"attachment; filename=\"{name}\"; filename*=UTF-8''{exact}"
        )
    return headers


def _described(row: BinaryRow) -> JSON:
    return {"resourceType": "Binary", "id": str(row.id), "contentType": row.content_type}


def _etag(row: BinaryRow) -> str:
    return f'"{row.sha256}"'


def _wants_fhir(request: Request) -> bool:
    # FHIR binary.html: the FHIR form where the client names it, the octets otherwise.
    wanted = request.query_params.get("_format", "") or request.headers.get("accept", "")
    first = wanted.partition(",")[0].partition(";")[0].strip().lower()
    return first in (FHIR_JSON, "application/fhir json")


def _base64(octets: bytes) -> str:
    return pybase64.b64encode(octets).decode("ascii")


async def _limited(blocks: AsyncIterator[bytes], limit_octets: int) -> AsyncIterator[bytes]:
    async for block in blocks:
        limit_octets -= len(block)
        if limit_octets < 0:
            raise DirectError(Reason.MESSAGE_TOO_BIG, "a Binary is over the limit")
        yield block


async def _once(octets: bytes) -> AsyncIterator[bytes]:
    yield octets
