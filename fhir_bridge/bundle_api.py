"""Bundles posted to the base: batch and transaction.

Talks HTTP, to the application itself: an entry that stands alone is answered by the same route
that would answer it by itself. The writes of a transaction are committed together.

Standards:
    FHIR    R4 http.html 3.1.0.11 (batch, transaction: order, temporary ids, outcomes)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Scope

from certs.errors import Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge.access import Access, AccessLog
from fhir_bridge.clients import Client
from fhir_bridge.definitions import TYPES
from fhir_bridge.exchange import FHIR_JSON, body_of, resource_response
from fhir_bridge.indexing import local_id
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.references import with_references
from fhir_bridge.resources import check, dump, load, require_type
from fhir_bridge.terms import JSON
from fhir_bridge.writing import Writer, Written

__all__ = ["BundleApi"]

ENTRIES_MAX: Final = 1000
# FHIR: deletes first, then creates, then updates, then reads.
_ORDER: Final = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}
_CONDITIONS: Final = {
    "ifMatch": "if-match",
    "ifNoneMatch": "if-none-match",
    "ifNoneExist": "if-none-exist",
    "ifModifiedSince": "if-modified-since",
}

# The scope that each needs (see `scopes`); a batch asks the routes.
_LETTERS: Final = {"DELETE": "d", "POST": "c", "PUT": "u"}
_INTERACTIONS: Final = {"DELETE": "delete", "POST": "create", "PUT": "update"}

Work = Callable[[sa.Connection], Written | None]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry: `url` is relative to the base, `full_url` may be a temporary one."""

    position: int
    method: str
    url: str
    full_url: str | None
    resource: JSON | None
    conditions: Mapping[str, str]

    @property
    def type(self) -> str:
        return self.url.partition("?")[0].partition("/")[0]

    @property
    def id(self) -> UUID | None:
        return local_id(self.url.partition("?")[0])

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(self.url.partition("?")[2], keep_blank_values=True)

    @property
    def expected(self) -> int | None:
        digits = "".join(c for c in self.conditions.get("if-match", "") if c.isdigit())
        return int(digits[:9]) if digits else None


class BundleApi:
    """Takes batches and transactions. `log` None: nothing is recorded."""

    def __init__(
        self,
        *,
        database: Database,
        writer: Writer,
        clock: Clock,
        base_path: str,
        base_url: str,
        limit_octets: int,
        log: AccessLog | None,
    ) -> None:
        self._log = log
        self._database = database
        self._writer = writer
        self._clock = clock
        self._base_path = base_path
        self._base_url = base_url
        self._limit_octets = limit_octets

    async def post(self, request: Request, client: Client) -> Response:
        """Answer a batch or a transaction.

        Raises:
            FhirError: RESOURCE_INVALID, no such Bundle; what the first failing write of a
                transaction raises.
        """
        body = await body_of(request, self._limit_octets)
        bundle = await asyncio.to_thread(load, body)
        require_type(bundle, "Bundle")
        if bundle.get("type") not in ("batch", "transaction"):
            issue = Issue("value", "Only a batch or a transaction is taken here.", "Bundle.type")
            raise FhirError(Reason.RESOURCE_INVALID, [issue])
        entries = _entries(bundle, self._base_url)
        if bundle["type"] == "batch":
            answers = [await self._alone(request, entry) for entry in entries]
        else:
            await asyncio.to_thread(check, {**bundle, "entry": _headers_only(bundle)})
            answers = await self._together(request, entries, client)
        answer = {"resourceType": "Bundle", "type": f"{bundle['type']}-response"}
        return resource_response({**answer, "entry": answers} if answers else answer)

    async def _together(
        self, request: Request, entries: Sequence[_Entry], client: Client
    ) -> list[JSON]:
        ids = {e.position: new_id(self._clock()) for e in entries if e.method == "POST"}
        places = {
            e.full_url: f"{e.type}/{ids.get(e.position) or e.id}" for e in entries if e.full_url
        }
        works: list[tuple[_Entry, Work]] = []
        for entry in sorted(entries, key=lambda e: (_ORDER.get(e.method, 9), e.position)):
            if entry.method not in ("GET", "HEAD"):
                work = await self._work(entry, places, ids.get(entry.position), client)
                works.append((entry, work))

        def all_of_them(connection: sa.Connection) -> dict[int, Written | None]:
            return {entry.position: work(connection) for entry, work in works}

        written = await self._database.write(all_of_them)
        for entry, _ in works:
            self._note(entry, written[entry.position], client)
        return [
            self._written(written[entry.position], client)
            if entry.position in written
            else await self._alone(request, entry)
            for entry in entries
        ]

    def _note(self, entry: _Entry, written: Written | None, client: Client) -> None:
        """Tell the access log of one write, which is recorded before the Bundle's answer."""
        if self._log is None:
            return
        identity = written.stored.id if written else entry.id
        interaction = _INTERACTIONS[entry.method]
        status = written.status if written else 204
        target = f"{entry.type}/{identity}"
        self._log.gather(Access(self._clock(), client.name, interaction, target, status))

    async def _work(
        self, entry: _Entry, places: Mapping[str, str], identity: UUID | None, client: Client
    ) -> Work:
        """Return what a writing entry does, everything checked that can be before."""
        kind = TYPES.get(entry.type)
        if kind is None or not {"create", "update"} <= set(kind.interactions):
            raise _refused(entry, "not-supported", "This cannot be written in a transaction.")
        resource = with_references(entry.resource, places) if entry.resource else None
        client.require(kind.name, _LETTERS.get(entry.method, "cruds"))
        try:
            if entry.method == "DELETE" and entry.id:
                return await self._writer.deletion(kind, entry.id, client, entry.expected)
            if entry.method == "POST" and resource is not None and identity is not None:
                condition = parse_qsl(entry.conditions.get("if-none-exist", "")) or None
                return await self._writer.creation(kind, resource, client, identity, condition)
            if entry.method == "PUT" and resource is not None and entry.id:
                return await self._writer.replacement(
                    kind, entry.id, resource, client, entry.expected
                )
        except FhirError as error:
            issues = [
                Issue(i.code, i.text, f"Bundle.entry[{entry.position}].resource", i.severity)
                if i.expression is None
                else i
                for i in error.issues
            ]
            raise FhirError(error.reason, issues, error.status) from None
        raise _refused(entry, "not-supported", "This request cannot be part of a transaction.")

    def _written(self, written: Written | None, client: Client) -> JSON:
        if written is None:
            return {"response": {"status": _status(204)}}
        stored = written.stored
        location = f"{self._base_url}/{stored.type}/{stored.id}"
        readable = client.scopes.allow(stored.type, "r")
        return {
            "fullUrl": location,
            **({"resource": orjson.Fragment(stored.body)} if readable else {}),
            "response": {
                "status": _status(written.status),
                "location": f"{location}/_history/{stored.version}",
                "etag": f'W/"{stored.version}"',
                "lastModified": stored.last_updated.isoformat(timespec="milliseconds"),
            },
        }

    async def _alone(self, request: Request, entry: _Entry) -> JSON:
        """Return the answer of the route that `entry` names."""
        body = b"" if entry.resource is None else dump(entry.resource)
        patching = entry.method == "PATCH"
        headers = {
            "authorization": request.headers.get("authorization", ""),
            "content-type": "application/merge-patch+json" if patching else FHIR_JSON,
            "accept": FHIR_JSON,
            **entry.conditions,
        }
        status, found, content = await _ask(
            request.scope["app"],
            request.scope,
            method=entry.method,
            path=f"{self._base_path}/{entry.url.partition('?')[0]}",
            query=entry.url.partition("?")[2],
            headers=headers,
            body=body,
        )
        response: JSON = {"status": _status(status)}
        for name, header in (("location", "location"), ("etag", "etag")):
            if header in found:
                response[name] = found[header]
        answer: JSON = {"response": response}
        if content and found.get("content-type", "").startswith(FHIR_JSON):
            if status >= 400:
                response["outcome"] = orjson.Fragment(content)
            else:
                answer["resource"] = orjson.Fragment(content)
        return answer


