"""A received Direct message as a FHIR `Communication` for one local mailbox.

Pure: a function of the decrypted message, its mailbox and the gateway's facts about it, so that
the same message always makes the same resource. What needs the store (thread header, the
message answered) is added by `records.store_received`.

Standards:
    FHIR    R4 Communication, Attachment
    fhir.md sections 3.2 (identity), 3.3 (inbound rows), 3.7 (edge cases)
    RFC5322 section 3.6
    RFC3676 format=flowed
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final
from uuid import UUID, uuid5

from certs.address import DirectAddress
from fhir_bridge.binary_rows import BinaryRow, clean
from fhir_bridge.derived import provenance
from fhir_bridge.documents import with_documents
from fhir_bridge.envelope_reading import with_envelope
from fhir_bridge.headers import Mailbox, decode_words, mailboxes, message_ids, parse_date, unfold
from fhir_bridge.mime import BLOCK_OCTETS, Index, Part, index
from fhir_bridge.payloads import Payloads, payloads_of
from fhir_bridge.terms import (
    DIRECT_MEDIUM,
    JSON,
    US_CORE_DIRECT,
    InboundStatus,
    Terms,
    extension,
    mailto_identifier,
    mid_identifier,
)
from fhir_bridge.trust import Trust, instant, trust_extension

__all__ = ["InboundView", "NoticeShown", "Reading", "view"]

TOPIC_CHARACTERS_MAX: Final = 1000
_NOTIFICATION: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/communication-category",
    "code": "notification",
}
# What a mail program says of importance, and what FHIR calls it (fhir.md 3.3).
_ASAP: Final = {("x-priority", "1"), ("priority", "urgent")}
_URGENT: Final = {("importance", "high"), ("x-priority", "2")}
_ROUTINE: Final = {
    ("importance", "low"),
    ("x-priority", "4"),
    ("x-priority", "5"),
    ("priority", "non-urgent"),
}


@dataclass(frozen=True, slots=True)
class NoticeShown:
    """What a notification is, mdn or dsn, and the Message-ID that it is about, where it says so."""

    kind: str
    about: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """How the operator wants messages read.

    `status` is that of what was received. With `envelopes`, what one adds is taken over.
    `base_url` is that of this server, as far as it is known.
    """

    status: InboundStatus = InboundStatus.COMPLETED
    envelopes: bool = False
    base_url: str = ""


_USUAL: Final = Reading()


@dataclass(frozen=True, slots=True)
class InboundView:
    """The resource and its binaries, ready to store. Message-IDs are with angle brackets."""

    message: UUID
    mailbox: DirectAddress
    communication: JSON
    binaries: tuple[BinaryRow, ...]
    message_id: str
    thread_id: str
    in_reply_to: str | None
    documents: tuple[JSON, ...] = ()
    provenance: JSON | None = None
    notice: bool = False


def view(
    message: BinaryIO,
    *,
    message_uuid: UUID,
    mailbox: DirectAddress,
    body_key: str,
    received_at: datetime,
    trust: Trust,
    terms: Terms,
    reading: Reading = _USUAL,
    notice: NoticeShown | None = None,
) -> InboundView:
    """Return the `Communication` that `mailbox` gets for `message`, the decrypted RFC 5322 one.

    `message_uuid` is the gateway's id, `body_key` names the stored octets of `message`. Ids of
    resources derive from `message_uuid` and `mailbox`, so that a repeated job makes no second.
    `notice`: it is a notification, which operators may have shown.
    """
    found = index(message)
    root = found.root
    identity = uuid5(message_uuid, f"Communication/{mailbox.key}")
    message_id, generated = _message_id(message, root, mailbox)
    references = message_ids(root.header("references") or "")
    answered = _answered(root, notice)
    thread_id = clean((*references, *answered, message_id)[0])
    owner = mailbox.key
    payloads = payloads_of(
        message, found, communication=identity, owner=owner, body_key=body_key, terms=terms
    )
    communication: JSON = {
        "resourceType": "Communication",
        "id": str(identity),
        **_sender(root, trust),
        "extension": _extensions(found, references, answered, thread_id, payloads, trust, terms),
        "identifier": [_identifier(message_id, generated, terms)],
        "status": reading.status.value,
        **_of_header(root, answered),
        **_category(notice, terms),
        "received": instant(received_at),
        "recipient": _recipients(root, mailbox, terms),
        **({"payload": list(payloads.payload)} if payloads.payload else {}),
    }
    if reading.envelopes and notice is None and trust.status == "trusted":
        communication = with_envelope(message, found, communication, reading.base_url, terms)
    resources = with_documents(communication, payloads, identity, terms)
    return InboundView(
        message=message_uuid,
        mailbox=mailbox,
        communication=communication,
        binaries=payloads.binaries,
        message_id=message_id,
        thread_id=thread_id,
        in_reply_to=answered[0] if answered else None,
        documents=resources,
        provenance=provenance(communication, raw=payloads.raw.id, documents=resources, trust=trust),
        notice=notice is not None,
    )


def _of_header(root: Part, answered: tuple[str, ...]) -> JSON:
    found: JSON = {
        **_priority(root),
        "medium": [DIRECT_MEDIUM],
        **_topic(root),
        **_sent(root),
    }
    if answered:
        logical = {"type": "Communication", "identifier": mid_identifier(answered[0])}
        found["inResponseTo"] = [logical]
    return found


def _answered(root: Part, notice: NoticeShown | None) -> tuple[str, ...]:
    if notice is not None and notice.about is not None:
        return (notice.about,)
    return message_ids(root.header("in-reply-to") or "")


def _category(notice: NoticeShown | None, terms: Terms) -> JSON:
    if notice is None:
        return {}
    codings = [_NOTIFICATION, {"system": terms.system("notice"), "code": notice.kind}]
    return {"category": [{"coding": codings}]}


def _message_id(message: BinaryIO, root: Part, mailbox: DirectAddress) -> tuple[str, bool]:
    given = message_ids(root.header("message-id") or "")
    if given:
        return given[0], False
    # fhir.md 3.7: no Message-ID; the content names the message.
    message.seek(0)
    digest = hashlib.sha256()
    while block := message.read(BLOCK_OCTETS):
        digest.update(block)
    return f"<{digest.hexdigest()}@{mailbox.domain}>", True


def _identifier(message_id: str, generated: bool, terms: Terms) -> JSON:
    identifier = mid_identifier(message_id)
    if generated:
        url = terms.extension("generated-message-id")
        identifier["extension"] = [{"url": url, "valueBoolean": True}]
    return identifier


def _sender(root: Part, trust: Trust) -> JSON:
    # fhir.md 3.2: a contained resource only where the certificate vouches for that kind.
    author, _ = _authors(root, trust)
    if author is None:
        return {}
    reference = _reference(author)
    name = clean(author.name) or trust.organization
    if author.name and trust.binding == "address-bound":
        contained: JSON = {"resourceType": "Practitioner", "name": [{"text": name}]}
    elif not author.name and trust.binding == "domain-bound" and trust.organization:
        contained = {"resourceType": "Organization", "name": trust.organization}
    else:
        return {"sender": reference}
    contained = {**contained, "id": "sender", "telecom": [_direct_telecom(author)]}
    reference = {"reference": "#sender", "type": contained["resourceType"], **reference}
    return {"contained": [contained], "sender": {**reference, "display": name}}


def _authors(root: Part, trust: Trust) -> tuple[Mailbox | None, list[Mailbox]]:
    """Return whom the signer speaks for, and the others that From names (fhir.md 3.7)."""
    authors = mailboxes(root.header("from") or "")
    spoken = [author for author in authors if author.address == trust.author]
    first = next(iter(spoken or authors), None)
    return first, [author for author in authors if author is not first]


def _reference(mailbox: Mailbox) -> JSON:
    reference: JSON = {"identifier": mailto_identifier(str(mailbox.address))}
    if name := clean(mailbox.name):
        reference["display"] = name
    return reference


def _direct_telecom(mailbox: Mailbox) -> JSON:
    return {
        "extension": [{"url": US_CORE_DIRECT, "valueBoolean": True}],
        "system": "email",
        "value": str(mailbox.address),
    }


def _recipients(root: Part, mailbox: DirectAddress, terms: Terms) -> list[JSON]:
    listed = [
        (role, entry)
        for role in ("to", "cc")
        for value in root.headers.get(role, ())
        for entry in mailboxes(unfold(value))
    ]
    # fhir.md 3.3: the envelope named this mailbox although the header did not.
    if all(entry.address != mailbox for _, entry in listed):
        listed.append(("bcc", Mailbox("", mailbox)))
    url = terms.extension("recipient-role")
    return [
        {"extension": [{"url": url, "valueCode": role}], **_reference(entry)}
        for role, entry in listed
    ]


def _topic(root: Part) -> JSON:
    subject = clean(decode_words(root.header("subject") or ""))
    return {"topic": {"text": subject[:TOPIC_CHARACTERS_MAX]}} if subject else {}


def _sent(root: Part) -> JSON:
    date = parse_date(root.header("date") or "")
    return {"sent": date.isoformat(timespec="seconds").replace("+00:00", "Z")} if date else {}


def _priority(root: Part) -> JSON:
    said = {
        (name, (root.header(name) or "").strip().lower().split(" ")[0])
        for name in ("importance", "x-priority", "priority")
    }
    for values, code in ((_ASAP, "asap"), (_URGENT, "urgent"), (_ROUTINE, "routine")):
        if said & values:
            return {"priority": code}
    return {}


def _extensions(
    found: Index,
    references: tuple[str, ...],
    answered: tuple[str, ...],
    thread_id: str,
    payloads: Payloads,
    trust: Trust,
    terms: Terms,
) -> list[JSON]:
    root = found.root
    extensions: list[JSON] = [
        {"url": terms.extension("thread-id"), "valueString": thread_id},
        {"url": terms.extension("direction"), "valueCode": "inbound"},
        {
            "url": terms.extension("raw-message"),
            "valueReference": {"reference": f"Binary/{payloads.raw.id}"},
        },
        trust_extension(trust, terms),
    ]
    for reply_to in mailboxes(root.header("reply-to") or ""):
        url = terms.extension("reply-to")
        extensions.append({"url": url, "valueReference": _reference(reply_to)})
    for author in _authors(root, trust)[1]:
        url = terms.extension("other-author")
        extensions.append({"url": url, "valueReference": _reference(author)})
    # Kept raw where the elements say less: a chain of References longer than root and parent,
    # a Date that is none.
    raw = []
    if references and references not in (answered, (thread_id, *answered)):
        raw.append("references")
    if root.header("date") and not _sent(root):
        raw.append("date")
    if _priority(root) == {"priority": "routine"}:
        raw += [name for name in ("importance", "x-priority", "priority") if root.header(name)]
    # Who sent it for its author (RFC5322 3.6.2), to whom no answer goes.
    authors = [each.address for each in mailboxes(root.header("from") or "")]
    if any(each.address not in authors for each in mailboxes(root.header("sender") or "")):
        raw.append("sender")
    for name in raw:
        value = clean(root.header(name) or "")
        if value:
            parts = [("name", {"valueString": name}), ("value", {"valueString": value})]
            extensions.append(extension(terms.extension("mime-header"), parts))
    if found.partial or payloads.partial:
        extensions.append({"url": terms.extension("partial"), "valueBoolean": True})
    return extensions
