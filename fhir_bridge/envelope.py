"""The envelope: a message Bundle beside the mail, with what of a Communication mail cannot carry.

Pure. It is one more part of the message, so that the signature covers it as all the others; what
the mail itself says is in it too, and counts only as long as both say the same
(`envelope_reading`). A message with blind copies has none: it could name them.

Standards:
    FHIR    R4 messaging.html, messageheader.html, bundle.html (message)
    fhir.md section 3.4, row on `fhir_envelope`; section 3.6 rule 4
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from fhir_bridge.binary_rows import BinaryRow
from fhir_bridge.compose import Attachment
from fhir_bridge.headers import Mailbox
from fhir_bridge.mime_parts import outgoing_payload
from fhir_bridge.outbound import Content, Draft
from fhir_bridge.outcome import FhirError
from fhir_bridge.portable import Border, leaving
from fhir_bridge.resources import check, dump
from fhir_bridge.terms import (
    DIRECT_MEDIUM,
    JSON,
    MAILTO,
    MID,
    URI_SYSTEM,
    Terms,
    extension,
    extension_value,
    mailto_identifier,
    mid_identifier,
)
from fhir_bridge.trust import instant

__all__ = [
    "CARRIED",
    "ENVELOPE_OCTETS_MAX",
    "EVENT",
    "MARK",
    "Enclosure",
    "Facts",
    "enclosed",
    "fits",
    "other_identifiers",
    "unmarked",
]

EVENT: Final = "direct-message"
# The parameter of the part's media type by which a receiver knows it, and its value.
MARK: Final = ("envelope", EVENT)
# Ours: some hundred times what the elements of a message take. To judge an object costs 50 us.
ENVELOPE_OCTETS_MAX: Final = 2 * 1024 * 1024
OBJECTS_MAX: Final = 5000
TITLE: Final = "communication.fhir.json"
# What mail has no place for. `topic` and `priority`, too, say more than Subject and Importance.
CARRIED: Final[tuple[str, ...]] = (
    "language",
    "extension",
    "modifierExtension",
    "instantiatesCanonical",
    "instantiatesUri",
    "basedOn",
    "category",
    "subject",
    "about",
    "encounter",
    "reasonCode",
    "reasonReference",
    "note",
)
_CONTENT_TYPE: Final = f"application/fhir+json; fhirVersion=4.0; {MARK[0]}={MARK[1]}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the gateway decided of the message. `id` is the Communication's."""

    id: UUID
    message_id: str
    in_reply_to: str | None
    date: datetime


@dataclass(frozen=True, slots=True)
class Enclosure:
    """The part to send, and the names of the elements that it carries whole."""

    attachment: Attachment
    elements: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Envelope:
    """What the Bundle is made of."""

    resource: JSON
    draft: Draft
    facts: Facts
    carried: JSON
    binaries: Mapping[str, BinaryRow]
    border: Border
    terms: Terms


def enclosed(
    resource: JSON,
    draft: Draft,
    facts: Facts,
    *,
    binaries: Mapping[str, BinaryRow],
    base_url: str,
    terms: Terms,
) -> Enclosure | None:
    """Return the envelope of `resource`; None where there is nothing to say, or too much.

    `binaries` has the Binary of each content by its `at`; `base_url` is that of this server.
    """
    if extension_value(resource, terms.extension("internal")) is True:
        return None
    border = leaving(base_url, terms)
    carried = _carried(resource, border)
    envelope = _Envelope(resource, draft, facts, carried, binaries, border, terms)
    communication = _communication(envelope)
    if not carried and not _says_more(communication):
        return None
    try:
        check(communication)
    except FhirError:  # without what stays here it is less than FHIR demands
        return None
    octets = dump(_bundle(envelope, communication))
    if not fits(octets):
        return None
    whole = {
        name
        for name in CARRIED
        if name in communication
        and not _is_less(communication[name], _foreign(name, resource, terms))
    }
    part = Attachment(_CONTENT_TYPE, TITLE, None, False, lambda: iter([octets]))
    return Enclosure(part, frozenset(whole))


def _carried(resource: JSON, border: Border) -> JSON:
    found = {name: border.passed(resource[name], name) for name in CARRIED if name in resource}
    found["identifier"] = border.passed(other_identifiers(resource)) or None
    return {name: value for name, value in found.items() if value is not None}


def _foreign(name: str, resource: JSON, terms: Terms) -> Any:
    """Return an element as it is, without the extensions that are ours."""
    if name != "extension":
        return resource.get(name)
    ours = f"{terms.canonical}/"
    return [e for e in resource[name] if not str(e.get("url", "")).startswith(ours)]


def _is_less(passed: Any, whole: Any) -> bool:
    return isinstance(passed, list) and len(passed) < len(whole)


def fits(octets: bytes) -> bool:
    """Say whether an envelope is within the limits; a brace within a text counts as an object."""
    return len(octets) <= ENVELOPE_OCTETS_MAX and octets.count(b"{") <= OBJECTS_MAX


def other_identifiers(resource: Mapping[str, Any]) -> list[JSON]:
    """Return the identifiers that are no Message-ID and no address, under whatever system."""
    return [
        identifier
        for identifier in resource.get("identifier", ())
        if not str(identifier.get("value", "")).strip().lower().startswith((MID, MAILTO))
    ]


