"""A HISP that is not ours: it seals messages with our engine and delivers them by real SMTP."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime

import aiosmtplib
from cryptography import x509

from certs.identity import Identity
from certs.issue import Locations
from gateway import smime
from tests.helpers.pki import NOWHERE, Ca

__all__ = ["Stranger", "deliver", "mail"]

YEAR = timedelta(days=365)


@dataclass(frozen=True)
class Stranger:
    """A CA and what it issues, valid around the real time `now`, which a running gateway uses."""

    ca: Ca
    now: datetime

    @classmethod
    def create(cls, name: str, now: datetime) -> Stranger:
        return cls(Ca.create(name, not_before=now - YEAR, not_after=now + YEAR), now)

    def identity(
        self,
        address: str | None = None,
        *,
        domain: str | None = None,
        expired: bool = False,
        locations: Locations = NOWHERE,
    ) -> Identity:
        end = self.now - timedelta(days=1) if expired else self.now + timedelta(days=90)
        return self.ca.issue(
            address=address,
            domain=domain,
            not_before=self.now - timedelta(days=30),
            not_after=end,
            locations=locations,
        )

    def seal(self, message: bytes, signer: Identity, recipient: x509.Certificate) -> bytes:
        out = io.BytesIO()
        smime.seal(
            io.BytesIO(message),
            out,
            outer=b"MIME-Version: 1.0\r\n" + _outer(message),
            signers=[signer],
            recipients=[recipient],
            boundary="stranger-7f3a",
            now=self.now,
        )
        return out.getvalue()


def mail(sender: str, recipient: str, now: datetime, *, number: int = 1, more: str = "") -> bytes:
    """A plain message from `sender` to `recipient`, lines ended by CRLF."""
    lines = [
        f"From: {sender}",
        f"To: {recipient}",
        f"Message-ID: <{number}.{now.timestamp()}@{sender.partition('@')[2]}>",
        f"Date: {format_datetime(now)}",
        "Subject: From a stranger",
        "MIME-Version: 1.0",
        "Content-Type: text/plain",
        *([more] if more else []),
        "",
        "Text of the message.",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")


async def deliver(address: tuple[str, int], sender: str, recipient: str, message: bytes) -> str:
    """Deliver over STARTTLS and return the server's last word, such as "Accepted as ..."."""
    async with aiosmtplib.SMTP(
        hostname=address[0], port=address[1], start_tls=True, validate_certs=False
    ) as client:
        _, reply = await client.sendmail(sender, [recipient], message)
    return reply


def _outer(message: bytes) -> bytes:
    header = message.partition(b"\r\n\r\n")[0].split(b"\r\n")
    kept = (b"from:", b"to:", b"message-id:", b"date:")
    return b"".join(line + b"\r\n" for line in header if line.lower().startswith(kept))
