"""The operations of a Subscription: `$get-ws-binding-token` and `$resend`.

Talks to the database.

Standards:
    BACKPORT Subscriptions R5 Backport 1.1.0: $get-ws-binding-token
    fhir.md sections 1.8 and 4.4
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from certs.errors import Reason
from certs.ports import Clock, Database
from fhir_bridge import matching
from fhir_bridge.clients import Client
from fhir_bridge.exchange import resource_response, stored_response
from fhir_bridge.indexing import local_id
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Deliveries
from fhir_bridge.resource_api import identity_of
from fhir_bridge.socket_tokens import LIFETIME, issue_token
from fhir_bridge.sockets import SOCKET_PATH
from fhir_bridge.store import Stored, read, replace
from fhir_bridge.subscription_rules import require_open
from fhir_bridge.subscriptions import settled
from fhir_bridge.terms import JSON, Terms
from fhir_bridge.trust import instant
from fhir_bridge.write_rules import not_found

__all__ = ["SubscriptionApi"]


class SubscriptionApi:
    """Answers the operations. `deliveries` None: hooks are not called from here."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        base_url: str,
        terms: Terms,
        deliveries: Deliveries | None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._terms = terms
        self._deliveries = deliveries
        origin = base_url.removesuffix("/fhir/R4")
        self._socket_url = origin.replace("http", "ws", 1) + SOCKET_PATH

    async def binding_token(self, request: Request, client: Client) -> Response:
        """Return a token that binds a websocket to the subscription, and where to connect."""
        identity, now = identity_of(request), self._clock()

        def work(connection: sa.Connection) -> str:
            resource = _mine(connection, identity, client).resource()
            # What the socket will be told is what this token could find and read itself.
            require_open(resource, client)
            if resource["channel"]["type"] != "websocket":
                raise _refused("Subscription.channel.type", "Its channel is no websocket.")
            if not matching.is_served(resource, now):
                raise _refused("Subscription.status", "It is switched off, or has ended.")
            return issue_token(connection, identity, client, now)

        token = await self._database.write(work)
        parameters: list[JSON] = [
            {"name": "token", "valueString": token},
            {"name": "expiration", "valueDateTime": instant(now + LIFETIME)},
            {"name": "subscription", "valueString": str(identity)},
            {"name": "websocket-url", "valueUrl": self._socket_url},
        ]
        return resource_response({"resourceType": "Parameters", "parameter": parameters})

    async def resend(self, request: Request, client: Client) -> Response:
        """Tell the subscriber of `resource` again; without one, request the subscription anew."""
        identity = identity_of(request)
        reference = request.query_params.get("resource")
        about = local_id(reference) if reference is not None else None
        if reference is not None and about is None:
            issue = Issue("value", "The resource is a reference such as Communication/123.")
            raise FhirError(Reason.RESOURCE_INVALID, [issue])
        stored = await self._database.write(
            lambda c: self._again(c, _mine(c, identity, client), about, client)
        )
        if self._deliveries is not None:
            self._deliveries.wake()
        return stored_response(request, stored)

    def _again(
        self,
        connection: sa.Connection,
        stored: Stored,
        about: UUID | None,
        client: Client,
    ) -> Stored:
        now = self._clock()  # not before its turn to write: websockets look back for a while only
        resource = stored.resource()
        # Whether it is told again says whether the resource matches the criteria.
        require_open(resource, client)
        if about is None:
            wanted = {**resource, "status": "requested"}
            anew = settled(wanted, None)
            return replace(connection, stored, anew, now=now, terms=self._terms) or stored
        if not matching.is_served(resource, now):
            raise _refused("Subscription.status", "It is in error, switched off, or has ended.")
        if not matching.concerns(connection, stored, resource, about, now):
            raise _refused("Subscription.criteria", "The resource does not match the criteria.")
        told = matching.present(connection, about)
        matching.owe(connection, stored, resource, about, told.version if told else 1, now)
        if self._deliveries is not None and resource["channel"]["type"] != "websocket":
            self._deliveries.put(connection, stored.id, now)
        return stored


def _mine(connection: sa.Connection, identity: UUID, client: Client) -> Stored:
    stored = read(connection, "Subscription", identity, [client.own])
    if stored is None or stored.deleted:
        raise not_found()
    return stored


def _refused(expression: str, text: str) -> FhirError:
    return FhirError(Reason.RESOURCE_CONFLICT, [Issue("business-rule", text, expression)])
