"""Who calls: the bearer token of a request.

Talks to the database.

Standards:
    RFC6750 section 2.1
"""

from __future__ import annotations

from datetime import datetime

from starlette.requests import HTTPConnection

from certs.errors import DirectError, Reason
from certs.ports import Database
from fhir_bridge.clients import Client, authenticate

__all__ = ["caller"]


async def caller(request: HTTPConnection, database: Database, now: datetime) -> Client:
    """Return the client that sent `request`, whose token is in force at `now`.

    Raises:
        DirectError: AUTHENTICATION_REQUIRED, AUTHENTICATION_FAILED.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise DirectError(Reason.AUTHENTICATION_REQUIRED, "no bearer token")
    return await database.read(lambda c: authenticate(c, token.strip(), now))
