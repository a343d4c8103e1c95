"""From the draft to the letter that is written, and to the resource that is stored beside it.

Pure.

Standards:
    FHIR    R4 Communication
    fhir.md section 3.4
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import BinaryIO

from certs.address import DirectAddress
from fhir_bridge.binary_rows import BinaryRow
from fhir_bridge.compose import Ancestry, Attachment, Letter
from fhir_bridge.delivery import RecipientState, with_delivery
from fhir_bridge.envelope import unmarked
from fhir_bridge.mime import blocks_of, decoder
from fhir_bridge.outbound import Content, Draft
from fhir_bridge.terms import (
    DIRECT_MEDIUM,
    JSON,
    Terms,
    is_direct,
    mailto_identifier,
    message_id_of,
    mid_identifier,
)
from fhir_bridge.trust import instant

__all__ = ["letter_of", "octets_of", "stored_form", "with_urls"]


def letter_of(
    draft: Draft,
    *,
    message_id: str,
    date: datetime,
    ancestry: Ancestry,
    binaries: Mapping[str, BinaryRow],
    files: Mapping[str, BinaryIO],
) -> Letter:
    """Return the letter to write.

    `binaries` has the Binary of each content by its `at`, `files` the open body of each
    `body_key`. The first HTML body becomes the alternative to the text.
    """
    html = None
    attachments = []
    for content in draft.contents:
        row = binaries.get(content.at)
        if row is not None and content.role == "body-html" and html is None:
            html = b"".join(octets_of(row, files[row.body_key])).decode("utf-8", "replace")
        else:
            attachments.append(_attachment(content, row, files))
    return Letter(
        sender=draft.sender,
        to=draft.to,
        cc=draft.cc,
        subject=draft.subject,
        message_id=message_id,
        date=date,
        in_reply_to=ancestry.in_reply_to,
        references=ancestry.references,
        priority=draft.priority,
        wants_dispatched=draft.wants_dispatched,
        text=draft.text,
        html=html,
        attachments=tuple(attachments),
    )


def octets_of(row: BinaryRow, file: BinaryIO) -> Iterator[bytes]:
    """Yield the decoded octets of a Binary from its open body."""
    return decoder(row.encoding, blocks_of(file, row.offset, row.length))


def stored_form(
    resource: JSON,
    draft: Draft,
    *,
    message_id: str,
    thread_id: str,
    date: datetime,
    terms: Terms,
) -> JSON:
    """Return `resource` with what the gateway decided: Message-ID, time, medium, addresses."""
    ours = {terms.extension(name) for name in ("thread-id", "direction")}
    kept = [e for e in resource.get("extension", ()) if e.get("url") not in ours]
    identifiers = resource.get("identifier", [])
    if message_id_of(identifiers) != message_id:
        identifiers = [*identifiers, mid_identifier(message_id)]
    media = resource.get("medium", [])
    addressed = zip(resource["recipient"], draft.addresses, strict=True)
    stored: JSON = {
        **resource,
        "extension": [
            *kept,
            {"url": terms.extension("thread-id"), "valueString": thread_id},
            {"url": terms.extension("direction"), "valueCode": "outbound"},
        ],
        "identifier": identifiers,
        "medium": media if is_direct(media) else [*media, DIRECT_MEDIUM],
        "sent": instant(date),
        "sender": _named(resource["sender"], draft.sender.address),
        "recipient": [_named(reference, address) for reference, address in addressed],
    }
    queued = [RecipientState(address, "queued", date) for address in draft.addresses]
    return with_delivery(stored, queued, terms=terms)


def with_urls(resource: JSON, placed: Mapping[str, BinaryRow]) -> JSON:
    """Return `resource` with each attachment pointing to its Binary, with its size and hash.

    `placed` has the Binary by the `url` that the client wrote (decision D4).
    """
    payloads = []
    for payload in resource.get("payload", ()):
        attachment = payload.get("contentAttachment", {})
        if (row := placed.get(attachment.get("url", ""))) is not None:
            told = {"size": row.size, "hash": row.sha1, **attachment, "url": f"Binary/{row.id}"}
            payload = {**payload, "contentAttachment": told}
        payloads.append(payload)
    return {**resource, "payload": payloads} if payloads else resource


def _named(reference: JSON, address: DirectAddress) -> JSON:
    # fhir.md 3.2 (3): whatever it refers to, the address is always there too.
    if "identifier" in reference:
        return reference
    return {**reference, "identifier": mailto_identifier(str(address))}


def _attachment(
    content: Content, row: BinaryRow | None, files: Mapping[str, BinaryIO]
) -> Attachment:
    # An envelope that came with another message is an attachment of this one.
    kind = unmarked(
        content.content_type or (row.content_type if row else "application/octet-stream")
    )
    title = content.title or (row.filename if row else None)

    def blocks() -> Iterator[bytes]:
        if row is None:
            return iter([content.octets or b""])
        return octets_of(row, files[row.body_key])

    return Attachment(kind, title, content.content_id, content.role == "inline", blocks)
