"""The rules of a write: what it means, whose it is, what its condition asks.

Pure.

Standards:
    FHIR    R4 http.html 3.1.0.5.2 (conditional create)
    fhir.md decision D10
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from certs.errors import Reason
from fhir_bridge.clients import Client
from fhir_bridge.delivery import address_of
from fhir_bridge.outbound import is_message, is_to_be_sent
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import ResourceType
from fhir_bridge.requests import is_active
from fhir_bridge.search import Query, parse_query
from fhir_bridge.store import Stored
from fhir_bridge.terms import JSON

__all__ = [
    "condition_of",
    "fresh",
    "means_sending",
    "not_found",
    "owner_of",
    "require_unsent",
    "require_version",
    "stale",
    "staying",
]

_ENVELOPED: Final = "This element travels in the envelope, for gateways that read it."


def means_sending(kind: ResourceType, resource: JSON, old: Stored | None = None) -> bool:
    """Say whether this write means sending (D10); an active request was sent once already."""
    if kind.name == "CommunicationRequest":
        return is_active(resource) and not (old and is_active(old.resource()))
    if kind.name != "Communication" or not is_to_be_sent(resource):
        return False
    # The header of a thread is in-progress while the thread is open, and when it is opened again.
    return is_message(resource) or old is None or old.resource().get("status") == "preparation"


def require_unsent(kind: ResourceType, resource: JSON, old: Stored | None = None) -> None:
    """Return where this write sends nothing.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED; a message cannot be called back with a transaction.
    """
    if means_sending(kind, resource, old):
        text = "A message is sent on its own or in a batch, not in a transaction."
        issue = Issue("not-supported", text, f"{kind.name}.status")
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue])


def require_version(expected: int | None, *, demanded: bool) -> None:
    """Return where the version that is to change is named, or need not be.

    Raises:
        FhirError: 428 (RFC6585 3); the operator demands it, as FHIR's "versioned-update" says.
    """
    if demanded and expected is None:
        issue = Issue("required", "Name the version that is to change in If-Match.")
        raise FhirError(Reason.RESOURCE_CONFLICT, [issue], status=428)


def condition_of(kind: ResourceType, condition: Sequence[tuple[str, str]] | None) -> Query | None:
    """Return the condition as a search; what it says must all be understood."""
    if not condition:
        return None
    query = parse_query(kind, condition, strict=True)
    return replace(query, count=2, total=False, summary_count=False) if query.criteria else None


def owner_of(kind: ResourceType, resource: JSON, client: Client) -> str:
    """Return who a new resource belongs to: a mailbox, or what the client's domain shares.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED; a Communication names no mailbox, and the client has
            several.
    """
    if kind.of_client:
        return client.own
    if not kind.in_mailbox:
        return client.home
    sender = resource.get("sender", {})
    # What is to be sent is its sender's, and nobody's to read whom it is only meant for.
    unsent = kind.name == "CommunicationRequest" or resource.get("status") == "preparation"
    named = [sender] if sender and unsent else [sender, *resource.get("recipient", ())]
    for address in map(address_of, named):
        if address is not None and address in client.mailboxes:
            return address
    if len(client.mailboxes) == 1:
        return min(client.mailboxes)
    text = "Name the mailbox that this belongs to as sender."
    raise FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue("required", text, f"{kind.name}.sender")])


def staying(
    kind: ResourceType, names: Sequence[str], in_envelope: Sequence[str] = ()
) -> tuple[Issue, ...]:
    """Return what a client is told of the elements `names`, which are not in the message sent.

    Those `in_envelope` are, for whoever reads envelopes.
    """
    told = dict.fromkeys(names, "This element does not travel.")
    told.update(dict.fromkeys(in_envelope, _ENVELOPED))
    if "sent" in told:
        told["sent"] = "The time of sending is set by the gateway."
    return tuple(
        Issue("informational", text, f"{kind.name}.{name}", severity="information")
        for name, text in told.items()
    )


def fresh(stored: Stored | None) -> Stored:
    """Return what was written.

    Raises:
        FhirError: 412; None: another writer was first.
    """
    if stored is None:
        raise stale()
    return stored


def not_found() -> FhirError:
    """Return the error that says that there is nothing, or nothing of theirs."""
    return FhirError(Reason.RESOURCE_NOT_FOUND, [Issue("not-found", "There is no such resource.")])


def stale() -> FhirError:
    """Return the error that says that another writer was first."""
    issue = Issue("conflict", "Another version is present.")
    return FhirError(Reason.RESOURCE_CONFLICT, [issue], status=412)
