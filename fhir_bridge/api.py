"""The FHIR API: routes to handlers, and every error to an OperationOutcome.

Talks HTTP. What a resource type can do is in `registry.TYPES`; a route that asks for more is
refused here, and the CapabilityStatement reads the same table.

Standards:
    FHIR    R4 http.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.auth import caller
from fhir_bridge.binary_api import BinaryApi
from fhir_bridge.bundle_api import BundleApi
from fhir_bridge.capability import capability_statement
from fhir_bridge.clients import Client
from fhir_bridge.definitions import TYPES
from fhir_bridge.exchange import error_response, resource_response
from fhir_bridge.operation_definitions import (
    OPERATIONS,
    Operation,
    operation_definition,
    operations_of,
)
from fhir_bridge.operations import OperationApi
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies, Deliveries, Outbox, Preflight
from fhir_bridge.registry import ResourceType
from fhir_bridge.resource_api import ResourceApi, not_found
from fhir_bridge.search_api import SearchApi
from fhir_bridge.sending import Dispatcher
from fhir_bridge.sockets import SOCKET_PATH, Sockets
from fhir_bridge.subscription_api import SubscriptionApi
from fhir_bridge.terms import DEFAULT_CANONICAL, Terms
from fhir_bridge.writing import Writer

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
    preflight: Preflight | None = None,
    hook_hosts: Collection[str] = (),
    deliveries: Deliveries | None = None,
    canonical: str = DEFAULT_CANONICAL,
    software: str = "",
    resource_octets: int = RESOURCE_OCTETS,
    binary_octets: int = BINARY_OCTETS,
) -> Starlette:
    """Return the application. `base_url` is the public URL of `BASE_PATH`, without a final "/".

    `software` is our version, for the CapabilityStatement. `decision_wait_s`: how long a create
    that sends waits for the decision on each recipient. `hook_hosts`: where subscriptions may
    send (see `endpoints.endpoint_of`); nowhere by default. `deliveries` runs the `Notifier`'s.
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
    writer = Writer(
        database=database,
        bodies=bodies,
        outbox=outbox,
        dispatcher=dispatcher,
        clock=clock,
        decision_wait_s=decision_wait_s,
        terms=terms,
        hook_hosts=hook_hosts,
    )
    api = _make_api(
        database=database,
        bodies=bodies,
        writer=writer,
        dispatcher=dispatcher,
        preflight=preflight,
        deliveries=deliveries,
        clock=clock,
        base_url=base_url,
        software=software,
        resource_octets=resource_octets,
        binary_octets=binary_octets,
        terms=terms,
    )
    sockets = Sockets(database=database, clock=clock, base_url=base_url)
    return Starlette(
        routes=[*api.routes(), WebSocketRoute(SOCKET_PATH, sockets.serve)],
        exception_handlers=dict.fromkeys((DirectError, HTTPException, Exception), _failed),
    )


def _make_api(
    *,
    database: Database,
    bodies: Bodies,
    writer: Writer,
    dispatcher: Dispatcher,
    preflight: Preflight | None,
    deliveries: Deliveries | None,
    clock: Clock,
    base_url: str,
    software: str,
    resource_octets: int,
    binary_octets: int,
    terms: Terms,
) -> _Api:
    binaries = BinaryApi(
        database=database,
        bodies=bodies,
        clock=clock,
        base_url=base_url,
        limit_octets=binary_octets,
    )
    return _Api(
        database=database,
        clock=clock,
        base_url=base_url,
        software=software,
        terms=terms,
        resources=ResourceApi(
            database=database, writer=writer, base_url=base_url, limit_octets=resource_octets
        ),
        binaries=binaries,
        operations=OperationApi(
            database=database,
            writer=writer,
            dispatcher=dispatcher,
            preflight=preflight,
            binaries=binaries,
            subscriptions=SubscriptionApi(
                database=database,
                clock=clock,
                base_url=base_url,
                terms=terms,
                deliveries=deliveries,
            ),
            clock=clock,
            base_url=base_url,
            limit_octets=resource_octets,
            terms=terms,
        ),
        bundles=BundleApi(
            database=database,
            writer=writer,
            clock=clock,
            base_path=BASE_PATH,
            base_url=base_url,
            limit_octets=resource_octets,
        ),
        searches=SearchApi(database=database, clock=clock, base_url=base_url),
    )


