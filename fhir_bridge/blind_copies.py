"""Blind copies: each is a message of its own, which names nobody else that is blind.

Pure, but for two store functions at the end: plain synchronous SQL that never commits.

AS 1.3 wants every recipient of a Direct message in its To or Cc (AS-029), so that a Bcc is not
possible on the backbone: who is copied blindly gets a message in which it stands in To (AS-030),
beside those whom all may see. The messages to the others know nothing of it. It has a Message-ID
of its own, and refers to that of the others, so that an answer finds the thread.

Standards:
    AS      Applicability Statement v1.3 (AS-025, AS-029, AS-030)
    RFC5322 section 3.6.3 (Bcc: the second of its three ways), section 3.6.4
    fhir.md section 3.4, row on recipients; section 3.7, row on bcc
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import sqlalchemy as sa

from fhir_bridge.compose import Ancestry
from fhir_bridge.headers import Mailbox
from fhir_bridge.outbound import Draft
from fhir_bridge.tables import fhir_blind_copy

__all__ = ["Copy", "copies_of", "keep_copies", "original_of"]


@dataclass(frozen=True, slots=True)
class Copy:
    """A message to write: `draft` as its readers see it. `id` is None for what all see."""

    id: UUID | None
    draft: Draft
    message_id: str
    ancestry: Ancestry

    @property
    def recipients(self) -> tuple[Mailbox, ...]:
        """Whom it goes to: of a blind copy, the last of To."""
        draft = self.draft
        return (*draft.to, *draft.cc) if self.id is None else draft.to[-1:]


def copies_of(
    draft: Draft, *, message_id: str, ancestry: Ancestry, ids: Sequence[UUID]
) -> tuple[Copy, ...]:
    """Return the messages that `draft` is sent as; what all see, if there are any, comes first.

    `ids` are those of the gateway's messages, one for each blind copy.
    """
    seen = replace(draft, bcc=())
    copies = [Copy(None, seen, message_id, ancestry)] if seen.to or seen.cc else []
    for identity, blind in zip(ids, draft.bcc, strict=True):
        own, before = message_id, ancestry
        if copies:
            own = f"<{identity}@{draft.sender.address.domain}>"
            before = replace(ancestry, references=(*ancestry.references, message_id))
        shown = replace(seen, to=(*seen.to, blind))
        copies.append(Copy(identity, shown, own, before))
    return tuple(copies)


def keep_copies(connection: sa.Connection, communication: UUID, copies: Sequence[Copy]) -> None:
    """Record which of the gateway's messages are blind copies of `communication`."""
    ids = [copy.id for copy in copies if copy.id is not None]
    rows = [{"message_id": message, "communication_id": communication} for message in ids]
    if rows:
        connection.execute(fhir_blind_copy.insert(), rows)


def original_of(connection: sa.Connection, message: UUID) -> UUID | None:
    """Return the Communication that the gateway's `message` is a blind copy of."""
    return connection.execute(
        sa.select(fhir_blind_copy.c.communication_id).where(fhir_blind_copy.c.message_id == message)
    ).scalar_one_or_none()
