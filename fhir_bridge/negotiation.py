"""JSON or XML, as the client asks: a middleware, so that the API itself speaks JSON only.

Talks ASGI. XML is made and read in a thread, and read only when the handler asks for the body,
which is after the gate. A Binary is FHIR only where that is asked for by name: its own type may
be XML.

Standards:
    FHIR    R4 http.html 3.1.0.1.11 (content types, `_format`, `_pretty`), 3.1.0.1.12 (fhirVersion)
    RFC9110 section 12.5.1 (Accept)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from certs.errors import Reason
from fhir_bridge.exchange import FHIR_JSON, JSON_TYPES, error_response, read_body
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.resources import decimal_text, dump, load_any
from fhir_bridge.xml_format import to_xml
from fhir_bridge.xml_reader import from_xml

__all__ = ["FHIR_XML", "Negotiation"]

FHIR_XML: Final = "application/fhir+xml"
XML_TYPES: Final = frozenset({FHIR_XML, "application/xml", "text/xml", "application/xml+fhir"})
_SHORT: Final = {"json": FHIR_JSON, "xml": FHIR_XML}
_ANY: Final = frozenset({"*/*", "application/*"})
_VERSION: Final = "4.0"

_Render = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request speaks: `xml_body` is to be read as XML; `render` makes the answer, if any."""

    xml_body: bool
    render: _Render | None
    media_type: str


class Negotiation:
    """Stands before the API and turns bodies over."""

    def __init__(self, app: ASGIApp, *, base_path: str, limit_octets: int) -> None:
        self._app = app
        self._base_path = base_path
        self._limit_octets = limit_octets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(self._base_path):
            await self._app(scope, receive, send)
            return
        try:
            wish = _wish(scope, self._base_path)
        except FhirError as error:
            await error_response(error)(scope, receive, send)
            return
        if wish.xml_body or wish.render:
            scope = {**scope, "headers": list(scope["headers"])}
            headers = MutableHeaders(scope=scope)
            if wish.xml_body:
                headers["content-type"] = FHIR_JSON
                receive = _Body(scope, receive, self._limit_octets).receive
            if wish.render:
                headers["accept"] = FHIR_JSON
                send = _Answer(send, wish.render, wish.media_type).send
        await self._app(scope, receive, send)


class _Body:
    """The body of a request, read and turned over when it is asked for."""

    def __init__(self, scope: Scope, receive: Receive, limit_octets: int) -> None:
        self._request = Request(scope, receive)
        self._receive = receive
        self._limit_octets = limit_octets
        self._done = False

    async def receive(self) -> Message:
        if self._done:
            return await self._receive()
        self._done = True
        text = await read_body(self._request, self._limit_octets)
        body = await asyncio.to_thread(lambda: dump(from_xml(text)))
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """An answer that is gathered where it is FHIR in JSON, and sent turned over."""

    def __init__(self, send: Send, render: _Render, media_type: str) -> None:
        self._send = send
        self._render = render
        self._media_type = media_type
        self._start: MutableMapping[str, Any] | None = None
        self._chunks: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if kind.startswith(FHIR_JSON):
                self._start = message
                return
        elif self._start is not None:
            self._chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._finish(self._start)
            return
        await self._send(message)

    async def _finish(self, start: MutableMapping[str, Any]) -> None:
        body = b"".join(self._chunks)
        try:
            body = await asyncio.to_thread(self._render, body) if body else body
            headers = MutableHeaders(raw=list(start["headers"]))
            headers["content-type"] = f"{self._media_type}; charset=utf-8"
        except FhirError as error:
            refused = error_response(error)
            start = {**start, "status": refused.status_code}
            body, headers = bytes(refused.body), refused.headers
        headers["content-length"] = str(len(body))
        await self._send({**start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})


def _wish(scope: Scope, base_path: str) -> _Wish:
    """Return what the request speaks.

    Raises:
        FhirError: 406, nothing that it takes is spoken here; 415, another version of FHIR.
    """
    headers = Headers(scope=scope)
    query = parse_qs(scope["query_string"].decode("latin-1"))
    # Binary, `$raw` and what is exported may be of any type: only FHIR's own names mean FHIR.
    path = scope["path"].removeprefix(base_path)
    opaque = path.startswith("/Binary") or path.endswith("/$raw") or "/$export" in path
    body_type, version = _media(headers.get("content-type", ""))
    if version != _VERSION:
        text = "Only FHIR version 4.0 is spoken here."
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue("not-supported", text)], status=415)
    xml_types = {FHIR_XML} if opaque else XML_TYPES
    xml_body = body_type in xml_types and scope["method"] in ("POST", "PUT")
    wanted = _wanted(query.get("_format", [""])[0], headers.get("accept", ""), opaque=opaque)
    if wanted in xml_types:
        return _Wish(xml_body, _as_xml, FHIR_XML)
    pretty = query.get("_pretty", ["false"])[0] == "true" and not opaque
    return _Wish(xml_body, _as_pretty if pretty else None, FHIR_JSON)


def _wanted(format_: str, accept: str, *, opaque: bool) -> str:
    """Return the media type that is wanted most of those that are spoken here."""
    asked = _SHORT.get(format_, format_.replace(" ", "+")) or accept
    ranges = [_media(item) for item in asked.lower().split(",") if item.strip()]
    if not ranges:
        return FHIR_JSON
    weights = [_weight(item) for item in asked.lower().split(",") if item.strip()]
    spoken = JSON_TYPES | XML_TYPES | _ANY
    for _, (kind, version) in sorted(zip(weights, ranges, strict=True), key=lambda pair: -pair[0]):
        if kind in spoken and version == _VERSION:
            return FHIR_JSON if kind in _ANY else kind
    if opaque:
        return FHIR_JSON
    text = "Answers are application/fhir+json or application/fhir+xml, in FHIR version 4.0."
    raise FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue("not-supported", text)], status=406)


def _media(text: str) -> tuple[str, str]:
    """Return a media type and the version of FHIR it names; ours where it names none."""
    kind, *parameters = text.lower().split(";")
    named = [p.partition("=")[2].strip(' "') for p in parameters if "fhirversion=" in p]
    version = named[0].removesuffix(".1") if named else _VERSION
    return kind.strip(), version


def _weight(text: str) -> float:
    for parameter in text.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _as_xml(body: bytes) -> bytes:
    return to_xml(load_any(body))


def _as_pretty(body: bytes) -> bytes:
    return orjson.dumps(load_any(body), default=decimal_text, option=orjson.OPT_INDENT_2)
