"""A gateway that keeps what it accepts in a list: what an SMTP listener is tested against."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway.ports import BodySink, Envelope, Role, Session, StoredBody

__all__ = ["Accepted", "MemoryReception", "MemorySink"]


class MemorySink:
    """A body sink that keeps its octets; `limit_octets` is where its disk is full."""

    def __init__(self, limit_octets: int | None = None) -> None:
        self.parts: list[bytes] = []
        self.discarded = False
        self._limit_octets = limit_octets

    @property
    def size(self) -> int:
        """Octets written so far."""
        return sum(map(len, self.parts))

    def write(self, data: bytes | memoryview) -> int:
        """Keep the octets."""
        if self._limit_octets is not None and self.size + len(data) > self._limit_octets:
            raise OSError(28, "No space left on device")
        self.parts.append(bytes(data))
        return len(data)

    async def finish(self) -> StoredBody:
        """Describe what was written."""
        content = b"".join(self.parts)
        return StoredBody("memory", len(content), hashlib.sha256(content).hexdigest(), content)

    async def discard(self) -> None:
        """Forget it."""
        self.discarded = True


@dataclass(frozen=True)
class Accepted:
    """A message that was acknowledged."""

    session: Session
    envelope: Envelope
    content: bytes


@dataclass
class MemoryReception:
    """Knows some users and mailboxes. `failure` is what `accept` raises; `gate` holds it back."""

    mailboxes: Sequence[str] = ("drjones@b.example", "drsmith@b.example")
    users: dict[str, str] = field(default_factory=lambda: {"ehr": "secret"})
    senders: Sequence[str] = ("anna@a.example",)
    failure: Exception | None = None
    gate: asyncio.Event | None = None
    disk_octets: int | None = None
    accepted: list[Accepted] = field(default_factory=list)
    sinks: list[MemorySink] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def authenticate(self, user: str, password: str) -> bool:
        """Compare with `users`."""
        self.asked.append(user)
        return self.users.get(user) == password

    async def check_sender(self, session: Session, sender: DirectAddress | None) -> None:
        """Edge users may send as one of `senders`."""
        if session.role is Role.EDGE and str(sender) not in self.senders:
            raise DirectError(Reason.SENDER_NOT_ALLOWED, str(sender))

    async def check_recipient(self, session: Session, recipient: DirectAddress) -> None:
        """From the backbone only to one of `mailboxes`."""
        if session.role is Role.BACKBONE and recipient.key not in self.mailboxes:
            raise DirectError(Reason.RECIPIENT_UNKNOWN, str(recipient))

    def sink(self) -> BodySink:
        """Return a new sink in memory."""
        self.sinks.append(MemorySink(self.disk_octets))
        return self.sinks[-1]

    async def accept(self, session: Session, envelope: Envelope, content: BodySink) -> UUID:
        """Keep the message."""
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        body = await content.finish()
        assert body.inline is not None
        self.accepted.append(Accepted(session, envelope, body.inline))
        self.left.set()
        return UUID(int=len(self.accepted))
