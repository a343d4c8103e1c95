"""The token endpoint, and where SMART clients find it.

Talks HTTP and to the database. A client proves who it is by a signed assertion, or, at small
sites, by the token that it was registered with as its secret; it gets a token for five minutes.

Standards:
    SMART   App Launch 2.2.0: backend-services, client-confidential-asymmetric, conformance
    RFC6749 sections 2.3.1 (client secret), 4.4 (client credentials), 5.1, 5.2; RFC7523 section 2.2
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_plus
from uuid import UUID

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.assertion import ALGORITHMS, Assertion, claimed_client, verify
from fhir_bridge.backend_clients import LIFETIME, issue_token, keys_of, spend
from fhir_bridge.clients import Client, by_secret, find_client
from fhir_bridge.exchange import form_of
from fhir_bridge.outcome import issue_of
from fhir_bridge.rates import Rates
from fhir_bridge.scopes import Scopes, parse_scopes

__all__ = ["TokenApi"]

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Ours: signatures cost; whoever asks for more tokens than that has lost its way.
REQUESTS_PER_MINUTE: Final = 600


class TokenApi:
    """Issues tokens. `base_url` is that of the FHIR API."""

    def __init__(self, *, database: Database, clock: Clock, base_url: str, base_path: str) -> None:
        self._database = database
        self._clock = clock
        self._base_path = base_path
        origin = base_url.removesuffix(base_path)
        self.token_url = f"{origin}/oauth2/token"
        # Clients of other servers say the token URL; some say the FHIR base.
        self._audience = (self.token_url, base_url, f"{base_url}/")
        self._rates = Rates(REQUESTS_PER_MINUTE)

    def routes(self) -> list[Route]:
        """Return the routes: discovery under the FHIR base, and the endpoint."""
        discovery = f"{self._base_path}/.well-known/smart-configuration"
        return [
            Route(discovery, self.configuration, methods=["GET"]),
            Route("/oauth2/token", self.token, methods=["POST"]),
        ]

    async def configuration(self, _: Request) -> Response:
        """Say where tokens are had and how; to anybody."""
        return _json(
            {
                "issuer": self.token_url.removesuffix("/oauth2/token"),
                "token_endpoint": self.token_url,
                "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": [
                    "private_key_jwt",
                    "client_secret_basic",
                    "client_secret_post",
                ],
                "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
                "scopes_supported": [
                    "system/*.cruds",
                    "system/*.rs",  # what exports everything
                    "system/*.read",
                    "system/Communication.cruds",
                    "system/Communication.rs",
                    "system/Communication.read",
                    "system/Communication.write",
                    "system/Binary.cr",
                    "system/Subscription.cruds",
                    "system/AuditEvent.rs",
                ],
                "capabilities": [
                    "client-confidential-asymmetric",
                    "client-confidential-symmetric",
                    "permission-v1",
                    "permission-v2",
                ],
            }
        )

    async def token(self, request: Request) -> Response:
        """Issue a token, or say in OAuth's words why not."""
        now = self._clock()
        peer = request.client.host if request.client else ""
        if self._rates.wait_s(peer, now):
            return _refused(429, "temporarily_unavailable", {"retry-after": "30"})
        try:
            form = dict(await form_of(request, only_body=True))
            if form.get("grant_type") != "client_credentials":
                return _refused(400, "unsupported_grant_type")
            client, assertion = await self._client(request, form)
            scopes = client.scopes
            if form.get("scope", "").strip():
                scopes = scopes.narrowed(parse_scopes(form["scope"], strict=False))
            if not scopes.grants:
                return _refused(400, "invalid_scope")
            return await self._issue(client, scopes, assertion)
        except DirectError as error:
            if error.reason is Reason.AUTHENTICATION_FAILED:
                return _refused(401, "invalid_client", {"www-authenticate": "Basic"})
            if error.reason is Reason.THROTTLED:
                return _refused(429, "temporarily_unavailable", {"retry-after": "300"})
            status = issue_of(error)[0]
            return _refused(status, "invalid_request" if status < 500 else "server_error")

    async def _client(
        self, request: Request, form: Mapping[str, str]
    ) -> tuple[Client, Assertion | None]:
        """Return who asks, and the assertion that proves it.

        Raises:
            DirectError: AUTHENTICATION_FAILED.
        """
        if form.get("client_assertion_type") == ASSERTION_TYPE:
            return await self._by_assertion(form.get("client_assertion", ""))
        name, secret = _basic(request.headers.get("authorization", ""))
        if not secret:
            name, secret = form.get("client_id", ""), form.get("client_secret", "")
        client = await self._database.read(lambda c: by_secret(c, secret))
        if name not in (client.name, str(client.id)):
            raise DirectError(Reason.AUTHENTICATION_FAILED, "the secret is another client's")
        return client, None

    async def _by_assertion(self, text: str) -> tuple[Client, Assertion]:
        claimed = claimed_client(text)

        def known(connection: sa.Connection) -> tuple[Client | None, str | None]:
            try:
                identity = UUID(claimed)
            except ValueError:
                return None, None
            return find_client(connection, identity), keys_of(connection, identity)

        client, jwks = await self._database.read(known)
        if client is None or jwks is None:
            raise DirectError(Reason.AUTHENTICATION_FAILED, "no such client")
        keys, now = jwks, self._clock()
        assertion = await asyncio.to_thread(
            lambda: verify(text, jwks=keys, client=claimed, audience=self._audience, now=now)
        )
        return client, assertion

    async def _issue(self, client: Client, scopes: Scopes, assertion: Assertion | None) -> Response:
        now = self._clock()

        def work(connection: sa.Connection) -> str:
            if assertion is not None:
                spend(connection, client, assertion, now)
            return issue_token(connection, client, scopes, now)

        return _json(
            {
                "access_token": await self._database.write(work),
                "token_type": "bearer",
                "expires_in": int(LIFETIME.total_seconds()),
                "scope": scopes.text,
            }
        )


def _basic(header: str) -> tuple[str, str]:
    """Return the client and its secret of HTTP Basic (RFC6749 2.3.1); empty where there is none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return unquote_plus(name), unquote_plus(secret)


def _json(content: Mapping[str, object], status: int = 200) -> Response:
    headers = {"cache-control": "no-store", "pragma": "no-cache"}  # RFC6749 5.1
    return Response(orjson.dumps(content), status, headers, "application/json")


def _refused(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    response = _json({"error": error}, status)
    response.headers.update(headers or {})
    return response
