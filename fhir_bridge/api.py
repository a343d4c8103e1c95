"""The FHIR API: routes to handlers, and every error to an OperationOutcome.

Talks HTTP. What a resource type can do is in `registry.TYPES`; a route that asks for more is
refused here, and the CapabilityStatement reads the same table.

Standards:
    FHIR    R4 http.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.auth import caller
from fhir_bridge.binaries import find_binary
from fhir_bridge.binary_api import BinaryApi
from fhir_bridge.capability import capability_statement
from fhir_bridge.clients import Client
from fhir_bridge.communication_api import CommunicationApi
from fhir_bridge.exchange import error_response, resource_response, stored_response
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies, Outbox
from fhir_bridge.registry import TYPES, ResourceType
from fhir_bridge.search_api import SearchApi
from fhir_bridge.sending import Dispatcher
from fhir_bridge.store import Stored, read, version
from fhir_bridge.terms import DEFAULT_CANONICAL, Terms

__all__ = ["BASE_PATH", "create_app"]

BASE_PATH: Final = "/fhir/R4"
RESOURCE_OCTETS: Final = 40 * 1024 * 1024  # a 25 MB attachment in base64, and room
BINARY_OCTETS: Final = 50 * 1024 * 1024


def create_app(
    *,
    database: Database,
    bodies: Bodies,
    outbox: Outbox,
    clock: Clock,
    base_url: str,
    decision_wait_s: float = 2.0,
    canonical: str = DEFAULT_CANONICAL,
    software: str = "",
    resource_octets: int = RESOURCE_OCTETS,
    binary_octets: int = BINARY_OCTETS,
) -> Starlette:
    """Return the application. `base_url` is the public URL of `BASE_PATH`, without a final "/".

    `software` is our version, for the CapabilityStatement. `decision_wait_s`: how long a create
    that sends waits for the decision on each recipient.
    """
    terms = Terms(canonical)
    dispatcher = Dispatcher(
        database=database,
        bodies=bodies,
        outbox=outbox,
        clock=clock,
        base_url=base_url,
        terms=terms,
    )
    api = _Api(
        database=database,
        clock=clock,
        base_url=base_url,
        software=software,
        terms=terms,
        communications=CommunicationApi(
            database=database,
            bodies=bodies,
            outbox=outbox,
            dispatcher=dispatcher,
            clock=clock,
            base_url=base_url,
            decision_wait_s=decision_wait_s,
            limit_octets=resource_octets,
            terms=terms,
        ),
        binaries=BinaryApi(
            database=database,
            bodies=bodies,
            clock=clock,
            base_url=base_url,
            limit_octets=binary_octets,
        ),
        searches=SearchApi(database=database, clock=clock, base_url=base_url),
    )
    return Starlette(
        routes=api.routes(),
        exception_handlers={
            DirectError: _failed,
            HTTPException: _failed,
            Exception: _failed,
        },
    )


_Handler = Callable[[Request, ResourceType, Client], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Api:
    database: Database
    clock: Clock
    base_url: str
    software: str
    terms: Terms
    communications: CommunicationApi
    binaries: BinaryApi
    searches: SearchApi

    def routes(self) -> list[Route]:
        """Return the routes. FHIR's paths are generic: the type is a part of them."""
        base = BASE_PATH
        return [
            Route(f"{base}/metadata", self.metadata, methods=["GET"]),
            self.route(f"{base}/{{type}}", ["GET"], "search-type", self.search),
            self.route(f"{base}/{{type}}", ["POST"], "create", self.create),
            self.route(f"{base}/{{type}}/_search", ["POST"], "search-type", self.search),
            self.route(f"{base}/{{type}}/{{id}}", ["GET"], "read", self.read),
            self.route(
                f"{base}/{{type}}/{{id}}/_history/{{version}}", ["GET"], "vread", self.vread
            ),
        ]

    def route(self, path: str, methods: list[str], interaction: str, handler: _Handler) -> Route:
        """Return a route that first checks who calls and what the type can do."""

        async def endpoint(request: Request) -> Response:
            client = await caller(request, self.database)
            kind = TYPES.get(request.path_params["type"])
            if kind is None:
                issue = Issue("not-supported", "This resource type is not served here.")
                raise FhirError(Reason.RESOURCE_NOT_FOUND, [issue])
            if interaction not in kind.interactions:
                issue = Issue("not-supported", f"{kind.name} has no {interaction} here.")
                raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=405)
            return await handler(request, kind, client)

        return Route(path, endpoint, methods=methods)

    async def metadata(self, request: Request) -> Response:
        """Say what the API can do; to anybody."""
        return resource_response(
            capability_statement(
                base_url=self.base_url,
                software=self.software,
                now=self.clock(),
                terms=self.terms,
            )
        )

    async def search(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Search a type, by URL or by form."""
        return await self.searches.search(request, kind, client)

    async def create(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Create a resource."""
        if kind.name == "Binary":
            return await self.binaries.create(request, client)
        return await self.communications.create(request, client)

    async def read(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Read the present version."""
        identity = _identity(request)
        if kind.name == "Binary":
            owners = client.owners | {client.own}
            row = await self.database.read(lambda c: find_binary(c, identity, owners))
            if row is None:
                raise _not_found()
            return await self.binaries.read(request, row)
        stored = await self.database.read(lambda c: read(c, kind.name, identity, client.owners))
        return _present(request, stored)

    async def vread(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Read one version."""
        identity, number = _identity(request), request.path_params["version"]
        if not number.isascii() or not number.isdigit() or len(number) > 9:
            raise _not_found()
        stored = await self.database.read(
            lambda c: version(c, kind.name, identity, int(number), client.owners)
        )
        return _present(request, stored)


def _present(request: Request, stored: Stored | None) -> Response:
    if stored is None:
        raise _not_found()
    if stored.deleted:
        issue = Issue("deleted", "The resource was deleted.")
        raise FhirError(Reason.RESOURCE_NOT_FOUND, [issue], status=410)
    # RFC9110 13.1.2; fhirpy sends the bare version number (fhir.md 1.8).
    known = request.headers.get("if-none-match", "").strip()
    if known in (f'W/"{stored.version}"', f'"{stored.version}"', str(stored.version)):
        return Response(status_code=304, headers={"etag": f'W/"{stored.version}"'})
    return stored_response(request, stored)


def _identity(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        raise _not_found() from None


def _not_found() -> FhirError:
    return FhirError(Reason.RESOURCE_NOT_FOUND, [Issue("not-found", "There is no such resource.")])


async def _failed(request: Request, error: Exception) -> Response:
    """Return the OperationOutcome of whatever a handler raised."""
    if isinstance(error, DirectError):
        return error_response(error)
    if isinstance(error, HTTPException):
        code = {404: "not-found", 405: "not-supported"}.get(error.status_code, "processing")
        issue = Issue(code, "There is nothing here that answers this request.")
        return error_response(
            FhirError(Reason.RESOURCE_NOT_FOUND, [issue], status=error.status_code)
        )
    return error_response(DirectError(Reason.INTERNAL, type(error).__name__))
