"""`$process-message`: a message Bundle comes in, what it is about is sent, an answer goes out.

Talks to the database; sending goes through `writing.Writer`. To post a message is to tell that it
be sent (D10). That it was is written with the sending: posted again it is answered, and not sent.

Standards:
    FHIR    R4 messageheader-operation-process-message.html, messaging.html
    fhir.md section 4.1, decision D10
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.ports import Clock, Database
from fhir_bridge.clients import Client
from fhir_bridge.definitions import TYPES
from fhir_bridge.durable import made_durable
from fhir_bridge.exchange import body_of, resource_response
from fhir_bridge.message_answer import answer_of, issues_of
from fhir_bridge.message_bundle import Message, read_message
from fhir_bridge.message_focus import whole_communication
from fhir_bridge.message_rows import Processed, add_processed, find_processed
from fhir_bridge.outcome import FhirError, Issue, issue_of
from fhir_bridge.resources import load
from fhir_bridge.store import Stored, read
from fhir_bridge.terms import JSON, Terms
from fhir_bridge.write_rules import means_sending, not_found
from fhir_bridge.writing import Writer

__all__ = ["MessageApi"]

_COMMUNICATION: Final = TYPES["Communication"]
# Nothing is answered later, nor to another place: no URL of a client is ever fetched.
_NOT_HERE: Final = ("async", "response-url")


class MessageApi:
    """Processes messages."""

    def __init__(
        self,
        *,
        database: Database,
        writer: Writer,
        clock: Clock,
        base_url: str,
        limit_octets: int,
        terms: Terms,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._base_url = base_url
        self._limit_octets = limit_octets
        self._terms = terms

    async def process(self, request: Request, client: Client) -> Response:
        """Answer the message that is posted: as it is, or as `content` of a Parameters.

        Raises:
            FhirError: RESOURCE_INVALID, it is no message that could be answered;
                RESOURCE_UNSUPPORTED, it asks for an answer later or elsewhere; RESOURCE_CONFLICT,
                another message had its id.
        """
        _require_here(name for name, _ in request.query_params.multi_items())
        body = await body_of(request, self._limit_octets)
        message = await asyncio.to_thread(lambda: read_message(_content(load(body))))
        known = await self._processed(message, client)
        if known is not None:
            return await self._answered(message, known, client)
        try:
            await self._send(message, client)
        except DirectError as error:
            return await self._failed(message, error, client)
        sent = await self._processed(message, client)
        if sent is None:
            raise DirectError(Reason.INTERNAL, "a message was sent and is not known")
        return await self._answered(message, sent, client)

    async def _processed(self, message: Message, client: Client) -> Processed | None:
        """Return what is known of a message that was sent, and is durable."""
        known = await self._database.read(lambda c: find_processed(c, message, client))
        if known is not None:
            await made_durable(self._database)
        return known

    async def _send(self, message: Message, client: Client) -> None:
        resource = await asyncio.to_thread(
            lambda: whole_communication(message, base_url=self._base_url, terms=self._terms)
        )
        if not means_sending(_COMMUNICATION, resource):
            text = "This is no Direct message: it has no payload, or another medium."
            raise FhirError(
                Reason.RESOURCE_UNSUPPORTED, [Issue("business-rule", text, "Communication")]
            )
        now = self._clock()

        def beside(connection: sa.Connection, _: str, communication: UUID) -> None:
            add_processed(connection, message, client, communication, now)

        await self._writer.create(_COMMUNICATION, resource, client, beside=beside)

    async def _failed(self, message: Message, error: DirectError, client: Client) -> Response:
        """Answer what was not sent; nothing of it is kept, so that it may be sent anew."""
        # Another request may have been first with the very same message.
        known = await self._processed(message, client)
        if known is not None:
            return await self._answered(message, known, client)
        status, issues = issue_of(error)
        if error.reason in (Reason.INTERNAL, Reason.THROTTLED, Reason.MESSAGE_TOO_BIG):
            raise error
        return resource_response(
            answer_of(
                message,
                code="transient-error" if status >= 500 else "fatal-error",
                issues=issues,
                identity=new_id(self._clock()),
                now=self._clock(),
                base_url=self._base_url,
            )
        )

    async def _answered(self, message: Message, sent: Processed, client: Client) -> Response:
        """Answer what was sent, whenever that was, by what has become of it."""

        def work(connection: sa.Connection) -> Stored | None:
            return read(connection, "Communication", sent.communication, client.mailboxes)

        stored = await self._database.read(work)
        if stored is None or stored.deleted:
            raise not_found()  # its mailbox is no longer the client's
        communication = stored.resource()
        return resource_response(
            answer_of(
                message,
                # Where nobody can be reached, to send it again as it is would not help.
                code="fatal-error" if communication.get("status") == "not-done" else "ok",
                issues=issues_of(communication, self._terms),
                identity=sent.id,
                now=sent.at,
                base_url=self._base_url,
                communication=communication,
            )
        )


def _content(posted: JSON) -> JSON:
    """Return the message in what was posted."""
    if posted.get("resourceType") != "Parameters":
        return posted
    given = posted.get("parameter")
    parameters = [p for p in given if isinstance(p, dict)] if isinstance(given, list) else []
    _require_here(str(parameter.get("name")) for parameter in parameters)
    found = [p.get("resource") for p in parameters if p.get("name") == "content"]
    if len(found) != 1 or not isinstance(found[0], dict):
        issue = Issue("required", "One content is the message.", "Parameters.parameter")
        raise FhirError(Reason.RESOURCE_INVALID, [issue])
    return found[0]


def _require_here(names: Iterable[str]) -> None:
    """Return where the answer is wanted at once, and here."""
    for name in names:
        if name in _NOT_HERE:
            text = f"There is no {name} here: a message is answered at once, to who posts it."
            raise FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue("not-supported", text)])
