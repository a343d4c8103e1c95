"""What a Subscription asks for, and whether the gateway will serve it.

Pure. Three channels: rest-hook, to hosts that the operator allows; websocket, to the client's own
socket; e-mail, which here is a Direct message. What leaves the gateway names the resource and
holds nothing of it, unless the subscriber asks for a payload.

Standards:
    FHIR    R4 subscription.html: criteria, channels, status
    RFC9110 section 5.1 (field names)
    fhir.md section 4.4
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from fhir_bridge.definitions import TYPES
from fhir_bridge.endpoints import endpoint_of
from fhir_bridge.indexing import interval
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.search import Query, parse_query
from fhir_bridge.terms import JSON, Terms, extension_value

__all__ = [
    "ATTEMPTS_MAX",
    "CHANNELS",
    "attempts_of",
    "criteria_of",
    "has_ended",
    "mail_address",
    "next_try",
    "require_served",
    "settled",
    "wants",
]

CHANNELS: Final = ("rest-hook", "websocket", "email")
ATTEMPTS_MAX: Final = 8
ATTEMPTS_LIMIT: Final = 18
FIRST_DELAY: Final = timedelta(seconds=10)
LONGEST_DELAY: Final = timedelta(hours=1)
HEADERS_MAX: Final = 20
HEADER_CHARACTERS: Final = 4096
# Medplum's, by whose name its clients ask for it.
INTERACTION: Final = (
    "https://medplum.com/fhir/StructureDefinition/subscription-supported-interaction"
)
_FHIR_JSON: Final = "application/fhir+json"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# What frames a request, and what is ours, is not the subscriber's to set.
_RESERVED: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "upgrade"}
    | {"te", "trailer", "expect", "proxy-authorization", "accept-encoding", "keep-alive"}
)


def require_served(subscription: JSON, hosts: Collection[str], terms: Terms) -> None:
    """Return where the gateway will serve `subscription`.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED, with every issue.
    """
    issues = [*_criteria_issues(subscription), *_channel_issues(subscription, hosts, terms)]
    if issues:
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, issues)


def settled(subscription: JSON, old: Mapping[str, Any] | None) -> JSON:
    """Return `subscription` with the status that the gateway gives it on a write.

    `off` is off. A rest-hook is `requested` until its endpoint has answered the handshake, and
    again when its channel changes; the other channels are active at once. An error stays, with
    its text, until the client asks for `requested` (or for `active`, as many clients do).
    """
    bare = {name: value for name, value in subscription.items() if name != "error"}
    wanted = bare.get("status")
    if wanted == "off":
        return bare
    same = old is not None and old.get("channel") == bare["channel"]
    before = old.get("status") if old is not None and same else None
    if wanted == "error" and before == "error" and old is not None:
        return {**bare, **({"error": old["error"]} if "error" in old else {})}
    if bare["channel"]["type"] != "rest-hook":
        return {**bare, "status": "active"}
    return {**bare, "status": "active" if wanted == before == "active" else "requested"}


def criteria_of(subscription: Mapping[str, Any]) -> Query:
    """Return the criteria as a search.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED, the type; RESOURCE_INVALID, the parameters.
    """
    name, _, query = str(subscription.get("criteria", "")).partition("?")
    kind = TYPES.get(name)
    if kind is None or "search-type" not in kind.interactions or kind.of_client:
        issue = Issue("not-supported", "This type is not served here.", "Subscription.criteria")
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue])
    return parse_query(kind, parse_qsl(query, keep_blank_values=True), strict=True)


def wants(subscription: Mapping[str, Any], version: int) -> bool:
    """Say whether the subscriber wants to be told of a resource's becoming this version.

    Clients of Medplum may have it called for what is new only, or for what has changed.
    """
    wanted = extension_value(subscription, INTERACTION)
    return wanted is None or wanted == ("create" if version == 1 else "update")


def has_ended(subscription: Mapping[str, Any], now: datetime) -> bool:
    """Say whether the subscription's own `end` is over."""
    end = interval(str(subscription["end"])) if "end" in subscription else None
    return end is not None and end[0] <= now


def attempts_of(subscription: Mapping[str, Any], terms: Terms) -> int:
    """Return how often a delivery is tried before the subscription is in error."""
    given = extension_value(subscription["channel"], terms.extension("max-attempts"))
    return given if isinstance(given, int) else ATTEMPTS_MAX


def next_try(attempts: int, now: datetime, limit: int = ATTEMPTS_MAX) -> datetime | None:
    """Return when to call again after `attempts` failures; None: give up."""
    if attempts >= limit:
        return None
    return now + min(FIRST_DELAY * (1 << (attempts - 1)), LONGEST_DELAY)


def mail_address(endpoint: object) -> DirectAddress | None:
    """Return the Direct address of a `mailto:` endpoint; None where it is none."""
    if not isinstance(endpoint, str) or not endpoint.startswith("mailto:"):
        return None
    try:
        return parse_address(endpoint.removeprefix("mailto:"))
    except DirectError:
        return None


def _criteria_issues(subscription: JSON) -> Iterator[Issue]:
    try:
        criteria_of(subscription)
    except DirectError:
        text = "The criteria are a search of one type, all of it understood."
        yield Issue("not-supported", text, "Subscription.criteria")
    if extension_value(subscription, INTERACTION) not in (None, "create", "update"):
        text = "Of create and update can be told, not of other interactions."
        yield Issue("not-supported", text, "Subscription.extension")


def _channel_issues(subscription: JSON, hosts: Collection[str], terms: Terms) -> Iterator[Issue]:
    channel, at = subscription.get("channel", {}), "Subscription.channel"
    kind = channel.get("type")
    if kind not in CHANNELS:
        yield Issue("not-supported", f"A channel is one of {', '.join(CHANNELS)}.", f"{at}.type")
    elif kind == "rest-hook" and endpoint_of(channel.get("endpoint"), hosts) is None:
        text = "The operator does not allow this endpoint."
        yield Issue("forbidden", text, f"{at}.endpoint")
    elif kind == "email" and mail_address(channel.get("endpoint")) is None:
        yield Issue("value", "The endpoint is mailto: and a Direct address.", f"{at}.endpoint")
    if channel.get("payload", _FHIR_JSON) != _FHIR_JSON:
        yield Issue("not-supported", f"A payload is {_FHIR_JSON}, or none.", f"{at}.payload")
    elif kind == "email" and "payload" in channel:
        yield Issue("not-supported", "An e-mail carries no payload.", f"{at}.payload")
    yield from _header_issues(channel.get("header", ()), f"{at}.header")
    attempts = extension_value(channel, terms.extension("max-attempts"))
    if attempts is not None and not (isinstance(attempts, int) and 1 <= attempts <= ATTEMPTS_LIMIT):
        text = f"max-attempts is 1 to {ATTEMPTS_LIMIT}."
        yield Issue("value", text, f"{at}.extension")


def _header_issues(headers: Collection[object], at: str) -> Iterator[Issue]:
    if len(headers) > HEADERS_MAX:
        yield Issue("too-long", f"There are at most {HEADERS_MAX} headers.", at)
    for header in headers:
        name, colon, value = str(header).partition(":")
        plain = value.isascii() and value.isprintable() and len(value) <= HEADER_CHARACTERS
        if not colon or not _TOKEN.fullmatch(name) or not plain:
            yield Issue("value", "A header is a name, a colon and a value.", at)
        elif name.lower() in _RESERVED or name.lower().startswith("x-direct-"):
            yield Issue("forbidden", "This header is not the subscriber's to set.", at)
