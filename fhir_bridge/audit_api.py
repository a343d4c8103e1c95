"""AuditEvent over HTTP: the gateway's audit trail, read by who has the scope for it.

Talks to the trail through its port. It is an administrator's view: of every client and domain, so
"*" in a scope does not open it; `system/AuditEvent.rs` must be granted by name.

Standards:
    FHIR    R4 AuditEvent; valuesets audit-event-type, audit-event-action, audit-event-outcome
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from certs.errors import Reason
from fhir_bridge.access import Recorded, Trail
from fhir_bridge.clients import Client
from fhir_bridge.criteria import bad_search
from fhir_bridge.exchange import form_of, resource_response
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import ResourceType
from fhir_bridge.search import read_count
from fhir_bridge.terms import JSON, Terms
from fhir_bridge.trust import instant
from fhir_bridge.write_rules import not_found

__all__ = ["AuditApi", "audit_event"]

_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_REST: Final = {"system": _TYPE, "code": "rest", "display": "RESTful Operation"}
_INTERACTION: Final = "http://hl7.org/fhir/restful-interaction"
_PREFIX: Final = "fhir-"
# FHIR audit-event-action: create, read, update, delete, execute.
_ACTIONS: Final = {
    "create": "C",
    "read": "R",
    "vread": "R",
    "search-type": "R",
    "search-system": "R",
    "history-instance": "R",
    "history-type": "R",
    "history-system": "R",
    "update": "U",
    "patch": "U",
    "delete": "D",
}
_RECEIVED: Final = "communication-received"
_IMPORT: Final = {
    "system": "http://dicom.nema.org/resources/ontology/DCM",
    "code": "110107",
    "display": "Import",
}
_FAILURES: Final = {"refused", "failure", "failed"} | {reason.code for reason in Reason}
_LITERAL: Final = re.compile(r"[A-Z][A-Za-z]+/[0-9a-f-]{36}")
_NUMBER: Final = re.compile(r"[1-9]\d{0,15}")
_KNOWN: Final = frozenset({"agent-name", "subtype", "_count", "_cursor", "_sort"})


class AuditApi:
    """Serves the trail."""

    def __init__(self, *, trail: Trail, base_url: str, terms: Terms) -> None:
        self._trail = trail
        self._base_url = base_url
        self._terms = terms

    async def read(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Read one event."""
        number = request.path_params["id"]
        found = await self._trail.one(int(number)) if _NUMBER.fullmatch(number) else None
        if found is None:
            raise not_found()
        return resource_response(audit_event(found, self._terms))

    async def search(self, request: Request, kind: ResourceType, client: Client) -> Response:
        """Return events, the newest first; by `agent-name` and `subtype`, exactly."""
        posted = request.method == "POST"
        given = dict(await form_of(request) if posted else request.query_params.multi_items())
        unknown = sorted(given.keys() - _KNOWN)
        if unknown:
            # An auditor who believes that a filter was applied must not be wrong.
            text = "An audit is searched by agent-name and subtype."
            raise FhirError(Reason.RESOURCE_INVALID, [Issue("not-supported", text)])
        count = max(1, read_count(given.get("_count", "50")))
        events = await self._trail.events(
            before=_before(given.get("_cursor")),
            limit=count + 1,
            actor=given.get("agent-name"),
            action=_action(given.get("subtype")),
        )
        kept = {name: value for name, value in given.items() if name != "_cursor"}
        links = [{"relation": "self", "url": self._url(kept)}]
        if len(events) > count:
            following = {**kept, "_cursor": str(events[count - 1].number)}
            links.append({"relation": "next", "url": self._url(following)})
        return resource_response(self._bundle(events[:count], links))

    def _bundle(self, events: Sequence[Recorded], links: Sequence[JSON]) -> JSON:
        bundle: JSON = {"resourceType": "Bundle", "type": "searchset", "link": list(links)}
        if events:
            bundle["entry"] = [
                {
                    "fullUrl": f"{self._base_url}/AuditEvent/{event.number}",
                    "resource": audit_event(event, self._terms),
                    "search": {"mode": "match"},
                }
                for event in events
            ]
        return bundle

    def _url(self, parameters: dict[str, str]) -> str:
        url = f"{self._base_url}/AuditEvent"
        return f"{url}?{urlencode(parameters, quote_via=quote)}" if parameters else url


def audit_event(event: Recorded, terms: Terms) -> JSON:
    """Return the AuditEvent of an event of the trail."""
    interaction = event.action.removeprefix(_PREFIX)
    by_rest = interaction != event.action
    subtype: JSON = {"system": terms.system("audit"), "code": event.action}
    if interaction in _ACTIONS and by_rest:
        subtype = {"system": _INTERACTION, "code": interaction}
    kind = _REST if by_rest else {"system": terms.system("audit"), "code": "gateway"}
    imported = event.action == _RECEIVED
    found: JSON = {
        "resourceType": "AuditEvent",
        "id": str(event.number),
        "type": _IMPORT if imported else kind,
        "subtype": [subtype],
        "action": "C" if imported else _ACTIONS.get(interaction, "E") if by_rest else "E",
        "recorded": instant(event.at),
        "outcome": _outcome(event.outcome),
        "outcomeDesc": event.outcome or "-",
        "agent": [{"who": {"display": event.actor or "-"}, "requestor": True}],
        "source": {"observer": {"display": "direct-gateway"}},
    }
    if event.subject:
        literal = _LITERAL.fullmatch(event.subject)
        entity: JSON = {"what": {"reference": event.subject}} if literal else {}
        found["entity"] = [entity or {"name": event.subject}]
    return found


def _outcome(text: str) -> str:
    """Return FHIR's code: success, minor failure (the caller's), serious failure (ours)."""
    if text.isdigit():
        return "0" if int(text) < 400 else "4" if int(text) < 500 else "8"
    return "4" if text in _FAILURES else "0"


def _action(subtype: str | None) -> str | None:
    code = subtype.rpartition("|")[2] if subtype is not None else None
    return f"{_PREFIX}{code}" if code in _ACTIONS else code


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not _NUMBER.fullmatch(cursor):
        raise bad_search("value", "This is not a cursor of ours.")
    return int(cursor)
