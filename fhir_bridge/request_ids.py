"""A name for each request, so that a client's question finds the line in the log.

Talks ASGI. A client may give a name of its own in `X-Request-Id`; the answer has it, and so has
the log where the answer is an error of ours. What is no plain short word is not taken.

Standards:
    fhir.md section 4.1 (request id)
"""

from __future__ import annotations

import re
from typing import Final
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["RequestIds"]

_HEADER: Final = "x-request-id"
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

_log = structlog.get_logger(__name__)


class RequestIds:
    """Stands before everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_HEADER, "")
        name = given if _PLAIN.fullmatch(given) else uuid4().hex

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[_HEADER] = name
                if message["status"] >= 500:
                    _log.error("request failed", request=name, status=message["status"])
            await send(message)

        await self._app(scope, receive, named)
