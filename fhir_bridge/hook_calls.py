"""The HTTP calls that tell a subscriber: what is in them, and how they are signed.

Pure.

Standards:
    FHIR    R4 subscription.html: channel rest-hook, payload, header
    RFC2104 HMAC
    fhir.md section 4.4
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from fhir_bridge.terms import JSON, Terms, extension_value

__all__ = ["Event", "Hook", "hook_call", "signature"]

_FHIR_JSON: Final = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class Event:
    """What a subscriber is told: `id` is the same at every try. A handshake has no resource.

    `resource` is `[type]/[id]`, `body` its JSON.
    """

    id: UUID
    resource: str | None = None
    version: int = 0
    body: str = ""

    @property
    def kind(self) -> str:
        """`handshake` or `event`."""
        return "handshake" if self.resource is None else "event"

    @property
    def versioned(self) -> str:
        """The reference to the version that is told of; empty in a handshake."""
        return f"{self.resource}/_history/{self.version}" if self.resource else ""


@dataclass(frozen=True, slots=True)
class Hook:
    """One HTTP call."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def hook_call(subscription: JSON, event: Event, *, now: datetime, terms: Terms) -> Hook:
    """Return the call that tells of `event`.

    R4: with a payload, PUT [endpoint]/[type]/[id] with the resource; without, an empty POST. With
    the extension `hook-method` `post` the payload is POSTed to the endpoint itself. A handshake
    is always an empty POST to the endpoint.
    """
    channel = subscription["channel"]
    full = "payload" in channel and event.resource is not None
    body = event.body.encode() if full else b""
    put = full and extension_value(channel, terms.extension("hook-method")) != "post"
    url = channel["endpoint"]
    headers = [
        *_given(channel),
        *((("Content-Type", _FHIR_JSON),) if full else ()),
        ("X-Direct-Event", event.kind),
        ("X-Direct-Delivery", str(event.id)),
        ("X-Direct-Subscription", f"Subscription/{subscription['id']}"),
    ]
    if event.resource is not None:
        headers.append(("X-Direct-Resource", event.versioned))
    secret = extension_value(channel, terms.extension("hook-secret"))
    if secret is not None:
        moment = str(int(now.timestamp()))
        signed = signature(str(secret), moment, event, body)
        headers += [("X-Direct-Time", moment), ("X-Direct-Signature", f"sha256={signed}")]
    return Hook(
        method="PUT" if put else "POST",
        url=_below(url, event.resource or "") if put else url,
        headers=tuple(headers),
        body=body,
    )


def signature(secret: str, moment: str, event: Event, body: bytes) -> str:
    """Return the hexadecimal HMAC-SHA256 of time, delivery, event and resource, and the body.

    The body alone would be no proof where there is none; the time lets a receiver refuse what
    somebody kept and sends again.
    """
    head = ".".join((moment, str(event.id), event.kind, event.versioned))
    return hmac.new(secret.encode(), head.encode() + b"." + body, "sha256").hexdigest()


def _below(url: str, path: str) -> str:
    """Return `url` with `path` behind its own, before its query."""
    place, mark, query = url.partition("?")
    return f"{place.rstrip('/')}/{path}{mark}{query}"


def _given(channel: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (header.partition(":") for header in channel.get("header", ()))
    return [(name.strip(), value.strip()) for name, _, value in pairs]
