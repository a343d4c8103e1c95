"""What a Subscription asks for, and what it is sent.

Pure. Only rest-hook, and only to hosts that the operator allows: a client must not make the
gateway call wherever it likes. Without a payload the notification names the resource and holds
nothing of it.

Standards:
    FHIR    R4 subscription.html: criteria, channel rest-hook, payload
    fhir.md section 4.4
    RFC2104 HMAC
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from certs.errors import DirectError, Reason
from fhir_bridge.definitions import TYPES
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.search import Query, parse_query
from fhir_bridge.terms import JSON, Terms, extension_value

__all__ = ["ATTEMPTS_MAX", "Hook", "criteria_of", "hook_call", "next_try", "require_hook"]

ATTEMPTS_MAX: Final = 8
FIRST_DELAY: Final = timedelta(seconds=10)
LONGEST_DELAY: Final = timedelta(hours=1)
_FHIR_JSON: Final = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class Hook:
    """One HTTP call."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def require_hook(subscription: JSON, hosts: Collection[str]) -> None:
    """Return where the gateway will serve `subscription`; one that is requested becomes active.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED, with every issue.
    """
    channel = subscription.get("channel", {})
    issues = []
    try:
        criteria_of(subscription)
    except DirectError:
        text = "The criteria are a search of one type, all of it understood."
        issues.append(Issue("not-supported", text, "Subscription.criteria"))
    if channel.get("type") != "rest-hook":
        text = "Only rest-hook is supported."
        issues.append(Issue("not-supported", text, "Subscription.channel.type"))
    if not _allowed(channel.get("endpoint", ""), hosts):
        text = "The operator does not allow this endpoint."
        issues.append(Issue("forbidden", text, "Subscription.channel.endpoint"))
    if channel.get("payload", _FHIR_JSON) != _FHIR_JSON:
        text = f"A payload is {_FHIR_JSON}, or none."
        issues.append(Issue("not-supported", text, "Subscription.channel.payload"))
    if any(":" not in h or not h.isprintable() for h in channel.get("header", ())):
        text = "A header is a name, a colon and a value."
        issues.append(Issue("value", text, "Subscription.channel.header"))
    if issues:
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, issues)
    if subscription["status"] in ("requested", "error"):
        subscription["status"] = "active"
        subscription.pop("error", None)


def criteria_of(subscription: Mapping[str, Any]) -> Query:
    """Return the criteria as a search.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED, the type; RESOURCE_INVALID, the parameters.
    """
    name, _, query = subscription.get("criteria", "").partition("?")
    kind = TYPES.get(name)
    if kind is None or "search-type" not in kind.interactions:
        issue = Issue("not-supported", "This type is not served here.", "Subscription.criteria")
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue])
    return parse_query(kind, parse_qsl(query, keep_blank_values=True), strict=True)


def hook_call(
    subscription: JSON, *, kind: str, identity: str, version: int, body: str, terms: Terms
) -> Hook:
    """Return the call that tells of one version of a resource.

    R4: with a payload, PUT [endpoint]/[type]/[id] with the resource; without, an empty POST. Our
    headers name the resource; with the extension `hook-secret` the body is signed.
    """
    channel = subscription["channel"]
    endpoint = channel["endpoint"].rstrip("/")
    headers = [tuple(part.strip() for part in h.split(":", 1)) for h in channel.get("header", ())]
    headers.append(("X-Direct-Resource", f"{kind}/{identity}/_history/{version}"))
    headers.append(("X-Direct-Subscription", f"Subscription/{subscription['id']}"))
    full = "payload" in channel
    octets = body.encode() if full else b""
    if full:
        headers.append(("Content-Type", _FHIR_JSON))
    secret = extension_value(channel, terms.extension("hook-secret"))
    if secret is not None:
        signature = hmac.new(str(secret).encode(), octets, "sha256").hexdigest()
        headers.append(("X-Direct-Signature", f"sha256={signature}"))
    return Hook(
        method="PUT" if full else "POST",
        url=f"{endpoint}/{kind}/{identity}" if full else channel["endpoint"],
        headers=tuple((name, value) for name, value in headers),
        body=octets,
    )


def next_try(attempts: int, now: datetime) -> datetime | None:
    """Return when to call again after `attempts` failures; None: give up."""
    if attempts >= ATTEMPTS_MAX:
        return None
    return now + min(FIRST_DELAY * (1 << (attempts - 1)), LONGEST_DELAY)


def _allowed(endpoint: str, hosts: Collection[str]) -> bool:
    try:
        parts = urlsplit(endpoint)
        named = {parts.hostname, f"{parts.hostname}:{parts.port}"}
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and not parts.username and bool(named & set(hosts))
