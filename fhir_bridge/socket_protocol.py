"""What goes over a subscriber's websocket.

Pure. Two dialects: JSON messages with a binding token, answered by Bundles, as the R5 Backport and
Medplum speak it; and R4's own words, `bind [id]`, answered by `bound [id]` and `ping [id]`, for a
socket that was opened with a bearer token.

Standards:
    FHIR    R4 subscription.html 2.46.7.2 (websocket)
    BACKPORT Subscriptions R5 Backport 1.1.0, websocket and $get-ws-binding-token
    fhir.md section 1.8
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import orjson

from fhir_bridge.hook_calls import Event
from fhir_bridge.terms import JSON
from fhir_bridge.trust import instant

__all__ = ["Bind", "BindById", "Ping", "Unbind", "event_bundle", "handshake_bundle", "spoken"]

TOKEN_CHARACTERS: Final = 256
_BIND: Final = re.compile(r"bind:? ([0-9a-fA-F-]{36})\s*")


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind with this token."""

    token: str


@dataclass(frozen=True, slots=True)
class BindById:
    """R4: bind to this subscription of the client that opened the socket."""

    subscription: UUID


@dataclass(frozen=True, slots=True)
class Unbind:
    """End what this token was bound to."""

    token: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask whether anybody is there."""


def spoken(text: str) -> Bind | BindById | Unbind | Ping | None:
    """Return what a client says; None where it is nothing that we know."""
    if (match := _BIND.fullmatch(text)) is not None:
        try:
            return BindById(UUID(match[1]))
        except ValueError:
            return None
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(message, dict):
        return None
    kind, payload = message.get("type"), message.get("payload")
    if kind == "ping":
        return Ping()
    token = payload.get("token") if isinstance(payload, dict) else None
    if not isinstance(token, str) or len(token) > TOKEN_CHARACTERS:
        return None
    if kind == "bind-with-token":
        return Bind(token)
    return Unbind(token) if kind == "unbind-from-token" else None


def handshake_bundle(subscription: UUID, status: str, now: datetime) -> JSON:
    """Return the answer to a bind."""
    return _bundle([_status("handshake", subscription, status)], now)


def event_bundle(
    subscription: UUID, status: str, event: Event, number: int, base_url: str, now: datetime
) -> JSON:
    """Return the notification of one event, the `number`th of its binding; the resource second."""
    told = _status("event-notification", subscription, status)
    focus = {"reference": event.resource}
    told["eventsSinceSubscriptionStart"] = str(number)
    told["notificationEvent"] = [
        {"eventNumber": str(number), "timestamp": instant(now), "focus": focus}
    ]
    bundle = _bundle([told], now)
    bundle["entry"].append(
        {
            "fullUrl": f"{base_url}/{event.resource}",
            "resource": orjson.loads(event.body),
            "request": {"method": "PUT", "url": event.resource},
            "response": {"status": "200"},
        }
    )
    return bundle


def _status(kind: str, subscription: UUID, status: str) -> JSON:
    return {
        "resourceType": "SubscriptionStatus",
        "status": status,
        "type": kind,
        "subscription": {"reference": f"Subscription/{subscription}"},
    }


def _bundle(resources: list[JSON], now: datetime) -> JSON:
    entries = [
        {
            "resource": resource,
            "request": {"method": "GET", "url": f"{resource['subscription']['reference']}/$status"},
            "response": {"status": "200"},
        }
        for resource in resources
    ]
    return {
        "resourceType": "Bundle",
        "type": "history",
        "timestamp": instant(now),
        "entry": entries,
    }
