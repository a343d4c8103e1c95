"""The delivery of a sent message as FHIR shows it: per recipient, and as a whole.

Pure. R4's event-status has no "failed", so each recipient carries our `delivery` extension and
`Communication.status` sums them up.

Standards:
    FHIR    R4 Communication.status, .statusReason, .received
    fhir.md section 3.5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from certs.address import DirectAddress
from certs.errors import Reason
from fhir_bridge.outcome import public_text
from fhir_bridge.terms import JSON, MAILTO, Terms, extension, mid_identifier
from fhir_bridge.trust import instant

__all__ = ["RecipientState", "address_of", "delivery_of", "with_delivery"]

_GOOD: Final = frozenset({"dispatched", "displayed", "deleted"})
# A delivery that was complete may still fail (DN-013).
_OURS: Final = frozenset({"in-progress", "on-hold", "completed"})
_NOT_SENT: Final = "refused"  # decided on before anything left
_BAD: Final = frozenset({"failed", _NOT_SENT})
_HELD: Final = "held"
_HELD_TEXT: Final = "An administrator holds it back"


@dataclass(frozen=True, slots=True)
class RecipientState:
    """How far one recipient's copy is.

    `code` is queued, relayed, processed, dispatched, early, failed, refused where it never left,
    held where an administrator keeps it back, or, once nothing more is awaited, displayed or
    deleted where the recipient's system told of that. `status` is an enhanced status code
    (RFC3463), where a peer gave one. `notice` is the Message-ID of the MDN or DSN that says so.
    """

    address: DirectAddress
    code: str
    time: datetime
    reason: Reason | None = None
    status: str | None = None
    notice: str | None = None


def with_delivery(communication: JSON, states: Sequence[RecipientState], *, terms: Terms) -> JSON:
    """Return `communication` with each state on its recipient, and its status as they say.

    Recipients without a state keep theirs. A status that a client has set since, such as
    entered-in-error, stays.
    """
    by_address = {state.address.key: state for state in states}
    recipients = [
        _with_state(recipient, by_address.get(address_of(recipient) or ""), terms)
        for recipient in communication.get("recipient", ())
    ]
    changed: JSON = {**communication, "recipient": recipients}
    if communication.get("status") not in _OURS:
        return changed
    wants_dispatched = any(
        item.get("url") == terms.extension("wants-dispatched") and item.get("valueBoolean")
        for item in communication.get("extension", ())
    )
    return _summed_up(changed, wants_dispatched, terms)


def delivery_of(recipient: JSON, terms: Terms) -> dict[str, str]:
    """Return the parts of the `delivery` extension of a recipient; empty where there is none."""
    url = terms.extension("delivery")
    for item in recipient.get("extension", ()):
        if item.get("url") == url:
            return {
                part["url"]: str(next(v for k, v in part.items() if k.startswith("value")))
                for part in item["extension"]
            }
    return {}


def address_of(reference: JSON) -> str | None:
    """Return the key of the Direct address that `reference` names by its identifier."""
    value = reference.get("identifier", {}).get("value")
    if isinstance(value, str) and value.lower().startswith(MAILTO):
        return value[len(MAILTO) :].lower()
    return None


def _with_state(recipient: JSON, state: RecipientState | None, terms: Terms) -> JSON:
    if state is None:
        return recipient
    url = terms.extension("delivery")
    parts: list[tuple[str, JSON]] = [
        ("code", {"valueCode": state.code}),
        ("time", {"valueInstant": instant(state.time)}),
    ]
    if state.reason is not None:
        parts.append(("reason", {"valueCode": state.reason.code}))
        parts.append(("text", {"valueString": public_text(state.reason)}))
    if state.status is not None:
        parts.append(("status", {"valueString": state.status}))
    if state.notice is not None:
        parts.append(("mdn", {"valueUri": mid_identifier(state.notice)["value"]}))
    kept = [item for item in recipient.get("extension", ()) if item.get("url") != url]
    return {**recipient, "extension": [*kept, extension(url, parts)]}


def _summed_up(communication: JSON, wants_dispatched: bool, terms: Terms) -> JSON:
    deliveries = [delivery_of(recipient, terms) for recipient in communication["recipient"]]
    codes = [delivery.get("code", "queued") for delivery in deliveries]
    good = _GOOD if wants_dispatched else _GOOD | {"processed"}
    if _HELD in codes:
        because = _because(_HELD, _HELD_TEXT, terms)
        return {**communication, "status": "on-hold", "statusReason": because}
    if communication.get("status") == "on-hold":
        communication = {k: v for k, v in communication.items() if k != "statusReason"}
    if not all(code in good or code in _BAD for code in codes):
        return {**communication, "status": "in-progress"}
    if all(code in good for code in codes):
        if communication["status"] == "completed":  # what came since tells of no other arrival
            return communication
        # FHIR instants compare as text only within one format: ours are all in UTC.
        received = max(delivery["time"] for delivery in deliveries)
        return {**communication, "status": "completed", "received": received}
    # fhir.md 3.5: not-done where nothing left, stopped where something did.
    communication = {k: v for k, v in communication.items() if k != "received"}
    status = "not-done" if all(code == _NOT_SENT for code in codes) else "stopped"
    reason = next(d.get("reason") for d in deliveries if d.get("code") in _BAD)
    found = Reason.of(reason or Reason.INTERNAL.code)
    because = _because(found.code, public_text(found), terms)
    return {**communication, "status": status, "statusReason": because}


def _because(code: str, text: str, terms: Terms) -> JSON:
    return {"coding": [{"system": terms.system("delivery-reason"), "code": code}], "text": text}
