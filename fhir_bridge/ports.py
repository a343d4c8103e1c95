"""What the FHIR bridge needs from whoever runs it.

Pure: declarations only. The bridge knows no SMTP and no S/MIME; the gateway implements these two
Protocols (beside `certs.ports.Clock` and `Database`), and a test does so with two small objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol
from uuid import UUID

from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import Reason

__all__ = [
    "Bodies",
    "Body",
    "Deliveries",
    "Outbox",
    "Preflight",
    "Prospect",
    "Sink",
    "Submission",
]


class Body(Protocol):
    """A stored body, durable once the transaction that records it commits. `size` in octets."""

    @property
    def key(self) -> str:
        """What `Bodies.open` takes."""
        ...

    @property
    def size(self) -> int:
        """Octets."""
        ...

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the body."""
        ...


class Sink(Protocol):
    """Takes a body as it arrives: in memory while small, on disk when it grows."""

    @property
    def size(self) -> int:
        """Octets written so far."""
        ...

    def write(self, data: bytes | memoryview, /) -> int:
        """Take the next octets; may be called from a worker thread."""
        ...

    async def finish(self) -> Body:
        """Make the body durable and describe it."""
        ...

    async def discard(self) -> None:
        """Forget the body; may be called at any time, also twice, also after `finish`."""
        ...


class Bodies(Protocol):
    """Where the octets of attachments and messages lie."""

    def sink(self) -> Sink:
        """Return a new, empty sink."""
        ...

    def open(self, key: str) -> AbstractAsyncContextManager[BinaryIO]:
        """Open a recorded body for reading; seekable."""
        ...

    def record(self, connection: Connection, body: Body) -> None:
        """Record `body` in this transaction; without it a sweep removes the body later."""
        ...

    def forget(self, connection: Connection, key: str) -> None:
        """Forget a body that no Binary names any more, unless a message of the gateway does."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """A message that a FHIR client wants sent.

    `content` is the whole RFC 5322 message, not yet recorded: `Outbox.submit` records it.
    `message_id` is with angle brackets. Every recipient is in the message's To or Cc. `id` is the
    message's own where it is decided beforehand; `copies` are committed with it.
    """

    sender: DirectAddress
    recipients: tuple[DirectAddress, ...]
    content: Body
    message_id: str
    wants_dispatched: bool
    id: UUID | None = None
    copies: tuple[Submission, ...] = ()


class Outbox(Protocol):
    """Where messages leave from."""

    async def submit(
        self, submission: Submission, record: Callable[[Connection, UUID], None]
    ) -> UUID:
        """Commit the message with its first job and return the message's id.

        `record` is called with that id in the same transaction, which it may refuse by raising.

        Raises:
            DirectError: SENDER_NOT_ALLOWED, MESSAGE_MALFORMED, MESSAGE_TOO_BIG, or what `record`
                raises.
        """
        ...

    async def settled(self, message: UUID, wait_s: float) -> None:
        """Return when every recipient of `message` has been decided on, or after `wait_s`."""
        ...


@dataclass(frozen=True, slots=True)
class Prospect:
    """Whether a message to `address` could be sent now. `reason` None: it could.

    `binding` is "address-bound" or "domain-bound", `certificate` names it by its
    hexadecimal SHA-256, and `expires` is the earliest end of what was found.
    """

    address: DirectAddress
    reason: Reason | None
    binding: str | None = None
    certificate: str | None = None
    expires: datetime | None = None


class Preflight(Protocol):
    """Says beforehand what sending would find."""

    async def prospects(
        self, sender: DirectAddress, recipients: Sequence[DirectAddress]
    ) -> Sequence[Prospect]:
        """Return the prospect of each recipient in order: certificate found and trusted."""
        ...


class Deliveries(Protocol):
    """The job queue, as subscriptions use it: it calls `Notifier.deliver` until that is done."""

    def put(self, connection: Connection, subscription: UUID, now: datetime) -> None:
        """Have `subscription` delivered to; nothing changes where that is waiting already."""
        ...

    def wake(self) -> None:
        """Look for deliveries now: some were committed."""
        ...
