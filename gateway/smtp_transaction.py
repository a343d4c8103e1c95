"""What one SMTP session remembers: of its client, and of the mail transaction it is in.

Pure.
"""

from __future__ import annotations

from aiosmtpd import smtp as aiosmtpd

from certs.address import DirectAddress
from gateway.notify import USUAL_WISH, Wish
from gateway.ports import Envelope
from gateway.smtp_commands import Mail

__all__ = ["Client", "Transaction"]


class Client(aiosmtpd.Session):
    """What the client has told of itself; aiosmtpd forgets it at STARTTLS (RFC3207 4.2)."""

    user: str | None = None


class Transaction(aiosmtpd.Envelope):
    """One mail transaction, from MAIL to the end of DATA."""

    def __init__(self) -> None:
        super().__init__()
        self.mail: Mail | None = None
        self.recipients: dict[DirectAddress, Wish] = {}

    def envelope(self, mail: Mail) -> Envelope:
        """Return what it is, for the gateway."""
        wishes = {to: wish for to, wish in self.recipients.items() if wish != USUAL_WISH}
        return Envelope(mail.sender, tuple(self.recipients), mail.envelope_id, wishes)