_Handler = Callable[[Request, ResourceType, Client], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Api:
    database: Database
    clock: Clock
    base_url: str
    software: str
    terms: Terms
    resources: ResourceApi
    binaries: BinaryApi
    operations: OperationApi
    bundles: BundleApi
    searches: SearchApi

    def routes(self) -> list[Route]:
        """Return the routes. FHIR's paths are generic: the type is a part of them."""
        every, one = f"{BASE_PATH}/{{type}}", f"{BASE_PATH}/{{type}}/{{id}}"
        resources, search = self.resources, self.searches.search
        return [
            *self.operation_routes(),
            Route(f"{BASE_PATH}/metadata", self.metadata, methods=["GET"]),
            Route(BASE_PATH, self.bundle, methods=["POST"]),
            Route(f"{BASE_PATH}/", self.bundle, methods=["POST"]),
            Route(f"{BASE_PATH}/_history", self.system_history, methods=["GET"]),
            self.route(every, "GET", "search-type", search),
            self.route(f"{every}/_search", "POST", "search-type", search),
            self.route(f"{every}/_history", "GET", "history-type", resources.history),
            self.route(every, "POST", "create", self.create),
            self.route(every, "PUT", "update", resources.update),
            self.route(one, "GET", "read", self.read),
            self.route(one, "PUT", "update", resources.update),
            self.route(one, "PATCH", "patch", resources.patch),
            self.route(one, "DELETE", "delete", self.delete),
            self.route(f"{one}/_history", "GET", "history-instance", resources.history),
            self.route(f"{BASE_PATH}/Patient/{{patient}}/{{type}}", "GET", "search-type", search),
            self.route(f"{one}/_history/{{version}}", "GET", "vread", resources.vread),
        ]

    def operation_routes(self) -> list[Route]:
        """Return the routes of the operations, and that of their definitions."""
        definition = f"{BASE_PATH}/OperationDefinition/{{name}}"
        routes = [Route(definition, self.operation_definition, methods=["GET"])]
        for operation in OPERATIONS:
            for kind in [k for k in TYPES.values() if operation in operations_of(k)]:
                handler = partial(self.operations.call, operation)
                if operation.on_type:
                    path = f"{BASE_PATH}/{kind.name}/${operation.name}"
                    routes.append(self.operation_route(path, operation, kind, handler))
                if operation.on_instance:
                    path = f"{BASE_PATH}/{kind.name}/{{id}}/${operation.name}"
                    routes.append(self.operation_route(path, operation, kind, handler))
        return routes

    def operation_route(
        self, path: str, operation: Operation, kind: ResourceType, handler: _Handler
    ) -> Route:
        """Return the route of an operation on one type."""

        async def endpoint(request: Request) -> Response:
            return await handler(request, kind, await caller(request, self.database, self.clock()))

        return Route(path, endpoint, methods=[operation.method])

    async def operation_definition(self, request: Request) -> Response:
        """Publish the definition of an operation; to anybody."""
        for operation in OPERATIONS:
            if operation.name == request.path_params["name"]:
                return resource_response(operation_definition(operation, self.terms))
        raise not_found()

    def route(self, path: str, method: str, interaction: str, handler: _Handler) -> Route:
        """Return a route that first checks who calls and what the type can do."""

        async def endpoint(request: Request) -> Response:
            client = await caller(request, self.database, self.clock())
            kind = TYPES.get(request.path_params["type"])
            if kind is None:
                issue = Issue("not-supported", "This resource type is not served here.")
                raise FhirError(Reason.RESOURCE_NOT_FOUND, [issue])
            if interaction not in kind.interactions:
                issue = Issue("not-supported", f"{kind.name} has no {interaction} here.")
                raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=405)
            return await handler(request, kind, client)

        return Route(path, endpoint, methods=[method])

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

    async def bundle(self, request: Request) -> Response:
        """Take a batch or a transaction."""
        return await self.bundles.post(request, await caller(request, self.database, self.clock()))

    async def system_history(self, request: Request) -> Response:
        """Show the versions of everything."""
        client = await caller(request, self.database, self.clock())
        return await self.resources.history(request, None, client)

    async def create(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Create a resource; a Binary comes as it is."""
        if kind.name == "Binary":
            return await self.binaries.create(request, client)
        return await self.resources.create(request, kind, client)

    async def read(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Read a resource; a Binary goes as it is."""
        if kind.name == "Binary":
            return await self.binaries.read(request, client)
        return await self.resources.read(request, kind, client)

    async def delete(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Delete a resource; a Binary only while nothing refers to it."""
        if kind.name == "Binary":
            return await self.binaries.delete(request, client)
        return await self.resources.delete(request, kind, client)


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
