"""What a client's `Communication` says to send: sender, recipients, subject, content.

Pure. Every problem is collected and reported at once. Nothing is resolved here: literal
references are looked up beforehand and handed in as `directory`.

Standards:
    FHIR    R4 Communication, Reference, ContactPoint, Endpoint
    USCORE  us-core-direct
    fhir.md sections 3.2 (identity), 3.4 (outbound rows), 3.7 (edge cases)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from fhir_bridge.headers import Mailbox
from fhir_bridge.mime_parts import mime_part_of, outgoing_payload
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.resources import dump
from fhir_bridge.terms import (
    JSON,
    MAILTO,
    US_CORE_DIRECT,
    Terms,
    extension_value,
    is_direct,
    message_id_of,
)

__all__ = [
    "Content",
    "Draft",
    "contact_references",
    "direct_addresses",
    "draft_of",
    "is_message",
    "is_to_be_sent",
]

BLIND_MAX: Final = 20  # each is a whole message of its own
_BREAKING: Final = re.compile(r"[\x00-\x1f\x7f]")
_MESSAGE_ID: Final = re.compile(r"<[!-;=?-~]{1,200}@[A-Za-z0-9.-]{1,255}>")
# fhir.md 3.4: elements that have no place in a Direct message.
_STAYS: Final = (
    "encounter",
    "about",
    "note",
    "language",
    "subject",
    "category",
    "reasonCode",
    "reasonReference",
    "instantiatesCanonical",
    "instantiatesUri",
    "modifierExtension",
    "text",
    "sent",  # another takes its place
)


@dataclass(frozen=True, slots=True)
class Content:
    """One attachment to be. Either `url` (of our own Binary) or `octets` holds it."""

    at: str  # FHIRPath of the payload
    url: str | None
    octets: bytes | None
    content_type: str | None
    title: str | None
    content_id: str | None
    role: str
    size: int | None
    sha1: str | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as the client means it.

    `addresses` has the address of each `recipient` element in order, `stays` the names of the
    elements that will not travel.
    """

    sender: Mailbox
    addresses: tuple[DirectAddress, ...]
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]
    subject: str
    message_id: str | None
    priority: str | None
    text: str | None
    contents: tuple[Content, ...]
    wants_dispatched: bool
    stays: tuple[str, ...]


def is_message(resource: Mapping[str, Any]) -> bool:
    """Say whether the Communication is a message; a thread header has no payload (fhir.md 2)."""
    return "payload" in resource or "partOf" in resource


def is_to_be_sent(resource: Mapping[str, Any]) -> bool:
    """Say whether creating this Communication means sending it (D10)."""
    if resource.get("status") != "in-progress":
        return False
    medium = resource.get("medium", ())
    return is_direct(medium) if medium else is_message(resource)


def draft_of(resource: JSON, *, directory: Mapping[str, JSON], terms: Terms) -> Draft:
    """Return what to send. `directory` has the local resources that `resource` refers to.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED (422), with every issue: an actor without exactly one
            Direct address, a value that would break a header, no content, a foreign URL.
    """
    reader = _Reader(resource, directory, terms)
    draft = reader.draft()
    if draft is None or reader.issues:
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, reader.issues)
    return draft


def direct_addresses(actor: Mapping[str, Any]) -> list[DirectAddress]:
    """Return the Direct addresses of a directory resource, the best ranked ones only.

    A telecom counts where it is an e-mail address with us-core-direct; if none is so marked,
    each e-mail telecom counts. An Endpoint counts by its connection type.
    """
    if actor.get("resourceType") == "Endpoint":
        code = actor.get("connectionType", {}).get("code")
        return _parsed([actor.get("address", "")]) if code == "direct-project" else []
    mails = [t for t in actor.get("telecom", ()) if t.get("system") == "email" and t.get("value")]
    marked = [t for t in mails if extension_value(t, US_CORE_DIRECT) is True]
    candidates = [t for t in marked or mails if t.get("use") != "old"]
    # FHIR: a lower rank is preferred; without a rank, last.
    best = min((t.get("rank", 10_000) for t in candidates), default=None)
    return _parsed([t["value"] for t in candidates if t.get("rank", 10_000) == best])


