"""Message disposition notifications: processed, dispatched and failed, built and read.

Pure. What we build uses exactly the texts the test tools compare (AS-095); what we read may be
written in any way a deployed system writes it (AS-096).

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, section 3
    DNIG    Implementation Guide for Delivery Notification in Direct v1.0, sections 1.3 and 1.4
    RFC8098 sections 2.1, 2.2 (requests) and 3 (format)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import BinaryIO, Final

from certs.address import DirectAddress
from gateway.message import Facts
from gateway.report import Notice, Part, address_of, compose, crlf_lines, one_line, read_report

__all__ = [
    "FINAL_DESTINATION",
    "Disposition",
    "Mdn",
    "Seen",
    "answer_to",
    "build",
    "parse",
    "wants_dispatched",
]

# DNIG 1.3: the attribute of a request, and 1.4: the field of the notice that answers it.
FINAL_DESTINATION: Final = "X-DIRECT-FINAL-DESTINATION-DELIVERY"


class Disposition(Enum):
    """What became of a message (RFC8098 3.2.6.2). `failed` is DNIG's own (DN-007)."""

    PROCESSED = "processed"
    DISPATCHED = "dispatched"
    FAILED = "failed"


class Seen(Enum):
    """What a recipient did with a message that was delivered (RFC8098 3.2.6.2).

    Direct demands no such notice, and we send none; some mail programs do.
    """

    DISPLAYED = "displayed"
    DELETED = "deleted"


# What peers write, and what it means to us. Who displays or deletes a message has processed it.
_DISPOSITIONS: Final[Mapping[str, Disposition]] = {
    "processed": Disposition.PROCESSED,
    "displayed": Disposition.PROCESSED,
    "deleted": Disposition.PROCESSED,
    "dispatched": Disposition.DISPATCHED,
    "failed": Disposition.FAILED,
    "failure": Disposition.FAILED,
    "denied": Disposition.FAILED,
    "error": Disposition.FAILED,
}
_SEEN: Final = {each.value: each for each in Seen}
_NEGATIVE_MODIFIERS: Final = frozenset({"error", "failed", "failure"})

_SUBJECTS: Final[Mapping[Disposition, str]] = {
    Disposition.PROCESSED: "Processed",
    Disposition.DISPATCHED: "Dispatched",
    Disposition.FAILED: "Failed",
}
_TEXTS: Final[Mapping[Disposition, str]] = {
    Disposition.PROCESSED: "The message was received and its sender is trusted.",
    Disposition.DISPATCHED: "The message was delivered to where the recipient reads it.",
    Disposition.FAILED: "The message was received but could not be delivered to the recipient.",
}


@dataclass(frozen=True, slots=True)
class Mdn:
    """What a notice says. `final_destination`: it carries the DNIG field (DN-004)."""

    disposition: Disposition | None
    final_recipient: DirectAddress | None
    original_message_id: str | None
    final_destination: bool
    seen: Seen | None = None


def wants_dispatched(notification_options: str | None) -> bool:
    """Say whether the value of Disposition-Notification-Options asks for a dispatched notice.

    DN-002: only the attribute X-DIRECT-FINAL-DESTINATION-DELIVERY with importance optional or
    required and the value true asks for it; anything like it does not.
    """
    # RFC8098 2.2: attribute "=" importance "," value *("," value), separated by ";".
    for parameter in (notification_options or "").split(";"):
        attribute, _, rest = parameter.partition("=")
        importance, *values = (word.strip().lower() for word in rest.split(","))
        if (
            attribute.strip().upper() == FINAL_DESTINATION
            and importance in ("optional", "required")
            and values == ["true"]
        ):
            return True
    return False


def answer_to(original: Facts) -> DirectAddress:
    """Return who gets the notices about `original`: always its author.

    Disposition-Notification-To may spell the author's address otherwise, and is answered so; a
    request that names several addresses, or somebody else, must not make us write to them (R-046).
    """
    asked = original.notification_to
    return asked[0] if asked == (original.author,) else original.author


def build(
    *,
    disposition: Disposition,
    original: Facts,
    recipient: DirectAddress,
    message_id: str,
    boundary: str,
    now: datetime,
    reporting_ua: str,
    final_destination: bool = False,
    text: str | None = None,
) -> bytes:
    """Return the notice, a whole message, that `recipient` sends about `original`.

    `reporting_ua` is "name; product". `final_destination` puts in the field that answers a
    request for a dispatched notice, which must not be there without one (DN-005). The
    clinical message itself is never returned (AS-092).

    Raises:
        DirectError: MESSAGE_MALFORMED; a value is not fit for a header.
    """
    about = original.message_id
    fields = [f"Reporting-UA: {one_line(reporting_ua)}", f"Final-Recipient: rfc822;{recipient}"]
    if about is not None:
        fields.append(f"Original-Message-ID: {about}")
    # AS-095: exactly this, in this case and without blanks.
    fields.append(f"Disposition: automatic-action/MDN-sent-automatically;{disposition.value}")
    if final_destination:
        fields.append(f"{FINAL_DESTINATION}:")
    lines = [one_line(text or _TEXTS[disposition]), "", f"Recipient: {recipient}"]
    if about is not None:
        lines.append(f"Message-ID: {about}")
    return compose(
        Notice(
            sender=recipient,
            recipient=answer_to(original),
            subject=f"{_SUBJECTS[disposition]}: your message to {recipient}",
            message_id=message_id,
            about=about,
            now=now,
        ),
        "disposition-notification",
        boundary,
        [
            Part("text/plain; charset=us-ascii", crlf_lines(lines)),
            Part("message/disposition-notification", crlf_lines(fields)),
        ],
    )


def parse(message: BinaryIO) -> Mdn:
    """Return what the notice says; what it does not say, or says unreadably, is None.

    Raises:
        DirectError: MESSAGE_MALFORMED; it has no disposition-notification part.
    """
    fields: dict[str, str] = {}
    for group in read_report(message, "message/disposition-notification").groups:
        fields = {**group, **fields}
    disposition, seen = _dispositions(fields.get("disposition", ""))
    return Mdn(
        disposition=disposition,
        final_recipient=address_of(fields.get("final-recipient")),
        original_message_id=fields.get("original-message-id") or None,
        final_destination=FINAL_DESTINATION.lower() in fields,
        seen=seen,
    )


def _dispositions(value: str) -> tuple[Disposition | None, Seen | None]:
    # RFC8098 3.2.6: action-mode "/" sending-mode ";" type ["/" modifier *("," modifier)]
    kind, _, modifiers = value.rpartition(";")[2].partition("/")
    if _NEGATIVE_MODIFIERS & {word.strip().lower() for word in modifiers.split(",")}:
        return Disposition.FAILED, None
    word = kind.strip().lower()
    return _DISPOSITIONS.get(word), _SEEN.get(word)
