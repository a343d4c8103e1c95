"""The FHIR API: put together from its parts; every error becomes an OperationOutcome.

Talks HTTP. `routes` says what is served where.

Standards:
    FHIR    R4 http.html
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.access import AccessLog, Trail
from fhir_bridge.audit_api import AuditApi
from fhir_bridge.binary_api import BinaryApi
from fhir_bridge.browsers import cross_origin
from fhir_bridge.bundle_api import BundleApi
from fhir_bridge.exchange import error_response
from fhir_bridge.export_api import ExportApi
from fhir_bridge.gate import Gate
from fhir_bridge.graphql_api import GraphqlApi
from fhir_bridge.message_api import MessageApi
from fhir_bridge.negotiation import Negotiation
from fhir_bridge.operations import OperationApi
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies, Deliveries, Outbox, Preflight
from fhir_bridge.rates import Rates
from fhir_bridge.request_ids import RequestIds
from fhir_bridge.resource_api import ResourceApi
from fhir_bridge.routes import BASE_PATH, Routes
from fhir_bridge.search_api import SearchApi
from fhir_bridge.sending import Dispatcher
from fhir_bridge.sockets import SOCKET_PATH, Sockets
from fhir_bridge.subscription_api import SubscriptionApi
from fhir_bridge.terms import DEFAULT_CANONICAL, Terms
from fhir_bridge.token_api import TokenApi
from fhir_bridge.writing import Writer

__all__ = ["create_app"]

RESOURCE_OCTETS: Final = 40 * 1024 * 1024  # a 25 MB attachment in base64, and room
BINARY_OCTETS: Final = 50 * 1024 * 1024
REQUESTS_PER_MINUTE: Final = 6000


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
    trail: Trail | None = None,
    log: AccessLog | None = None,
    requests_per_minute: int = REQUESTS_PER_MINUTE,
    origins: Collection[str] = (),
    require_if_match: bool = False,
    envelopes: bool = False,
    canonical: str = DEFAULT_CANONICAL,
    software: str = "",
    resource_octets: int = RESOURCE_OCTETS,
    binary_octets: int = BINARY_OCTETS,
) -> Starlette:
    """Return the application. `base_url` is the public URL of `BASE_PATH`, without a final "/".

    `software` is our version, for the CapabilityStatement. `decision_wait_s`: how long a create
    that sends waits for the decision on each recipient. `hook_hosts`: where subscriptions may
    send (see `endpoints.endpoint_of`); nowhere by default. `deliveries` runs the `Notifier`'s.
    `log` records each access, and `trail` is what administrators read. `origins` are the web
    pages that may call from a browser, as https://app.example. With `require_if_match` nothing is
    changed or deleted without saying which version. `envelopes`: what mail cannot carry goes along.
    """
    shared = _Shared(database, bodies, outbox, clock, base_url, Terms(canonical))
    dispatcher = shared.dispatcher(envelopes)
    writer = shared.writer(dispatcher, decision_wait_s, hook_hosts, require_if_match)
    binaries = shared.binaries(binary_octets)
    routes = Routes(
        gate=Gate(database=database, clock=clock, rates=Rates(requests_per_minute), log=log),
        tokens=TokenApi(database=database, clock=clock, base_url=base_url, base_path=BASE_PATH),
        audit=AuditApi(trail=trail, base_url=base_url, terms=shared.terms) if trail else None,
        clock=clock,
        base_url=base_url,
        software=software,
        require_if_match=require_if_match,
        terms=shared.terms,
        resources=shared.resources(writer, resource_octets),
        binaries=binaries,
        operations=shared.operations(
            writer, dispatcher, binaries, preflight, deliveries, resource_octets
        ),
        graphql=GraphqlApi(database=database, clock=clock),
        exports=ExportApi(database=database, clock=clock, base_url=base_url),
        messages=shared.messages(writer, resource_octets),
        bundles=shared.bundles(writer, resource_octets, log),
        searches=SearchApi(database=database, clock=clock, base_url=base_url),
    )
    return Starlette(
        routes=[*routes.all(), shared.websockets()],
        middleware=_before(origins, resource_octets),
        exception_handlers=dict.fromkeys((DirectError, HTTPException, Exception), _failed),
    )


def _before(origins: Collection[str], limit_octets: int) -> list[Middleware]:
    return [
        Middleware(RequestIds),
        *cross_origin(origins),
        Middleware(Negotiation, base_path=BASE_PATH, limit_octets=limit_octets),
    ]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What every part of the application is handed, and the parts that are made of it."""

    database: Database
    bodies: Bodies
    outbox: Outbox
    clock: Clock
    base_url: str
    terms: Terms

    def dispatcher(self, envelopes: bool) -> Dispatcher:
        return Dispatcher(
            database=self.database,
            bodies=self.bodies,
            outbox=self.outbox,
            clock=self.clock,
            base_url=self.base_url,
            terms=self.terms,
            envelopes=envelopes,
        )

    def writer(
        self,
        dispatcher: Dispatcher,
        decision_wait_s: float,
        hook_hosts: Collection[str],
        require_if_match: bool,
    ) -> Writer:
        return Writer(
            database=self.database,
            bodies=self.bodies,
            outbox=self.outbox,
            dispatcher=dispatcher,
            clock=self.clock,
            decision_wait_s=decision_wait_s,
            terms=self.terms,
            hook_hosts=hook_hosts,
            require_if_match=require_if_match,
        )

    def resources(self, writer: Writer, limit_octets: int) -> ResourceApi:
        return ResourceApi(
            database=self.database,
            writer=writer,
            base_url=self.base_url,
            limit_octets=limit_octets,
        )

    def websockets(self) -> WebSocketRoute:
        sockets = Sockets(database=self.database, clock=self.clock, base_url=self.base_url)
        return WebSocketRoute(SOCKET_PATH, sockets.serve)

    def binaries(self, limit_octets: int) -> BinaryApi:
        return BinaryApi(
            database=self.database,
            bodies=self.bodies,
            clock=self.clock,
            base_url=self.base_url,
            limit_octets=limit_octets,
        )

    def bundles(self, writer: Writer, limit_octets: int, log: AccessLog | None) -> BundleApi:
        return BundleApi(
            database=self.database,
            writer=writer,
            clock=self.clock,
            base_path=BASE_PATH,
            base_url=self.base_url,
            limit_octets=limit_octets,
            log=log,
        )

    def messages(self, writer: Writer, limit_octets: int) -> MessageApi:
        return MessageApi(
            database=self.database,
            writer=writer,
            clock=self.clock,
            base_url=self.base_url,
            limit_octets=limit_octets,
            terms=self.terms,
        )

    def operations(
        self,
        writer: Writer,
        dispatcher: Dispatcher,
        binaries: BinaryApi,
        preflight: Preflight | None,
        deliveries: Deliveries | None,
        limit_octets: int,
    ) -> OperationApi:
        return OperationApi(
            database=self.database,
            writer=writer,
            dispatcher=dispatcher,
            preflight=preflight,
            binaries=binaries,
            subscriptions=SubscriptionApi(
                database=self.database,
                clock=self.clock,
                base_url=self.base_url,
                terms=self.terms,
                deliveries=deliveries,
            ),
            clock=self.clock,
            base_url=self.base_url,
            limit_octets=limit_octets,
            terms=self.terms,
        )


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
