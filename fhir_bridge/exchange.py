"""HTTP as FHIR uses it: request bodies, preferences, responses.

Talks HTTP: it reads the request's body; the rest is pure.

Standards:
    FHIR    R4 http.html 3.1.0.1.5 (Prefer), 3.1.0.1.3 (ETag, Last-Modified), 3.1.0.1.11 (formats)
    RFC9110 sections 8.8 (validators), 15.5
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from certs.errors import DirectError, Reason
from fhir_bridge.outcome import FhirError, Issue, issue_of, operation_outcome
from fhir_bridge.resources import dump
from fhir_bridge.store import Stored

__all__ = [
    "FHIR_JSON",
    "body_of",
    "error_response",
    "form_of",
    "prefers",
    "read_body",
    "resource_response",
    "stored_response",
]

FHIR_JSON: Final = "application/fhir+json"
FORM: Final = "application/x-www-form-urlencoded"
FORM_OCTETS_MAX: Final = 64 * 1024
JSON_TYPES: Final = frozenset({FHIR_JSON, "application/json", "text/json", "application/json+fhir"})


async def body_of(
    request: Request, limit_octets: int, types: Collection[str] = JSON_TYPES
) -> bytes:
    """Return the body, which is of one of `types`.

    Raises:
        FhirError: 415, not JSON by its type; MESSAGE_TOO_BIG.
    """
    kind = request.headers.get("content-type", FHIR_JSON).partition(";")[0].strip().lower()
    if kind not in types:
        issue = Issue("not-supported", "The body is to be application/fhir+json.")
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=415)
    return await read_body(request, limit_octets)


async def form_of(request: Request, *, only_body: bool = False) -> list[tuple[str, str]]:
    """Return the parameters of a POSTed search: those of the form, then those of the URL.

    `only_body`: what stands in a URL, and so in logs, is no parameter.

    Raises:
        FhirError: 415, not a form; MESSAGE_TOO_BIG.
    """
    kind = request.headers.get("content-type", FORM).partition(";")[0].strip().lower()
    if kind != FORM:
        issue = Issue("not-supported", f"The body of a search is {FORM}.")
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=415)
    body = await read_body(request, FORM_OCTETS_MAX)
    pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    return pairs if only_body else [*pairs, *request.query_params.multi_items()]


def prefers(request: Request, name: str) -> str | None:
    """Return the value of one preference, such as `return`; None where it is not there.

    FHIR: a preference that is not understood is passed over.
    """
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        key, _, value = preference.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"')
    return None


def resource_response(
    resource: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return `resource` as JSON."""
    return _json(dump(resource), status, headers or {})


def stored_response(
    request: Request,
    stored: Stored,
    *,
    status: int = 200,
    location: str | None = None,
    issues: Sequence[Issue] = (),
    readable: bool = True,
) -> Response:
    """Return a stored resource with its validators; for a write, as `Prefer: return` asks.

    Who may write but not read gets nothing of it.
    """
    headers = {
        "etag": f'W/"{stored.version}"',
        "last-modified": _http_date(stored.last_updated),
    }
    if location is not None:
        headers["location"] = location
        wanted = prefers(request, "return")
        if wanted == "minimal":
            return Response(status_code=status, headers=headers)
        if wanted == "OperationOutcome":
            told = issues or [Issue("informational", "It is stored.", severity="information")]
            return _json(dump(operation_outcome(told)), status, headers)
    if not readable:
        return Response(status_code=status, headers=headers)
    return _json(stored.body.encode(), status, headers)


def error_response(error: DirectError) -> Response:
    """Return the OperationOutcome of `error` with its status."""
    status, issues = issue_of(error)
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"  # RFC9110 11.6.1
    if status in (429, 503):
        told = error if isinstance(error, FhirError) else FhirError
        headers["retry-after"] = str(told.retry_after_s)
    return _json(dump(operation_outcome(issues)), status, headers)


def _http_date(moment: datetime) -> str:
    # RFC9110 5.6.7: dates are in UTC.
    return format_datetime(moment, usegmt=True)


def _json(body: bytes, status: int, headers: Mapping[str, str]) -> Response:
    # Health information is not to stay in a cache on the way.
    fixed = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(body, status, {**fixed, **headers}, f"{FHIR_JSON}; charset=utf-8")


async def read_body(request: Request, limit_octets: int) -> bytes:
    """Return the body, of whatever type.

    Raises:
        DirectError: MESSAGE_TOO_BIG; MESSAGE_MALFORMED, it does not end.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:18]) > limit_octets:
        raise DirectError(Reason.MESSAGE_TOO_BIG, "Content-Length is over the limit")
    chunks = bytearray()
    try:
        async for chunk in request.stream():
            chunks += chunk
            if len(chunks) > limit_octets:
                raise DirectError(Reason.MESSAGE_TOO_BIG, "the body is over the limit")
    except ClientDisconnect:
        raise DirectError(Reason.MESSAGE_MALFORMED, "the client went away") from None
    return bytes(chunks)
