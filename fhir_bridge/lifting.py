"""Move the octets of inline attachments out of a resource, into the body store.

Talks to the body store. The models never see `data`: their cost and memory would be several
times the attachment (fhir.md 1.2), and they let bad base64 through as nothing (1.3).

Standards:
    FHIR    R4 Attachment: `data` base64Binary, `size`, `hash` (SHA-1 in base64)
    RFC4648 section 4: with padding, nothing outside the alphabet
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import pybase64

from certs.errors import Reason
from certs.ids import new_id
from fhir_bridge.binary_rows import BinaryRow, measure
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.ports import Bodies, Body
from fhir_bridge.terms import JSON

__all__ = ["Lifted", "binary_id", "lift"]


# The elements of type Attachment in the types served here.
_ATTACHMENT: Final = re.compile(
    r"\.(?:\w*[aA]ttachment|photo\[\d+\])$|^Media\.content$|^\w+\.contained\[\d+\]\.content$"
)


@dataclass(slots=True)
class Lifted:
    """What was moved out: the bodies to record, the Binary rows over them, and their octets.

    `octets` are by body key, because a body cannot be opened before it is recorded.
    """

    bodies: list[Body] = field(default_factory=list)
    octets: dict[str, bytes] = field(default_factory=dict)
    binaries: list[BinaryRow] = field(default_factory=list)


async def lift(resource: JSON, *, bodies: Bodies, owner: str, now: datetime) -> Lifted:
    """Replace `data` of each attachment by `url`, `size` and `hash`, in place.

    Raises:
        FhirError: RESOURCE_INVALID; not strict base64, or a size or hash that does not fit it.
    """
    lifted, issues = Lifted(), []
    for attachment, at in _attachments(resource):
        data = attachment.pop("data")
        try:
            octets = await asyncio.to_thread(_decode, data)
        except (binascii.Error, ValueError):
            issues.append(Issue("value", "This is not base64.", f"{at}.data"))
            continue
        row, body = await _keep(octets, attachment, bodies, owner, now)
        for name, value in (("size", row.size), ("hash", row.sha1)):
            if attachment.get(name, value) != value:
                text = f"The {name} is not that of the data."
                issues.append(Issue("invariant", text, f"{at}.{name}"))
        lifted.bodies.append(body)
        lifted.octets[body.key] = octets
        lifted.binaries.append(row)
        attachment.update(url=f"Binary/{row.id}", size=row.size, hash=row.sha1)
    if issues:
        raise FhirError(Reason.RESOURCE_INVALID, issues)
    return lifted


def _attachments(resource: JSON) -> Iterator[tuple[JSON, str]]:
    """Yield every attachment that has data, with its FHIRPath, in any resource type."""
    pending: list[tuple[Any, str]] = [(resource, str(resource.get("resourceType")))]
    while pending:
        item, at = pending.pop()
        if isinstance(item, list):
            pending.extend((child, f"{at}[{number}]") for number, child in enumerate(item))
        elif isinstance(item, dict):
            if "data" in item and _ATTACHMENT.search(at):
                yield item, at
            pending.extend((child, f"{at}.{name}") for name, child in item.items())


def _decode(data: Any) -> bytes:
    # A value that is no string is no base64 either.
    return pybase64.b64decode(data if isinstance(data, str) else "!", validate=True)


async def _keep(
    octets: bytes, attachment: JSON, bodies: Bodies, owner: str, now: datetime
) -> tuple[BinaryRow, Body]:
    sink = bodies.sink()

    def fill() -> Any:
        sink.write(octets)
        return measure([octets])

    measured = await asyncio.to_thread(fill)
    body = await sink.finish()
    content_type, title = attachment.get("contentType"), attachment.get("title")
    row = BinaryRow(
        id=new_id(now),
        communication_id=None,
        owner=owner,
        body_key=body.key,
        offset=0,
        length=body.size,
        encoding="binary",
        content_type=content_type if isinstance(content_type, str) else "application/octet-stream",
        filename=title[:255] if isinstance(title, str) else None,
        size=measured.size,
        sha1=measured.sha1,
        sha256=measured.sha256,
    )
    return row, body


def binary_id(url: str, base_url: str) -> UUID | None:
    """Return the id of our own Binary that `url` names, relative or absolute; else None."""
    relative = url.removeprefix(base_url.rstrip("/") + "/")
    kind, _, identity = relative.partition("/")
    try:
        return UUID(identity) if kind == "Binary" else None
    except ValueError:
        return None
