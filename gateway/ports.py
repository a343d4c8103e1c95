"""The values and Protocols between the gateway's core and its shell.

Pure: declarations only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import BinaryIO, Protocol
from uuid import UUID

from certs.address import DirectAddress
from certs.errors import Reason
from certs.evidence import Evidence
from certs.identity import Identity
from certs.policy import CertificatePolicy
from gateway.notify import Wish
from trust_bundles.anchors import Anchors

__all__ = [
    "Attempt",
    "BodySink",
    "BodyStore",
    "Completion",
    "Delivery",
    "Directory",
    "Envelope",
    "Keys",
    "Reception",
    "RetryAt",
    "Role",
    "Sender",
    "Session",
    "StoredBody",
]


class Directory(Protocol):
    """DNS CERT and LDAP seen as one source of certificates."""

    async def evidence_for(self, address: DirectAddress) -> Evidence:
        """Return all that can be learnt about `address`; a failed look-up is evidence too."""
        ...


class Completion(Protocol):
    """Adds to evidence what a path to one of the anchors needs (AS-082, AS-083)."""

    async def complete(
        self, evidence: Evidence, anchors: Anchors, *, now: datetime, policy: CertificatePolicy
    ) -> Evidence:
        """Return `evidence` with fetched intermediates and revocation answers."""
        ...


class Keys(Protocol):
    """Our private keys."""

    async def signing(self, address: DirectAddress, now: datetime) -> Sequence[Identity]:
        """Return the identities that may sign for `address` now; address-bound first."""
        ...

    async def decrypting(self, addresses: Sequence[DirectAddress]) -> Sequence[Identity]:
        """Return every identity, of any age, that may open mail to any of `addresses`."""
        ...


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A body that is durable as soon as the transaction that names it commits.

    `size` is in octets. `inline` holds the octets of a small body, to go into its row; a large
    one lies in the spool already, synced.
    """

    key: str
    size: int
    sha256: str
    inline: bytes | None


class BodySink(Protocol):
    """Takes a body as it arrives: in memory while small, into the spool when it grows."""

    @property
    def size(self) -> int:
        """Octets written so far."""
        ...

    def write(self, data: bytes | memoryview) -> int:
        """Take the next octets."""
        ...

    async def finish(self) -> StoredBody:
        """Make the body durable (file and folder synced, in a thread) and describe it."""
        ...

    async def discard(self) -> None:
        """Forget the body; may be called at any time, also twice."""
        ...


class BodyStore(Protocol):
    """Message bodies, in the row or as synced files."""

    def sink(self) -> BodySink:
        """Return a new, empty sink."""
        ...

    def open(self, key: str) -> AbstractAsyncContextManager[BinaryIO]:
        """Open a stored body for reading; seekable."""
        ...


class Role(Enum):
    """Which side of the gateway a connection comes from."""

    EDGE = "edge"  # our own users' systems: STARTTLS and AUTH required
    BACKBONE = "backbone"  # other HISPs: no AUTH, local recipients only


@dataclass(frozen=True, slots=True)
class Session:
    """Who is connected. `user` is the authenticated edge user."""

    role: Role
    peer: str
    helo: str
    tls: str | None
    user: str | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """The SMTP envelope. `sender` None is the null reverse-path (RFC5321 4.5.5).

    `envelope_id` goes back in each DSN (RFC3461 ENVID). `wishes` has what the sender wants to
    hear of each recipient, where that is not what is usual.
    """

    sender: DirectAddress | None
    recipients: tuple[DirectAddress, ...]
    envelope_id: str | None = None
    wishes: Mapping[DirectAddress, Wish] = field(default_factory=dict)


class RetryAt(Protocol):
    """When to try again after so many attempts, or None to give up."""

    def __call__(self, attempts: int, accepted_at: datetime, now: datetime) -> datetime | None:
        """Return the time of the next attempt."""
        ...


class Reception(Protocol):
    """What an SMTP listener asks of the gateway; each refusal is a `DirectError`."""

    async def authenticate(self, user: str, password: str) -> bool:
        """Say whether the edge user may come in."""
        ...

    async def check_sender(self, session: Session, sender: DirectAddress | None) -> None:
        """Return where this session may send as `sender`.

        Raises:
            DirectError: SENDER_NOT_ALLOWED.
        """
        ...

    async def check_recipient(self, session: Session, recipient: DirectAddress) -> None:
        """Return where this session may send to `recipient`.

        Raises:
            DirectError: RECIPIENT_UNKNOWN, RELAY_REFUSED.
        """
        ...

    def sink(self) -> BodySink:
        """Return where the content goes as it arrives."""
        ...

    async def accept(self, session: Session, envelope: Envelope, content: BodySink) -> UUID:
        """Commit the message with its first job and return its id; 250 may be said after.

        Raises:
            DirectError: MESSAGE_MALFORMED, INTERNAL.
        """
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one recipient in one delivery attempt. `reason` None: the peer said 250."""

    recipient: DirectAddress
    reason: Reason | None
    status: str  # enhanced status, such as "2.0.0"
    reply: str  # the peer's own words, bounded and free of control characters

    @property
    def settles(self) -> bool:
        """Is it the last attempt for this recipient?"""
        return self.reason is None or not self.reason.retryable

    @property
    def of_recipient(self) -> bool:
        """Is its outcome about this recipient's address or mailbox (RFC3463 X.1 and X.2)?"""
        return self.status.startswith(("4.1.", "4.2."))


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery attempt to one host.

    `tls` is version and cipher, or None for clear text; `verified`: the host's certificate was
    demanded and is right; `tls_policy` says who demanded it: "configured", "dane", "mta-sts", or
    "default" where nobody did. `tls_failure`: why it is clear text though the host offers TLS.
    """

    attempts: tuple[Attempt, ...]
    host: str
    tls: str | None
    verified: bool
    tls_policy: str = "default"
    tls_failure: str | None = None

    @property
    def answered(self) -> bool:
        """Does the host work, so that only some of the recipients have to wait?"""
        return any(attempt.settles or attempt.of_recipient for attempt in self.attempts)


class Sender(Protocol):
    """Delivers one sealed message to one domain."""

    async def send(
        self,
        *,
        domain: str,
        sender: DirectAddress | None,
        recipients: Sequence[DirectAddress],
        message: BinaryIO,
        size: int,
    ) -> Delivery:
        """Return what became of each recipient; every failure is in the result, none raises."""
        ...
