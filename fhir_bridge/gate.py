"""The gate before every handler: who calls, how often, with which scope; and that it was recorded.

Talks to the database, and to the access log.

Standards:
    SMART   App Launch 2.2.0, scopes; RFC6750 section 3.1; RFC6585 section 4 (429)
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.access import Access, AccessLog
from fhir_bridge.auth import caller
from fhir_bridge.clients import Client
from fhir_bridge.outcome import FhirError, Issue, issue_of
from fhir_bridge.rates import Rates

__all__ = ["Gate", "throttled"]

_TYPE: Final = re.compile(r"[A-Z][A-Za-z]{2,63}")
# A file of an export is known by its type.
_FILE: Final = re.compile(r"\$export/[^/]*/([A-Z][A-Za-z]{2,63})\.ndjson")
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# FHIR restful-interactions that change nothing; everything else is recorded before its answer.
_READING: Final = frozenset(
    {"read", "vread", "search-type", "search-system", "graphql", "export-status"}
    | {"history-instance", "history-type", "history-system"}
)


class Gate:
    """Lets requests in. `log` None: nothing is recorded."""

    def __init__(
        self, *, database: Database, clock: Clock, rates: Rates, log: AccessLog | None
    ) -> None:
        self._database = database
        self._clock = clock
        self._rates = rates
        self._log = log

    async def admit(
        self,
        request: Request,
        interaction: str,
        needs: Iterable[tuple[str, str]],
        serve: Callable[[Client], Awaitable[Response]],
    ) -> Response:
        """Return what `serve` answers; `needs` are resource types with letters of "cruds".

        Raises:
            DirectError: AUTHENTICATION_REQUIRED, AUTHENTICATION_FAILED, THROTTLED,
                ACCESS_FORBIDDEN, INTERNAL (the access cannot be recorded); what `serve` raises.
        """
        now = self._clock()
        client = await caller(request, self._database, now)
        wait_s = self._rates.wait_s(str(client.id), now)
        if wait_s:
            raise throttled(wait_s)
        try:
            for kind, letters in needs:
                client.require(kind, letters)
            response = await serve(client)
        except DirectError as error:
            await self._record(request, interaction, client, issue_of(error)[0])
            raise
        created = response.headers.get("location")
        await self._record(request, interaction, client, response.status_code, created)
        return response

    async def _record(
        self,
        request: Request,
        interaction: str,
        client: Client,
        status: int,
        created: str | None = None,
    ) -> None:
        if self._log is None:
            return
        target = _target(created or request.url.path)
        access = Access(self._clock(), client.name, interaction, target, status)
        if interaction in _READING or status >= 400:
            self._log.gather(access)
        else:
            await self._log.record(access)


def _target(path: str) -> str:
    """Return the type and the id in a path or URL, and nothing else of it.

    Never the query, nor an id that is none of ours: a name or an address may stand there.
    """
    relative = path.partition("/fhir/R4/")[2]
    if file := _FILE.fullmatch(relative):
        return file[1]
    kind, identity = [*relative.split("/"), ""][:2]
    if not _TYPE.fullmatch(kind):
        return "/"
    return f"{kind}/{identity}" if _ID.fullmatch(identity) else kind


def throttled(wait_s: float) -> FhirError:
    """Return the error that says to come again later."""
    issue = Issue("throttled", "Too many requests; try again later.")
    error = FhirError(Reason.THROTTLED, [issue])
    error.retry_after_s = math.ceil(wait_s)
    return error