def contact_references(actor: Mapping[str, Any]) -> list[str]:
    """Return what else says where to reach `actor`: its Endpoints, the person in a role."""
    references = [*actor.get("endpoint", ()), actor.get("practitioner", {})]
    return [r["reference"] for r in references if "reference" in r]


def _parsed(values: Sequence[str]) -> list[DirectAddress]:
    found: dict[DirectAddress, None] = {}
    for value in values:
        try:
            found[parse_address(value.removeprefix(MAILTO))] = None
        except DirectError:
            continue
    return list(found)


def _each_once(recipients: list[tuple[str, Mailbox]]) -> list[tuple[str, Mailbox]]:
    """Return each address once: as all may see it, where it is also named blindly."""
    found: dict[DirectAddress, tuple[str, Mailbox]] = {}
    for role, mailbox in sorted(recipients, key=lambda each: each[0] == "bcc"):
        found.setdefault(mailbox.address, (role, mailbox))
    return list(found.values())


class _Reader:
    def __init__(self, resource: JSON, directory: Mapping[str, JSON], terms: Terms) -> None:
        self.resource = resource
        self.directory = directory
        self.terms = terms
        self.issues: list[Issue] = []
        self.resolved: list[DirectAddress] = []
        self.contained = {f"#{item.get('id')}": item for item in resource.get("contained", ())}

    def draft(self) -> Draft | None:
        resource = self.resource
        sender = self.mailbox(resource.get("sender"), "Communication.sender")
        recipients = _each_once(list(self.recipients()))
        if sum(role == "bcc" for role, _ in recipients) > BLIND_MAX:
            text = f"A message has at most {BLIND_MAX} blind copies."
            self.refuse("too-costly", text, "recipient")
        subject = self.header_text(resource.get("topic", {}).get("text", ""), "topic.text")
        payload = outgoing_payload(resource, self.terms)
        texts = [p["contentString"] for _, p in payload if "contentString" in p]
        contents = tuple(self.contents())
        if not texts and not contents:
            # fhir.md 3.7: Direct needs content.
            self.refuse("required", "A message needs a body or an attachment.", "payload")
        message_id = message_id_of(resource.get("identifier", ()))
        if sender is None:
            return None
        return Draft(
            sender=sender,
            addresses=tuple(self.resolved),
            to=tuple(mailbox for role, mailbox in recipients if role == "to"),
            cc=tuple(mailbox for role, mailbox in recipients if role == "cc"),
            bcc=tuple(mailbox for role, mailbox in recipients if role == "bcc"),
            subject=subject,
            message_id=self.own_message_id(message_id, sender.address),
            priority=resource.get("priority"),
            text="\n\n".join(texts) if texts else None,
            contents=contents,
            wants_dispatched=extension_value(resource, self.terms.extension("wants-dispatched"))
            is True,
            stays=self.stays(),
        )

    def stays(self) -> tuple[str, ...]:
        ours = f"{self.terms.canonical}/"
        foreign = any(
            not str(item.get("url", "")).startswith(ours)
            for item in self.resource.get("extension", ())
        )
        named = [name for name in _STAYS if name in self.resource]
        return (*named, "extension") if foreign else tuple(named)

    def recipients(self) -> Iterator[tuple[str, Mailbox]]:
        listed = self.resource.get("recipient", ())
        if not listed:
            self.refuse("required", "A message needs a recipient.", "recipient")
        for position, reference in enumerate(listed):
            at = f"Communication.recipient[{position}]"
            role = extension_value(reference, self.terms.extension("recipient-role")) or "to"
            if role not in ("to", "cc", "bcc"):
                self.issues.append(Issue("code-invalid", "A recipient is to, cc or bcc.", at))
                continue
            mailbox = self.mailbox(reference, at)
            if mailbox is None:
                continue
            self.resolved.append(mailbox.address)
            yield role, mailbox

    def mailbox(self, reference: JSON | None, at: str) -> Mailbox | None:
        """Return the one Direct address that `reference` means."""
        if reference is None:
            self.issues.append(Issue("required", "This element is required to send.", at))
            return None
        found = self.addresses(reference)
        if len(found) != 1:
            text = (
                "This leads to no Direct address."
                if not found
                else ("This leads to more than one Direct address.")
            )
            self.issues.append(Issue("not-found" if not found else "multiple-matches", text, at))
            return None
        name = self.header_text(reference.get("display", ""), f"{at}.display")
        return Mailbox(name, found[0])

    def addresses(self, reference: JSON) -> list[DirectAddress]:
        value = reference.get("identifier", {}).get("value")
        by_identifier = (
            _parsed([value]) if isinstance(value, str) and value.startswith(MAILTO) else []
        )
        literal = reference.get("reference", "")
        actor = self.contained.get(literal) or self.directory.get(literal)
        by_actor = self.of_actor(actor) if actor else []
        # The identifier chooses among the addresses of an actor; both may also say the same.
        if by_identifier:
            return (
                by_identifier
                if by_identifier[0] in by_actor or not by_actor
                else [*by_identifier, *by_actor]
            )
        return by_actor

    def of_actor(self, actor: JSON) -> list[DirectAddress]:
        """Return the addresses of `actor`: its own, else those of what it names for contact."""
        own = direct_addresses(actor)
        if own:
            return own
        others = [
            self.contained.get(literal) or self.directory.get(literal)
            for literal in contact_references(actor)
        ]
        return list(dict.fromkeys(a for o in others if o for a in direct_addresses(o)))

    def contents(self) -> Iterator[Content]:
        for position, payload in outgoing_payload(self.resource, self.terms):
            at = f"Communication.payload[{position}]"
            part = mime_part_of(payload, self.terms)
            if "contentAttachment" in payload:
                content = self.attachment(
                    payload["contentAttachment"], part, f"{at}.contentAttachment"
                )
                if content is not None:
                    yield content
            elif "contentReference" in payload:
                yield from self.referred(payload["contentReference"], part, at)

    def attachment(self, attachment: JSON, part: Mapping[str, Any], at: str) -> Content | None:
        url = attachment.get("url")
        if url is None:
            self.issues.append(Issue("required", "An attachment needs data or a url.", at))
            return None
        return Content(
            at=at,
            url=url,
            octets=None,
            content_type=attachment.get("contentType"),
            title=self.header_text(attachment.get("title", ""), f"{at}.title") or None,
            content_id=self.header_text(part.get("content-id", ""), f"{at}.content-id") or None,
            role=part.get("role", "attachment"),
            size=attachment.get("size"),
            sha1=attachment.get("hash"),
        )

    def referred(self, reference: JSON, part: Mapping[str, Any], at: str) -> Iterator[Content]:
        """Yield what `contentReference` adds: documents as they are, others as FHIR JSON."""
        at = f"{at}.contentReference"
        literal = reference.get("reference", "")
        if literal.startswith("Binary/"):
            yield Content(
                at, literal, None, None, reference.get("display"), None, "attachment", None, None
            )
            return
        target = self.contained.get(literal) or self.directory.get(literal)
        if target is None:
            self.issues.append(Issue("not-found", "This refers to nothing stored here.", at))
        elif target.get("resourceType") == "DocumentReference":
            for number, item in enumerate(target.get("content", ())):
                content = self.attachment(item["attachment"], part, f"{at}.content[{number}]")
                if content is not None:
                    yield content
        else:
            title = f"{target.get('resourceType')}-{target.get('id')}.json"
            yield Content(
                at,
                None,
                dump(target),
                "application/fhir+json",
                title,
                None,
                "attachment",
                None,
                None,
            )

    def header_text(self, text: str, at: str) -> str:
        """Return `text` where it may stand in a header field (fhir.md 3.4: else 422)."""
        if _BREAKING.search(text):
            at = at if at.startswith("Communication") else f"Communication.{at}"
            self.issues.append(Issue("value", "No line breaks or controls are allowed here.", at))
        return text

    def own_message_id(self, message_id: str | None, sender: DirectAddress) -> str | None:
        """Return the client's Message-ID where it is on the sender's domain (fhir.md 3.4)."""
        if message_id is None or not message_id.lower().endswith(f"@{sender.domain}>"):
            return None
        if not _MESSAGE_ID.fullmatch(message_id):
            self.refuse("value", "This is not a Message-ID.", "identifier")
        return message_id

    def refuse(self, code: str, text: str, element: str) -> None:
        self.issues.append(Issue(code, text, f"Communication.{element}"))
