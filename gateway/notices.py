"""The notifications that we send: MDNs to other HISPs, DSNs and confirmations to our own users.

Talks to the body store, to make a notice as durable as any message before it is committed.

Standards:
    AS  Applicability Statement v1.3, section 3 (AS-090 to AS-094)
    DN  DN-003 to DN-006, DN-016, DN-020 of the requirements; K-03, K-12
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import structlog

from certs.address import DirectAddress
from certs.ids import new_id
from gateway import dsn, mdn
from gateway.inbox import Entry
from gateway.mdn import Disposition
from gateway.message import Facts, facts_of
from gateway.messages import Direction, Kind, Message, NewMessage, Source
from gateway.ports import BodyStore

__all__ = ["Notices"]

_log = structlog.get_logger(__name__)


class Notices:
    """Makes notices, ready to be accepted like any other message."""

    def __init__(self, *, bodies: BodyStore, hostname: str) -> None:
        self._bodies = bodies
        self._hostname = hostname

    async def answers(self, original: Facts, entry: Entry, now: datetime) -> list[NewMessage]:
        """Return the MDNs that go out as `entry` is stored.

        Processed always (AS-090); dispatched where it was asked for and the recipient can read
        the message already (DN-003).
        """
        dispositions = [Disposition.PROCESSED]
        if entry.dispatched and mdn.wants_dispatched(original.notification_options):
            dispositions.append(Disposition.DISPATCHED)
        return [
            await self.mdn(
                disposition,
                parent=entry.arrival.message,
                original=original,
                recipient=entry.mailbox,
                now=now,
            )
            for disposition in dispositions
        ]

    async def mdn(
        self,
        disposition: Disposition,
        *,
        parent: UUID,
        original: Facts,
        recipient: DirectAddress,
        now: datetime,
    ) -> NewMessage:
        """Return an MDN of `disposition` that speaks for `recipient` of message `parent`."""
        identifier = new_id(now)
        message_id = f"<{identifier}@{recipient.domain}>"
        wanted = mdn.wants_dispatched(original.notification_options)
        text = mdn.build(
            disposition=disposition,
            original=original,
            recipient=recipient,
            message_id=message_id,
            boundary=f"mdn-{identifier.hex}",
            now=now,
            reporting_ua=f"{self._hostname}; direct-gateway",
            # DN-004, DN-005: only in a notice of the final delivery, and only where asked for.
            final_destination=wanted and disposition is not Disposition.PROCESSED,
        )
        return await self._new(
            text,
            identifier=identifier,
            direction=Direction.OUTGOING,
            kind=Kind.MDN,
            # K-03: AS v1.3 demands MAIL FROM = From of every message on the backbone.
            sender=recipient,
            author=recipient,
            recipient=mdn.answer_to(original),
            message_id=message_id,
            parent=parent,
            once=f"{disposition.value} {recipient.key}",
        )

    async def dsn(
        self, message: Message, header: bytes, outcomes: Sequence[dsn.Outcome], now: datetime
    ) -> tuple[NewMessage, bytes]:
        """Return a DSN that tells the author of `message` what became of it, and its text.

        `header` is the header of the message as it was submitted.
        """
        original = _as_sent(message, header)
        identifier = new_id(now)
        domain = original.author.domain
        postmaster = DirectAddress("postmaster", domain)
        message_id = f"<{identifier}@{domain}>"
        text = dsn.build(
            original=original,
            original_header=header,
            outcomes=outcomes,
            reporting_mta=self._hostname,
            postmaster=postmaster,
            message_id=message_id,
            boundary=f"dsn-{identifier.hex}",
            now=now,
            envelope_id=message.envelope_id,
        )
        new = await self._new(
            text,
            identifier=identifier,
            direction=Direction.INCOMING,
            kind=Kind.DSN,
            sender=None,
            author=postmaster,
            recipient=original.author,
            message_id=message_id,
            parent=message.id,
            once=" ".join(sorted(_once(outcome) for outcome in outcomes)),
        )
        return new, text

    async def confirmation(
        self, message: Message, header: bytes, recipient: DirectAddress, now: datetime
    ) -> tuple[NewMessage, bytes]:
        """Return the MDN that tells the author of `message` of its delivery, and its text (DN-016).

        It says what the recipient's HISP has said, in two notices; `header` is as for `dsn`.
        """
        original = _as_sent(message, header)
        identifier = new_id(now)
        message_id = f"<{identifier}@{original.author.domain}>"
        text = mdn.build(
            disposition=Disposition.DISPATCHED,
            original=original,
            recipient=recipient,
            message_id=message_id,
            boundary=f"mdn-{identifier.hex}",
            now=now,
            reporting_ua=f"{self._hostname}; direct-gateway",
            final_destination=True,
        )
        new = await self._new(
            text,
            identifier=identifier,
            direction=Direction.INCOMING,
            kind=Kind.MDN,
            sender=None,
            author=recipient,
            recipient=original.author,
            message_id=message_id,
            parent=message.id,
            once=f"confirmed {recipient.key}",
        )
        return new, text

    async def _new(
        self,
        text: bytes,
        *,
        identifier: UUID,
        direction: Direction,
        kind: Kind,
        sender: DirectAddress | None,
        author: DirectAddress,
        recipient: DirectAddress,
        message_id: str,
        parent: UUID,
        once: str,
    ) -> NewMessage:
        sink = self._bodies.sink()
        sink.write(text)
        # A job may run again after a crash: the same notice has the same key, and is sent once.
        key = hashlib.sha256(f"{parent} {kind.value} {once}".encode()).hexdigest()
        _log.info("notice made", message=str(identifier), about=str(parent), kind=kind.value)
        return NewMessage(
            id=identifier,
            direction=direction,
            source=Source.AGENT,
            actor="agent",
            kind=kind,
            envelope_sender=sender,
            author=author,
            recipients=(recipient,),
            body=await sink.finish(),
            message_id_header=message_id,
            dedupe_key=key,
            parent=parent,
        )


def _once(outcome: dsn.Outcome) -> str:
    # A failure may follow a success of the modest kind, and both be told.
    return f"{outcome.recipient.key} {outcome.action.value} {outcome.status}"


def _as_sent(message: Message, header: bytes) -> Facts:
    """Return what is known of our own message; without a Message-ID it went out under ours."""
    return replace(facts_of(io.BytesIO(header)), message_id=message.message_id_header)
