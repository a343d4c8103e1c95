"""Web pages that may call the API from a browser (CORS).

Pure: a middleware of Starlette's, set up. Only the pages of listed origins get an answer that the
browser shows them; a token goes in a header, and cookies are not used.

Standards:
    FETCH   https://fetch.spec.whatwg.org, CORS protocol
    fhir.md section 4.1
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

__all__ = ["cross_origin"]

KNOWN_FOR_S: Final = 600
_REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "If-Match",
    "If-None-Match",
    "If-None-Exist",
    "Prefer",
    "Range",
    "X-Medplum",
    "X-Request-Id",
)
_RESPONSE_HEADERS: Final = (
    "ETag",
    "Location",
    "Last-Modified",
    "Retry-After",
    "Content-Disposition",
    "Content-Location",
    "Content-Range",
    "Expires",
    "X-Progress",
    "X-Request-Id",
)


def cross_origin(origins: Collection[str]) -> list[Middleware]:
    """Return what lets the pages of `origins` call, such as https://app.example; nobody else's."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=list(_REQUEST_HEADERS),
            expose_headers=list(_RESPONSE_HEADERS),
            max_age=KNOWN_FOR_S,
        )
    ]
