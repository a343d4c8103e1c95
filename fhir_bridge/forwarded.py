"""A message that is attached to another one, as a Communication to look at.

Pure. Nobody has judged an attached message: who attached it may have written it. So it is made
from the attachment whenever somebody asks, and stored nowhere: no search, thread, reply or
subscription takes it for one that was received, and it is gone as soon as what it came with is.
A message that is attached to it in turn is an attachment.

Standards:
    RFC2046 section 5.2.1: message/rfc822
    FHIR    R4 Communication; event-status (`unknown`)
    fhir.md section 3.3, row on message/rfc822
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

import pybase64

from certs.address import DirectAddress
from fhir_bridge.binary_rows import BinaryRow
from fhir_bridge.inbound import view
from fhir_bridge.indexing import local_id
from fhir_bridge.mime import decoder
from fhir_bridge.mime_parts import mime_part_of
from fhir_bridge.terms import JSON, Terms, extension_value
from fhir_bridge.trust import Trust

__all__ = ["DATA_OCTETS_MAX", "ENCLOSED_MAX", "attached_messages", "forwarded"]

# Ours. A person looks at these; more than that is there to be fetched as it is.
ENCLOSED_MAX: Final = 20  # of one message
DATA_OCTETS_MAX: Final = 4 * 1024 * 1024  # of the attachments of all of them
_STATED: Final[tuple[str, ...]] = (
    "identifier",
    "priority",
    "topic",
    "sent",
    "inResponseTo",
    "sender",
    "recipient",
)
# What the view of a received message wants to know, and nobody does: none of it is shown.
_NOBODY: Final = DirectAddress("nobody", "invalid")
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNKNOWN: Final = Trust("unknown", None, None, None, None, None, None, _NEVER)


def attached_messages(communication: Mapping[str, Any], terms: Terms) -> list[UUID]:
    """Return the ids of the Binaries of the messages that are attached, the first of them."""
    found = []
    for payload in communication.get("payload", ()):
        attachment = payload.get("contentAttachment", {})
        kind = str(attachment.get("contentType", "")).partition(";")[0].strip().lower()
        identity = local_id(attachment.get("url", ""))
        derived = mime_part_of(payload, terms).get("derived")
        if kind == "message/rfc822" and identity is not None and not derived:
            found.append(identity)
    return found[:ENCLOSED_MAX]


def forwarded(
    message: bytes, *, parent: UUID, binary: UUID, room_octets: int, terms: Terms
) -> JSON:
    """Return `message`, the content of `binary`, which is attached to the Communication `parent`.

    Its sender, recipients and times are what it says itself. Attachments have their data as long
    as all of them take no more than `room_octets`.
    """
    identity = uuid5(parent, f"Forwarded/{binary}")
    made = view(
        io.BytesIO(message),
        message_uuid=identity,
        mailbox=_NOBODY,
        body_key="",
        received_at=_NEVER,
        trust=_UNKNOWN,
        terms=terms,
    )
    seen = made.communication
    stated = {name: seen[name] for name in _STATED if name in seen}
    # A Message-ID of our making, and the mailbox that none is, are not of the message.
    stated["identifier"] = [i for i in seen["identifier"] if "extension" not in i]
    role = terms.extension("recipient-role")
    stated["recipient"] = [r for r in seen["recipient"] if extension_value(r, role) != "bcc"]
    rows = {f"Binary/{row.id}": row for row in made.binaries}
    payload = []
    for each in seen.get("payload", ()):
        if "contentAttachment" in each:
            row = rows[each["contentAttachment"]["url"]]
            octets = _octets(message, row) if row.size <= room_octets else b""
            room_octets -= len(octets)
            each = {**each, "contentAttachment": _with_data(each["contentAttachment"], octets)}
        payload.append(each)
    raw = {"valueReference": {"reference": f"Binary/{binary}"}}
    partial = terms.extension("partial")
    whole: JSON = {
        "resourceType": "Communication",
        "id": str(identity),
        "extension": [
            {"url": terms.extension("not-judged"), "valueBoolean": True},
            {"url": terms.extension("raw-message"), **raw},
            *(e for e in seen["extension"] if e["url"] == partial),
        ],
        "partOf": [{"reference": f"Communication/{parent}"}],
        "status": "unknown",
        **stated,
        "payload": payload,
    }
    return {name: value for name, value in whole.items() if value}


def _octets(message: bytes, row: BinaryRow) -> bytes:
    stretch = message[row.offset : row.offset + row.length]
    return b"".join(decoder(row.encoding, iter([stretch])))


def _with_data(attachment: JSON, octets: bytes) -> JSON:
    kept = {name: value for name, value in attachment.items() if name != "url"}
    return {**kept, "data": pybase64.b64encode(octets).decode()} if octets else kept
