"""What SMTP says of each failure: reply code, enhanced status code and one fixed public text.

Pure. `REPLIES` is total over `Reason`; a reason that never reaches SMTP maps to an explicit None.
The first digits agree with `Reason.retryable`. Texts are the same for every case of a reason, so
that nothing of a message, a key or this machine can leak through one.

Standards:
    RFC5321 section 4.2 (reply codes)
    RFC3463 and RFC5248 (enhanced status codes: 7.5 cryptographic failure, 7.6 algorithm, ...)
    RFC2034 section 4 (enhanced codes on all 2xx, 4xx and 5xx replies)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from certs.errors import Reason

__all__ = ["REPLIES", "CommandError", "Reply", "render", "reply_to"]


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply. `status` is the enhanced code, or "" where RFC2034 allows none."""

    code: int
    status: str
    text: str

    def __str__(self) -> str:
        return (
            f"{self.code} {self.status} {self.text}" if self.status else f"{self.code} {self.text}"
        )

    @property
    def closes(self) -> bool:
        """Does the server close the channel after this reply (RFC5321 3.8, 4.2.2)?"""
        return self.code in (221, 421)


class CommandError(Exception):
    """A command is refused with `reply`: the protocol's own refusals, which are no `Reason`."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


REPLIES: Final[Mapping[Reason, Reply | None]] = MappingProxyType(
    {
        Reason.ADDRESS_MALFORMED: Reply(501, "5.1.3", "Address is not a Direct address"),
        Reason.SENDER_NOT_ALLOWED: Reply(550, "5.7.1", "Not allowed to send as this address"),
        Reason.RECIPIENT_UNKNOWN: Reply(550, "5.1.1", "No such mailbox here"),
        Reason.RELAY_REFUSED: Reply(550, "5.7.1", "Relaying refused"),
        Reason.AUTHENTICATION_REQUIRED: Reply(530, "5.7.0", "Authentication required"),
        Reason.AUTHENTICATION_FAILED: Reply(535, "5.7.8", "Authentication credentials invalid"),
        Reason.TLS_REQUIRED: Reply(530, "5.7.0", "Must issue a STARTTLS command first"),
        Reason.CERTIFICATE_NOT_FOUND: Reply(550, "5.7.5", "No certificate for the address"),
        Reason.CERTIFICATE_NOT_BOUND: Reply(550, "5.7.5", "No certificate speaks for the address"),
        Reason.CERTIFICATE_EXPIRED: Reply(550, "5.7.5", "Certificate is not valid at this time"),
        Reason.CERTIFICATE_UNFIT: Reply(550, "5.7.6", "Certificate is not fit for this use"),
        Reason.CERTIFICATE_REVOKED: Reply(550, "5.7.5", "Certificate is revoked"),
        Reason.REVOCATION_UNKNOWN: Reply(451, "4.7.5", "Revocation status cannot be learnt now"),
        Reason.NOT_TRUSTED: Reply(550, "5.7.1", "No trust between the two parties"),
        Reason.DIRECTORY_UNAVAILABLE: Reply(451, "4.4.3", "Certificate directory unavailable"),
        Reason.MESSAGE_MALFORMED: Reply(554, "5.6.0", "Message is malformed"),
        Reason.MESSAGE_TOO_BIG: Reply(552, "5.3.4", "Message is too big"),
        Reason.ENVELOPE_MISMATCH: Reply(554, "5.7.1", "Envelope does not match the message"),
        Reason.NOT_SECURED: Reply(554, "5.7.0", "Message is not signed and encrypted"),
        Reason.DECRYPTION_FAILED: Reply(554, "5.7.5", "Message cannot be decrypted"),
        Reason.SIGNATURE_INVALID: Reply(554, "5.7.7", "Signature is not valid"),
        Reason.ALGORITHM_REFUSED: Reply(554, "5.7.6", "Cryptographic algorithm not accepted"),
        Reason.BACKBONE_UNAVAILABLE: Reply(451, "4.4.1", "Recipient's system does not answer"),
        # The notice carries the peer's own status where it gave one; this is the fallback.
        Reason.BACKBONE_REFUSED: Reply(554, "5.0.0", "Refused by the recipient's system"),
        Reason.DELIVERY_EXPIRED: Reply(554, "5.4.7", "Delivery time expired"),
        Reason.RESOURCE_INVALID: Reply(554, "5.6.0", "Content is not valid"),
        Reason.RESOURCE_UNSUPPORTED: Reply(554, "5.6.1", "Content is not supported"),
        Reason.RESOURCE_NOT_FOUND: None,
        Reason.RESOURCE_CONFLICT: None,
        Reason.ACCESS_FORBIDDEN: None,
        Reason.THROTTLED: Reply(451, "4.7.1", "Too many requests, try again later"),
        Reason.SUBSCRIBER_UNAVAILABLE: None,
        Reason.BUNDLE_MALFORMED: None,
        Reason.BUNDLE_UNAVAILABLE: None,
        Reason.CONFIGURATION_INVALID: None,
        Reason.INTERNAL: Reply(451, "4.3.0", "Internal error, try again later"),
    }
)

_INTERNAL: Final = Reply(451, "4.3.0", "Internal error, try again later")


def reply_to(reason: Reason) -> Reply:
    """Return the reply for `reason`; the one for INTERNAL where SMTP has no words for it."""
    return REPLIES[reason] or _INTERNAL


def render(reason: Reason) -> str:
    """Return the reply for `reason` as it goes on the wire, such as "550 5.1.1 No such ..."."""
    return str(reply_to(reason))