async def _ask(
    app: ASGIApp,
    outer: Scope,
    *,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the application's own answer."""
    scope: Scope = {
        **{key: outer[key] for key in ("type", "asgi", "http_version", "scheme", "server")},
        "client": outer.get("client"),
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "state": {},
    }
    asked = [{"type": "http.request", "body": body, "more_body": False}]
    status, found, chunks = 500, dict[str, str](), list[bytes]()

    async def receive() -> Message:
        return asked.pop() if asked else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            found.update({k.decode("latin-1"): v.decode("latin-1") for k, v in message["headers"]})
        else:
            chunks.append(message.get("body", b""))

    await app(scope, receive, send)
    return status, found, b"".join(chunks)


def _entries(bundle: JSON, base_url: str) -> list[_Entry]:
    listed = bundle.get("entry", [])
    if not isinstance(listed, list) or len(listed) > ENTRIES_MAX:
        issue = Issue("too-costly", "A Bundle has at most 1,000 entries.", "Bundle.entry")
        raise FhirError(Reason.RESOURCE_INVALID, [issue])
    return [_entry(item, position, base_url) for position, item in enumerate(listed)]


def _entry(item: Any, position: int, base_url: str) -> _Entry:
    at = f"Bundle.entry[{position}]"
    given = item.get("request") if isinstance(item, dict) else None
    request: JSON = given if isinstance(given, dict) else {}
    method, url = request.get("method"), request.get("url")
    if (
        not isinstance(method, str)
        or method not in _ORDER
        or not isinstance(url, str)
        or not url.isascii()
    ):
        issue = Issue("required", "An entry needs a request with a method and a url.", at)
        raise FhirError(Reason.RESOURCE_INVALID, [issue])
    resource, full_url = item.get("resource"), item.get("fullUrl")
    if resource is not None and not isinstance(resource, dict):
        issue = Issue("structure", "A resource is an object.", f"{at}.resource")
        raise FhirError(Reason.RESOURCE_INVALID, [issue])
    conditions = {
        header: str(request[name]) for name, header in _CONDITIONS.items() if name in request
    }
    if not all(value.isascii() and value.isprintable() for value in conditions.values()):
        raise FhirError(Reason.RESOURCE_INVALID, [Issue("value", "This is no condition.", at)])
    relative = url.removeprefix(base_url).lstrip("/")
    if not relative.partition("?")[0] and method != "GET":
        issue = Issue("not-supported", "A Bundle holds no other Bundle to be done.", at)
        raise FhirError(Reason.RESOURCE_INVALID, [issue])
    full = full_url if isinstance(full_url, str) else None
    return _Entry(position, str(method), relative, full, resource, conditions)


def _headers_only(bundle: JSON) -> list[JSON]:
    """Return the entries without their resources, which are judged one by one."""
    return [{k: v for k, v in item.items() if k != "resource"} for item in bundle.get("entry", [])]


def _refused(entry: _Entry, code: str, text: str) -> FhirError:
    issue = Issue(code, text, f"Bundle.entry[{entry.position}].request")
    return FhirError(Reason.RESOURCE_UNSUPPORTED, [issue])


def _status(code: int) -> str:
    return f"{code} {HTTPStatus(code).phrase}"
