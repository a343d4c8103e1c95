"""Who calls: the bearer token of a request.

Talks to the database.

Standards:
    RFC6750 section 2.1
"""

from __future__ import annotations

from starlette.requests import Request

from certs.errors import DirectError, Reason
from certs.ports import Database
from fhir_bridge.clients import Client, authenticate

__all__ = ["caller"]


async def caller(request: Request, database: Database) -> Client:
    """Return the client that sent `request`.

    Raises:
        DirectError: AUTHENTICATION_REQUIRED, AUTHENTICATION_FAILED.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise DirectError(Reason.AUTHENTICATION_REQUIRED, "no bearer token")
    return await database.read(lambda c: authenticate(c, token.strip()))
