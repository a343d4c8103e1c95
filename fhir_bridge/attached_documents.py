"""Attachments that name a DocumentReference: its one file takes its place.

Pure.

Standards:
    FHIR    R4 Attachment.url, DocumentReference.content
    fhir.md section 3.4, row on `data` and `url`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.terms import JSON

__all__ = ["document_urls", "with_files"]


def document_urls(resource: Mapping[str, Any], base_url: str) -> set[str]:
    """Return the documents of ours, as literal references, that attachments of `resource` name."""
    return {literal for _, literal in _named(resource, base_url)}


def with_files(resource: JSON, documents: Mapping[str, JSON], base_url: str) -> JSON:
    """Return `resource` with the file of each of `documents`, by literal reference, in its place.

    What the client says of the attachment stays, to be checked against the file.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED (422); a document that has not exactly one file.
    """
    issues: list[Issue] = []
    payload = list(resource.get("payload", ()))
    for position, literal in _named(resource, base_url):
        if literal not in documents:
            continue  # whoever attaches it says that there is none
        files = [content["attachment"] for content in documents[literal].get("content", ())]
        if len(files) != 1 or "url" not in files[0]:
            text = "This document has not exactly one file: refer to it by contentReference."
            at = f"Communication.payload[{position}].contentAttachment.url"
            issues.append(Issue("multiple-matches", text, at))
            continue
        given = payload[position]["contentAttachment"]
        attachment = {**files[0], **given, "url": files[0]["url"]}
        payload[position] = {**payload[position], "contentAttachment": attachment}
    if issues:
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, issues)
    return {**resource, "payload": payload} if payload else resource


def _named(resource: Mapping[str, Any], base_url: str) -> Iterator[tuple[int, str]]:
    base = base_url.rstrip("/") + "/"
    for position, payload in enumerate(resource.get("payload", ())):
        url = payload.get("contentAttachment", {}).get("url")
        literal = url.removeprefix(base) if isinstance(url, str) else ""
        if literal.startswith("DocumentReference/"):
            yield position, literal
