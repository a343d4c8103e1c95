"""The e-mail channel: a Direct message that says that something changed.

Talks to the body store and the outbox. It is sent as the mailbox that the news belongs to, goes
the way of every Direct message (certificate, trust, notifications), and names the resource
without a word of it.

Standards:
    FHIR    R4 subscription.html: channel email
    RFC3834 sections 2 and 5 (Auto-Submitted): no answer to an answer, so that two subscribers
            cannot keep each other busy
    fhir.md section 4.4
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress
from fhir_bridge.compose import Letter, compose
from fhir_bridge.headers import Mailbox
from fhir_bridge.hook_calls import Event
from fhir_bridge.ports import Bodies, Outbox, Submission
from fhir_bridge.terms import JSON, Terms, message_id_of

__all__ = ["MailChannel", "is_notice", "notice"]

_NOTICE: Final = "<subscription-notice."


class MailChannel:
    """Sends notices."""

    def __init__(self, *, bodies: Bodies, outbox: Outbox, base_url: str) -> None:
        self._bodies = bodies
        self._outbox = outbox
        self._base_url = base_url

    async def send(
        self,
        event: Event,
        sender: DirectAddress,
        recipient: DirectAddress,
        now: datetime,
        record: Callable[[sa.Connection, UUID], None],
    ) -> None:
        """Hand a notice of `event` to the outbox; `record` runs in the transaction that takes it.

        Raises:
            DirectError: what the outbox raises.
        """
        letter = notice(event, sender, recipient, base_url=self._base_url, now=now)
        written = io.BytesIO(b"")
        await asyncio.to_thread(compose, letter, written, boundary=f"=_{event.id.hex}")
        sink = self._bodies.sink()
        try:
            sink.write(b"Auto-Submitted: auto-generated\r\n" + written.getvalue())
            body = await sink.finish()
        except BaseException:
            await sink.discard()
            raise
        submission = Submission(sender, (recipient,), body, letter.message_id, False)
        await self._outbox.submit(submission, record)


def notice(
    event: Event,
    sender: DirectAddress,
    recipient: DirectAddress,
    *,
    base_url: str,
    now: datetime,
) -> Letter:
    """Return the letter: where the news is, and nothing of it."""
    text = (
        "There is news for a subscription of yours:\n\n"
        f"{base_url}/{event.versioned}\n\n"
        "This message was made by a program; an answer to it is read by nobody.\n"
    )
    return Letter(
        sender=Mailbox("", sender),
        to=(Mailbox("", recipient),),
        cc=(),
        subject="News for a subscription",
        message_id=f"{_NOTICE}{event.id}@{sender.domain}>",
        date=now,
        in_reply_to=None,
        references=(),
        priority=None,
        wants_dispatched=False,
        text=text,
        html=None,
        attachments=(),
    )


def is_notice(resource: JSON, terms: Terms) -> bool:
    """Say whether a Communication is a notice of this or another gateway, or an MDN or DSN.

    To tell of an MDN by mail would bring the next one.
    """
    if (message_id_of(resource.get("identifier", ())) or "").startswith(_NOTICE):
        return True
    codings = (c for each in resource.get("category", ()) for c in each.get("coding", ()))
    return any(coding.get("system") == terms.system("notice") for coding in codings)
