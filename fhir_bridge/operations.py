"""What the operations do: `$send-direct`, `$preflight`, `$inbox`, `$mark-read` and the others.

Talks to the database; sending goes through `writing.Writer`.

Standards:
    FHIR    R4 operations.html, operationdefinition.html, resource-operation-validate.html
    fhir.md section 4.1
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from certs.address import parse_address
from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from fhir_bridge.binary_api import BinaryApi
from fhir_bridge.clients import Client
from fhir_bridge.delivery import delivery_of
from fhir_bridge.exchange import body_of, resource_response
from fhir_bridge.forwarded import DATA_OCTETS_MAX, attached_messages, forwarded
from fhir_bridge.inbox import Thread, mark_read, threads
from fhir_bridge.indexing import interval, local_id
from fhir_bridge.operation_definitions import Operation
from fhir_bridge.outcome import FhirError, Issue, operation_outcome, public_text
from fhir_bridge.ports import Preflight, Prospect
from fhir_bridge.registry import ResourceType
from fhir_bridge.resource_api import answer_of, identity_of
from fhir_bridge.resources import check, load, require_type
from fhir_bridge.search import read_count
from fhir_bridge.sending import Dispatcher
from fhir_bridge.store import Stored, read
from fhir_bridge.subscription_api import SubscriptionApi
from fhir_bridge.terms import JSON, Terms, extension_value
from fhir_bridge.trust import instant
from fhir_bridge.write_rules import not_found
from fhir_bridge.writing import Writer

__all__ = ["OperationApi"]


class OperationApi:
    """Answers operations; each method is that of its name."""

    def __init__(
        self,
        *,
        database: Database,
        writer: Writer,
        dispatcher: Dispatcher,
        preflight: Preflight | None,
        binaries: BinaryApi,
        subscriptions: SubscriptionApi,
        clock: Clock,
        base_url: str,
        limit_octets: int,
        terms: Terms,
    ) -> None:
        self._database = database
        self._writer = writer
        self._dispatcher = dispatcher
        self._preflight = preflight
        self._binaries = binaries
        self._subscriptions = subscriptions
        self._clock = clock
        self._base_url = base_url
        self._limit_octets = limit_octets
        self._terms = terms

    async def call(
        self, operation: Operation, request: Request, kind: ResourceType, client: Client
    ) -> Response:
        """Answer `operation`."""
        match operation.name:
            case "send-direct":
                return await self._send_direct(request, kind, client)
            case "preflight":
                return await self._ask_preflight(request, client)
            case "inbox":
                return await self._inbox(request, client)
            case "mark-read":
                return await self._mark_read(request, client)
            case "resend" if kind.name == "Subscription":
                return await self._subscriptions.resend(request, client)
            case "resend":
                return await self._resend(request, kind, client)
            case "get-ws-binding-token":
                return await self._subscriptions.binding_token(request, client)
            case "raw":
                return await self._raw(request, client)
            case "forwarded":
                return await self._forwarded(request, client)
            case _:
                return await self._validate(request, kind, client)

    async def _send_direct(self, request: Request, kind: ResourceType, client: Client) -> Response:
        if "id" in request.path_params:
            client.require(kind.name, "u")
            stored = await self._stored(request, client)
            if stored.message is not None:
                raise _refused("This was sent already.")
            resource = {**stored.resource(), "status": "in-progress"}
            written = await self._writer.update(kind, stored.id, resource, client, stored.version)
        else:
            resource = await self._posted(request)
            require_type(resource, kind.name)
            written = await self._writer.create(kind, {**resource, "status": "in-progress"}, client)
        return answer_of(request, written, client, self._base_url)

    async def _ask_preflight(self, request: Request, client: Client) -> Response:
        if self._preflight is None:
            issue = Issue("not-supported", "There is no preflight here.")
            raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=501)
        resource = await self._posted(request)
        require_type(resource, "Communication")
        # What a preflight is asked for need not be whole yet; of its content nothing is asked.
        resource = {"status": "preparation", **resource, "payload": [{"contentString": "-"}]}
        await asyncio.to_thread(check, resource)
        draft = await self._dispatcher.draft(resource, client)
        addresses = [mailbox.address for mailbox in (*draft.to, *draft.cc, *draft.bcc)]
        found = await self._preflight.prospects(draft.sender.address, addresses)
        return resource_response(
            {"resourceType": "Parameters", "parameter": [_prospect(p) for p in found]}
        )

    async def _inbox(self, request: Request, client: Client) -> Response:
        given = request.query_params
        limit = read_count(given.get("_count", "50"))
        before = interval(given["before"].replace(" ", "+")) if "before" in given else None
        mailboxes = client.mailboxes
        if "mailbox" in given:
            mailboxes = mailboxes & {parse_address(given["mailbox"].removeprefix("mailto:")).key}
        found = await self._database.read(
            lambda c: threads(c, mailboxes, limit=limit, before=before[0] if before else None)
        )
        entries = [entry for thread in found for entry in self._entries(thread)]
        bundle: JSON = {"resourceType": "Bundle", "type": "searchset"}
        return resource_response({**bundle, "entry": entries} if entries else bundle)

    def _entries(self, thread: Thread) -> Sequence[JSON]:
        header = thread.header.resource()
        header["extension"] = [
            *header.get("extension", ()),
            {"url": self._terms.extension("unread"), "valueUnsignedInt": thread.unread},
            {
                "url": self._terms.extension("last-message"),
                "valueReference": {"reference": f"Communication/{thread.last.id}"},
            },
        ]
        url = f"{self._base_url}/Communication"
        return (
            {
                "fullUrl": f"{url}/{thread.header.id}",
                "resource": header,
                "search": {"mode": "match"},
            },
            {
                "fullUrl": f"{url}/{thread.last.id}",
                "resource": thread.last.resource(),
                "search": {"mode": "include"},
            },
        )

    async def _mark_read(self, request: Request, client: Client) -> Response:
        stored = await self._stored(request, client)
        wanted = request.query_params.get("read", "true") != "false"
        now = self._clock()
        count = await self._database.write(
            lambda c: mark_read(
                c, stored, read=wanted, client=client.id, now=now, terms=self._terms
            )
        )
        parameter = {"name": "changed", "valueInteger": count}
        return resource_response({"resourceType": "Parameters", "parameter": [parameter]})

    async def _resend(self, request: Request, kind: ResourceType, client: Client) -> Response:
        client.require(kind.name, "r")  # what it says goes out again
        stored = await self._stored(request, client)
        resource = stored.resource()
        failed = [r for r in resource.get("recipient", ()) if self._failed(r)]
        if not failed:
            raise _refused("There is no recipient that it failed to reach.")
        kept = ("contained", "sender", "topic", "payload", "priority", "inResponseTo", "partOf",
                "category", "subject", "about", "encounter", "basedOn")  # fmt: skip
        again = {
            "resourceType": "Communication",
            **{name: resource[name] for name in kept if name in resource},
            "status": "in-progress",
            "recipient": [_without_delivery(r, self._terms) for r in failed],
        }
        written = await self._writer.create(kind, again, client)
        return answer_of(request, written, client, self._base_url)

    async def _raw(self, request: Request, client: Client) -> Response:
        stored = await self._stored(request, client)
        reference = extension_value(stored.resource(), self._terms.extension("raw-message"))
        identity = local_id(reference["reference"]) if reference else None
        if identity is None:
            raise not_found()
        return await self._binaries.serve(request, identity, client)

    async def _forwarded(self, request: Request, client: Client) -> Response:
        stored = await self._stored(request, client)
        listed = attached_messages(stored.resource(), self._terms)
        bundle: JSON = {"resourceType": "Bundle", "type": "collection"}
        entries = []
        for identity in listed:
            message = await self._binaries.whole(identity, client)
            if message is None:
                continue
            resource = await asyncio.to_thread(
                forwarded,
                message,
                parent=stored.id,
                binary=identity,
                room_octets=DATA_OCTETS_MAX // len(listed),
                terms=self._terms,
            )
            entries.append({"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource})
        return resource_response({**bundle, "entry": entries} if entries else bundle)

    async def _validate(self, request: Request, kind: ResourceType, client: Client) -> Response:
        resource = await self._posted_or_stored(request, kind, client)
        try:
            require_type(resource, kind.name)
            await asyncio.to_thread(check, resource)
        except FhirError as error:
            return resource_response(operation_outcome(error.issues))
        valid = Issue("informational", "The resource is valid.", severity="information")
        return resource_response(operation_outcome([valid]))

    async def _posted_or_stored(self, request: Request, kind: ResourceType, client: Client) -> JSON:
        """Return the resource to validate: without a body, the one that the URL names."""
        if "id" not in request.path_params or request.headers.get("content-length", "0") != "0":
            return await self._posted(request)
        identity = identity_of(request)
        client.require(kind.name, "r")
        stored = await self._database.read(lambda c: read(c, kind.name, identity, client.owners))
        if stored is None or stored.deleted:
            raise not_found()
        return load(stored.body.encode())

    async def _posted(self, request: Request) -> JSON:
        """Return the resource posted: as it is, or the one in a Parameters."""
        body = await body_of(request, self._limit_octets)
        posted = await asyncio.to_thread(load, body)
        if posted.get("resourceType") == "Parameters":
            given = posted.get("parameter")
            for parameter in given if isinstance(given, list) else ():
                if isinstance(parameter, dict) and parameter.get("name") == "resource":
                    resource = parameter.get("resource")
                    return resource if isinstance(resource, dict) else {}
        return posted

    async def _stored(self, request: Request, client: Client) -> Stored:
        identity: UUID = identity_of(request)
        stored = await self._database.read(
            lambda c: read(c, "Communication", identity, client.mailboxes)
        )
        if stored is None or stored.deleted:
            raise not_found()
        return stored

    def _failed(self, recipient: JSON) -> bool:
        return delivery_of(recipient, self._terms).get("code") in ("failed", "refused")


def _prospect(prospect: Prospect) -> JSON:
    parts: list[JSON] = [
        {"name": "recipient", "valueUri": f"mailto:{prospect.address}"},
        {"name": "ready", "valueBoolean": prospect.reason is None},
    ]
    if prospect.reason is not None:
        parts.append({"name": "reason", "valueCode": prospect.reason.code})
        parts.append({"name": "text", "valueString": public_text(prospect.reason)})
    for name, value in (("binding", prospect.binding), ("certificate", prospect.certificate)):
        if value is not None:
            parts.append({"name": name, "valueString": value})
    if prospect.expires is not None:
        parts.append({"name": "expires", "valueInstant": instant(prospect.expires)})
    return {"name": "recipient", "part": parts}


def _without_delivery(recipient: JSON, terms: Terms) -> JSON:
    url = terms.extension("delivery")
    kept = [e for e in recipient.get("extension", ()) if e.get("url") != url]
    bare = {k: v for k, v in recipient.items() if k != "extension"}
    return {**bare, "extension": kept} if kept else bare


def _refused(text: str) -> DirectError:
    return FhirError(Reason.RESOURCE_CONFLICT, [Issue("business-rule", text)])