def unmarked(content_type: str) -> str:
    """Return the media type of an attachment without the mark: it is no envelope of this mail."""
    kind, *parameters = content_type.split(";")
    kept = [p for p in parameters if p.partition("=")[0].strip().lower() != MARK[0]]
    return ";".join([kind, *kept])


def _bundle(envelope: _Envelope, communication: JSON) -> JSON:
    header, focus = (
        uuid5(envelope.facts.id, f"{name}/{envelope.facts.message_id}")
        for name in ("MessageHeader", "Communication")
    )
    sender = f"{MAILTO}{envelope.draft.sender.address}"
    return {
        "resourceType": "Bundle",
        "type": "message",
        "identifier": {"system": URI_SYSTEM, "value": f"urn:uuid:{header}"},
        "timestamp": instant(envelope.facts.date),
        "entry": [
            {
                "fullUrl": f"urn:uuid:{header}",
                "resource": {
                    "resourceType": "MessageHeader",
                    "id": str(header),
                    "eventCoding": {
                        "system": envelope.terms.system("message-event"),
                        "code": EVENT,
                    },
                    "source": {"endpoint": sender},
                    "focus": [{"reference": f"urn:uuid:{focus}"}],
                },
            },
            {"fullUrl": f"urn:uuid:{focus}", "resource": communication},
        ],
    }


def _communication(envelope: _Envelope) -> JSON:
    """Return the Communication as its recipients may see it."""
    draft, terms, resource = envelope.draft, envelope.terms, envelope.resource
    mid = mid_identifier(envelope.facts.message_id)
    elements: JSON = {
        **envelope.carried,
        "identifier": [mid, *envelope.carried.get("identifier", ())],
        "topic": envelope.border.passed(resource.get("topic", {})),
        "payload": _payload(envelope),
    }
    whole: JSON = {
        "resourceType": "Communication",
        **envelope.border.contained(resource, {k: v for k, v in elements.items() if v}),
        "status": "in-progress",
        "medium": [DIRECT_MEDIUM],
        "sent": instant(envelope.facts.date),
        "sender": _actor(draft.sender),
        "recipient": [
            {
                "extension": [{"url": terms.extension("recipient-role"), "valueCode": role}],
                **_actor(mailbox),
            }
            for role, mailboxes in (("to", draft.to), ("cc", draft.cc))
            for mailbox in mailboxes
        ],
    }
    if draft.priority is not None:
        whole["priority"] = draft.priority
    if envelope.facts.in_reply_to is not None:
        answered = mid_identifier(envelope.facts.in_reply_to)
        whole["inResponseTo"] = [{"type": "Communication", "identifier": answered}]
    return whole


def _says_more(communication: JSON) -> bool:
    """Say whether one that carries no element of its own says what the mail does not."""
    payloads = communication.get("payload", [])
    return (
        communication.get("priority") in ("routine", "stat")
        or bool(communication.get("topic", {}).keys() - {"text"})
        or any("contentString" in payload for payload in payloads[1:])
        or not all(_is_plain(payload) for payload in payloads)
    )


def _is_plain(payload: JSON) -> bool:
    """Say whether the mail says all of `payload`, which is in an envelope."""
    if "contentString" in payload:
        return payload.keys() == {"contentString"}
    attachment = payload["contentAttachment"]
    return len(payload["extension"]) == 1 and attachment.keys() <= {"contentType", "title"}


def _actor(mailbox: Mailbox) -> JSON:
    identifier = {"identifier": mailto_identifier(str(mailbox.address))}
    return {**identifier, "display": mailbox.name} if mailbox.name else identifier


def _payload(envelope: _Envelope) -> list[JSON]:
    """Return the payloads in the sender's order; of attachments, what they are known by."""
    border = envelope.border
    html = next((c for c in envelope.draft.contents if _is_html(c, envelope)), None)
    payloads = []
    for position, payload in outgoing_payload(envelope.resource, envelope.terms):
        passed = border.passed(payload) or {}
        if "contentString" in payload:
            payloads.append(passed)
            continue
        kept = {name: item for name, item in passed.items() if not name.startswith("content")}
        own = passed.get("contentAttachment", {})
        said = {k: v for k, v in own.items() if k not in ("url", "size", "hash", "data")}
        at = f"Communication.payload[{position}].content"
        for content in envelope.draft.contents:
            if content.at.startswith(at):
                payloads.append(_attached(content, envelope, kept, said, is_html=content is html))
    return payloads


def _attached(
    content: Content, envelope: _Envelope, kept: JSON, said: JSON, *, is_html: bool
) -> JSON:
    row = envelope.binaries.get(content.at)
    # The text of an HTML body is written with line ends of its own: it is known by its role.
    known: list[tuple[str, JSON]] = [("role", {"valueCode": "body-html"})]
    if not is_html:
        sha256 = row.sha256 if row else hashlib.sha256(content.octets or b"").hexdigest()
        known = [("sha256", {"valueString": sha256})]
    mark = extension(envelope.terms.extension("mime-part"), known)
    kind = content.content_type or (row.content_type if row else "application/octet-stream")
    title = content.title or (row.filename if row else None)
    attachment = {**said, "contentType": unmarked(kind), **({"title": title} if title else {})}
    return {
        **kept,
        "extension": [mark, *kept.get("extension", ())],
        "contentAttachment": attachment,
    }


def _is_html(content: Content, envelope: _Envelope) -> bool:
    return content.role == "body-html" and content.at in envelope.binaries
