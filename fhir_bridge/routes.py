"""What is served where, and what each route needs.

Talks HTTP. What a resource type can do is in `definitions.TYPES`; a route that asks for more is
refused here, and the CapabilityStatement reads the same table. Every route but the public ones
leads through the gate.

Standards:
    FHIR    R4 http.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from certs.errors import Reason
from certs.ports import Clock
from fhir_bridge.audit_api import AuditApi
from fhir_bridge.binary_api import BinaryApi
from fhir_bridge.bundle_api import BundleApi
from fhir_bridge.capability import capability_statement
from fhir_bridge.clients import Client
from fhir_bridge.definitions import TYPES
from fhir_bridge.exchange import resource_response
from fhir_bridge.export_api import ExportApi
from fhir_bridge.gate import Gate
from fhir_bridge.graphql_api import GraphqlApi
from fhir_bridge.message_api import MessageApi
from fhir_bridge.message_definition import message_definition
from fhir_bridge.operation_definitions import (
    OPERATIONS,
    Operation,
    operation_definition,
    operations_of,
)
from fhir_bridge.operations import OperationApi
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import ResourceType
from fhir_bridge.resource_api import ResourceApi
from fhir_bridge.route_groups import RouteGroup
from fhir_bridge.scopes import INTERACTIONS
from fhir_bridge.scopes import OPERATIONS as OPERATION_SCOPES
from fhir_bridge.search_api import SearchApi
from fhir_bridge.search_definitions import search_parameter
from fhir_bridge.system_search import TYPE
from fhir_bridge.terms import Terms
from fhir_bridge.token_api import TokenApi
from fhir_bridge.write_rules import not_found

__all__ = ["BASE_PATH", "Routes"]

BASE_PATH: Final = "/fhir/R4"

_Handler = Callable[[Request, ResourceType, Client], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The handlers, and their routes."""

    gate: Gate
    tokens: TokenApi
    audit: AuditApi | None
    clock: Clock
    base_url: str
    software: str
    require_if_match: bool
    terms: Terms
    resources: ResourceApi
    binaries: BinaryApi
    operations: OperationApi
    bundles: BundleApi
    graphql: GraphqlApi
    exports: ExportApi
    messages: MessageApi
    searches: SearchApi

    def all(self) -> list[BaseRoute]:
        """Return the routes. FHIR's paths are generic: the type is a part of them."""
        every, one = f"{BASE_PATH}/{{type}}", f"{BASE_PATH}/{{type}}/{{id}}"
        resources, search = self.resources, self.search
        return [
            *self.tokens.routes(),
            RouteGroup("/$", [*self.export_routes(), *self.operation_routes()]),
            Route(
                f"{BASE_PATH}/OperationDefinition/{{name}}",
                self.operation_definition,
                methods=["GET"],
            ),
            Route(
                f"{BASE_PATH}/SearchParameter/{{name}}",
                self.search_definition,
                methods=["GET"],
            ),
            Route(
                f"{BASE_PATH}/MessageDefinition/{{name}}",
                self.message_definition,
                methods=["GET"],
            ),
            Route(f"{BASE_PATH}/metadata", self.metadata, methods=["GET"]),
            Route(BASE_PATH, self.bundle, methods=["POST"]),
            Route(f"{BASE_PATH}/", self.bundle, methods=["POST"]),
            Route(BASE_PATH, self.system_search, methods=["GET"]),
            Route(f"{BASE_PATH}/", self.system_search, methods=["GET"]),
            Route(f"{BASE_PATH}/_search", self.system_search, methods=["POST"]),
            Route(f"{BASE_PATH}/$graphql", self.query, methods=["GET", "POST"]),
            Route(f"{BASE_PATH}/$process-message", self.message, methods=["POST"]),
            Route(f"{BASE_PATH}/_history", self.system_history, methods=["GET"]),
            self.route(every, "GET", "search-type", self.search),
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
        """Return the routes of the operations."""
        routes = []
        for operation in [o for o in OPERATIONS if o.code != "export"]:
            for kind in [k for k in TYPES.values() if operation in operations_of(k)]:
                handler = partial(self.operations.call, operation)
                if operation.on_type:
                    path = f"{BASE_PATH}/{kind.name}/{operation.path}"
                    routes.append(self.operation_route(path, operation, kind, handler))
                if operation.on_instance:
                    path = f"{BASE_PATH}/{kind.name}/{{id}}/{operation.path}"
                    routes.append(self.operation_route(path, operation, kind, handler))
        return routes

    def export_routes(self) -> list[Route]:
        """Return the routes of exports: where they begin, and where they are."""
        exports = self.exports
        places = ((None, ""), ("Patient", "Patient/"), ("Group", "Group/{id}/"))
        routes = [
            self.export_route(
                f"{place}$export", method, "export", partial(exports.begin, level=level)
            )
            for level, place in places
            for method in ("GET", "POST")
        ]
        one = "$export/{export}"
        return [
            *routes,
            self.export_route(one, "GET", "export-status", exports.status),
            self.export_route(one, "DELETE", "export-delete", exports.forget),
            self.export_route(f"{one}/{{name}}", "GET", "export-file", exports.file),
        ]

    def export_route(
        self,
        path: str,
        method: str,
        interaction: str,
        handler: Callable[[Request, Client], Awaitable[Response]],
    ) -> Route:
        """Return a route of exports; each type that is exported asks for its own scope."""

        async def endpoint(request: Request) -> Response:
            return await self.gate.admit(
                request, interaction, (), lambda client: handler(request, client)
            )

        return Route(f"{BASE_PATH}/{path}", endpoint, methods=[method])

    def operation_route(
        self, path: str, operation: Operation, kind: ResourceType, handler: _Handler
    ) -> Route:
        """Return the route of an operation on one type."""
        needs = [(kind.name, OPERATION_SCOPES[operation.name])]
        if operation.name in ("raw", "forwarded"):
            needs.append(("Binary", "r"))

        async def endpoint(request: Request) -> Response:
            return await self.gate.admit(
                request, operation.name, needs, lambda client: handler(request, kind, client)
            )

        return Route(path, endpoint, methods=[operation.method])

    async def operation_definition(self, request: Request) -> Response:
        """Publish the definition of an operation; to anybody."""
        for operation in OPERATIONS:
            if operation.name == request.path_params["name"]:
                return resource_response(operation_definition(operation, self.terms))
        raise not_found()

    async def search_definition(self, request: Request) -> Response:
        """Publish the definition of a search parameter of ours; to anybody."""
        found = search_parameter(request.path_params["name"], self.terms)
        if found is None:
            raise not_found()
        return resource_response(found)

    async def message_definition(self, request: Request) -> Response:
        """Publish the definition of a message that is taken; to anybody."""
        found = message_definition(request.path_params["name"], self.terms)
        if found is None:
            raise not_found()
        return resource_response(found)

    def route(self, path: str, method: str, interaction: str, handler: _Handler) -> Route:
        """Return a route that first checks who calls and what the type can do."""

        async def endpoint(request: Request) -> Response:
            kind = TYPES.get(request.path_params["type"])
            needs = [(kind.name, INTERACTIONS[interaction])] if kind is not None else []

            async def serve(client: Client) -> Response:
                if kind is None:
                    issue = Issue("not-supported", "This resource type is not served here.")
                    raise FhirError(Reason.RESOURCE_NOT_FOUND, [issue])
                if interaction not in kind.interactions:
                    issue = Issue("not-supported", f"{kind.name} has no {interaction} here.")
                    raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=405)
                return await handler(request, kind, client)

            return await self.gate.admit(request, interaction, needs, serve)

        return Route(path, endpoint, methods=[method])

    async def metadata(self, request: Request) -> Response:
        """Say what the API can do; to anybody."""
        return resource_response(
            capability_statement(
                base_url=self.base_url,
                software=self.software,
                versioned_update=self.require_if_match,
                now=self.clock(),
                terms=self.terms,
            )
        )

    async def bundle(self, request: Request) -> Response:
        """Take a batch or a transaction."""
        return await self.gate.admit(
            request, "bundle", (), lambda client: self.bundles.post(request, client)
        )

    async def query(self, request: Request) -> Response:
        """Answer GraphQL."""
        return await self.gate.admit(
            request, "graphql", (), lambda client: self.graphql.serve(request, client)
        )

    async def message(self, request: Request) -> Response:
        """Process a message."""
        return await self.gate.admit(
            request,
            "process-message",
            [("Communication", OPERATION_SCOPES["process-message"])],
            lambda client: self.messages.process(request, client),
        )

    async def system_history(self, request: Request) -> Response:
        """Show the versions of everything."""
        given = request.query_params.getlist(TYPE)
        named = sorted({name for value in given for name in value.split(",")} & TYPES.keys())
        needs = [(name, "s") for name in named or ["*"]]  # every type stands in it
        return await self.gate.admit(
            request,
            "history-system",
            needs,
            lambda client: self.resources.history(request, None, client),
        )

    async def system_search(self, request: Request) -> Response:
        """Search several types; each asks for its own scope."""
        return await self.gate.admit(
            request,
            "search-system",
            (),
            lambda client: self.searches.search_types(request, client),
        )

    async def search(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Search; AuditEvents are the gateway's own trail."""
        if kind.name == "AuditEvent" and self.audit is not None:
            return await self.audit.search(request, kind, client)
        return await self.searches.search(request, kind, client)

    async def create(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Create a resource; a Binary comes as it is."""
        if kind.name == "Binary":
            return await self.binaries.create(request, client)
        return await self.resources.create(request, kind, client)

    async def read(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Read a resource; a Binary goes as it is."""
        if kind.name == "Binary":
            return await self.binaries.read(request, client)
        if kind.name == "AuditEvent" and self.audit is not None:
            return await self.audit.read(request, kind, client)
        return await self.resources.read(request, kind, client)

    async def delete(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Delete a resource; a Binary only while nothing refers to it."""
        if kind.name == "Binary":
            return await self.binaries.delete(request, client)
        return await self.resources.delete(request, kind, client)
