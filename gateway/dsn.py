"""Delivery status notifications: the reports to our own edge, and those of peers.

Pure. Only the header of a message is ever returned, never its body (R-043).

Standards:
    RFC3464 sections 2 (format) and 2.3 (fields per recipient) · RFC6522 · RFC3463
    RFC3461 section 6.3 (Original-Envelope-Id, Original-Recipient)
    DNIG    Implementation Guide for Delivery Notification in Direct v1.0 (X-Original-Message-ID)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from enum import Enum, unique
from typing import BinaryIO, Final

from certs.address import DirectAddress
from gateway.message import Facts
from gateway.report import (
    Group,
    Notice,
    Part,
    address_of,
    compose,
    crlf_lines,
    one_line,
    read_report,
)

__all__ = ["Action", "Dsn", "DsnRecipient", "Outcome", "build", "parse"]

_STATUS: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_MESSAGE_ID: Final = "X-Original-Message-ID"


@unique
class Action(Enum):
    """What became of a message for one recipient, so far (RFC3464 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"  # we go on trying
    # The recipient's system has it, and tells nobody of its delivery. A failure may follow.
    RELAYED = "relayed"
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to tell of one recipient.

    `status` is the enhanced code and `text` says why, in words for the sender. `remote` is the
    name of the host that said so, where it was not we; then `text` holds its words. `original` is
    the sender's ORCPT, and `until` is when we give up what is delayed.
    """

    recipient: DirectAddress
    status: str
    text: str
    remote: str | None = None
    action: Action = Action.FAILED
    original: str | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class DsnRecipient:
    """What a peer's DSN says of one recipient. `status` is None where it is unreadable."""

    recipient: DirectAddress | None
    action: str
    status: str | None

    @property
    def failed(self) -> bool:
        """Is this the end of the message's way to this recipient?"""
        return self.action == "failed"


@dataclass(frozen=True, slots=True)
class Dsn:
    """What a peer's DSN says."""

    original_message_id: str | None
    recipients: tuple[DsnRecipient, ...]


def build(
    *,
    original: Facts,
    original_header: bytes,
    outcomes: Sequence[Outcome],
    reporting_mta: str,
    postmaster: DirectAddress,
    message_id: str,
    boundary: str,
    now: datetime,
    envelope_id: str | None = None,
) -> bytes:
    """Return the report, a whole message, of what became of `original` for some recipients.

    It is for the author, from the `postmaster` of the author's domain (DN-020). The action of the
    first outcome is the subject.

    Raises:
        DirectError: MESSAGE_MALFORMED; a value is not fit for a header.
    """
    about = original.message_id
    notice = Notice(
        sender=postmaster,
        recipient=original.author,
        subject=_SUBJECTS[outcomes[0].action],
        message_id=message_id,
        about=about,
        now=now,
    )
    message_fields = [f"Reporting-MTA: dns; {reporting_mta}"]
    if envelope_id is not None:
        message_fields.append(f"Original-Envelope-Id: {one_line(envelope_id)}")
    if about is not None:
        # DNIG, DN-020: lets an edge system find its message without reading our words (T-46).
        message_fields.append(f"{_MESSAGE_ID}: {about}")
    groups = [message_fields, *(_recipient_fields(each) for each in outcomes)]
    return compose(
        notice,
        "delivery-status",
        boundary,
        [
            Part("text/plain; charset=us-ascii", crlf_lines(_explanation(about, outcomes))),
            Part("message/delivery-status", b"\r\n".join(map(crlf_lines, groups))),
            Part("text/rfc822-headers", _returnable(original_header)),
        ],
    )


def parse(message: BinaryIO) -> Dsn:
    """Return what the report says of each recipient it names.

    Raises:
        DirectError: MESSAGE_MALFORMED; it has no delivery-status part.
    """
    report = read_report(message, "message/delivery-status")
    named = (group.get(_MESSAGE_ID.lower()) for group in report.groups)
    message_id = next(filter(None, named), None) or report.returned.get("message-id")
    recipients = tuple(_recipient(group) for group in report.groups if "action" in group)
    return Dsn(message_id or None, recipients)


def _recipient_fields(each: Outcome) -> list[str]:
    fields = [
        f"Final-Recipient: rfc822;{each.recipient}",
        f"Action: {each.action.value}",
        f"Status: {_status(each)}",
    ]
    if each.original is not None:
        fields.insert(0, f"Original-Recipient: {one_line(each.original, _ORIGINAL_OCTETS)}")
    if each.remote is not None:
        fields.append(f"Remote-MTA: dns; {one_line(each.remote)}")
        fields.append(f"Diagnostic-Code: smtp; {one_line(each.text)}")
    if each.until is not None:
        fields.append(f"Will-Retry-Until: {format_datetime(each.until)}")
    return fields


def _status(each: Outcome) -> str:
    # RFC3464 2.3.4: the class must agree with the action. What was temporary until we gave up is
    # permanent now.
    digit = _CLASSES[each.action]
    return f"{digit}{each.status[1:]}" if _STATUS.fullmatch(each.status) else f"{digit}.0.0"


def _explanation(about: str | None, outcomes: Sequence[Outcome]) -> list[str]:
    lines = [_INTRODUCTIONS[outcomes[0].action], ""]
    for each in outcomes:
        said = f"{each.remote} said: {each.text}" if each.remote else each.text
        lines += [f"    {each.recipient}", f"        {one_line(said)}", ""]
    lines.append("Any other recipients are not concerned by this notice.")
    if about is not None:
        lines.append(f"Message-ID: {about}")
    return lines


def _returnable(header: bytes) -> bytes:
    # RFC2046 5.1: a part without an encoding is 7bit; what was not ASCII in the header is masked.
    text = header.decode("ascii", "replace").replace("\ufffd", "?")
    return crlf_lines([line for line in text.splitlines() if line])


def _recipient(group: Group) -> DsnRecipient:
    status = _STATUS.match(group.get("status", ""))
    return DsnRecipient(
        recipient=address_of(group.get("final-recipient"))
        or address_of(group.get("original-recipient")),
        action=group["action"].partition("(")[0].strip().lower(),
        status=status[0] if status else None,
    )


_ORIGINAL_OCTETS: Final = 500  # RFC3461 4.2
_CLASSES: Final = {
    Action.FAILED: "5",
    Action.DELAYED: "4",
    Action.RELAYED: "2",
    Action.DELIVERED: "2",
}
_SUBJECTS: Final = {
    Action.FAILED: "Delivery failed: your message did not reach every recipient",
    Action.DELAYED: "Delivery delayed: your message has not reached every recipient yet",
    Action.RELAYED: "Accepted: the recipient's system has your message",
    Action.DELIVERED: "Delivered: the recipient has your message",
}
_INTRODUCTIONS: Final = {
    Action.FAILED: "Your message could not be delivered to:",
    Action.DELAYED: "Your message could not be delivered yet, and is tried again, to:",
    Action.RELAYED: "Your message was accepted by the system of:",
    Action.DELIVERED: "Your message was delivered to:",
}
