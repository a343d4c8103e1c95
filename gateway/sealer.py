"""Seal a message once for each domain it goes to, into durable bodies.

Talks to the body store, and to the database for what the recipients were seen to read; the
cryptography is pure and runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import BinaryIO
from uuid import UUID

from sqlalchemy import Connection

from certs.identity import Identity
from certs.ports import Database
from gateway import capabilities
from gateway.outcomes import Sealed, Task
from gateway.peers import Peers
from gateway.ports import BodySink, BodyStore
from gateway.scratch import scratch
from gateway.seal_options import SealOptions
from gateway.sealing import Copy, seal_copies
from gateway.unsealed import Algorithms
from trust_bundles.decision import Decision

__all__ = ["Sealer"]


class Sealer:
    """Wraps, signs and encrypts; `hostname` names us in the Received line."""

    def __init__(
        self, *, database: Database, bodies: BodyStore, hostname: str, peers: Peers
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._hostname = hostname
        self._peers = peers

    async def seal(
        self, task: Task, ready: Sequence[Decision], signers: Sequence[Identity], now: datetime
    ) -> tuple[Sealed, ...]:
        """Return one sealed copy for each domain among the recipients in `ready`.

        A domain whose copy would be larger than it may be has none.

        Raises:
            DirectError: MESSAGE_MALFORMED; INTERNAL where a copy cannot be made durable.
        """
        by_domain: dict[str, list[Decision]] = {}
        for decision in ready:
            by_domain.setdefault(decision.address.domain, []).append(decision)
        if not by_domain:
            return ()
        options = await self._database.read(lambda c: self._options(c, by_domain, now))
        sinks = {domain: self._bodies.sink() for domain in by_domain}
        try:
            async with self._bodies.open(task.body_key) as submitted:
                made = await asyncio.to_thread(
                    self._seal, submitted, task, by_domain, sinks, options, signers, now
                )
            return tuple(
                [
                    Sealed(domain, tuple(decisions), await sinks[domain].finish(), algorithms)
                    for (domain, decisions), algorithms in zip(by_domain.items(), made, strict=True)
                    if algorithms is not None
                ]
            )
        finally:
            for sink in sinks.values():
                await sink.discard()

    def _options(
        self, connection: Connection, by_domain: dict[str, list[Decision]], now: datetime
    ) -> dict[str, SealOptions]:
        found: dict[str, SealOptions] = {}
        for domain, decisions in by_domain.items():
            addresses = [decision.address for decision in decisions]
            seen = capabilities.seen(connection, addresses, now)
            found[domain] = self._peers.options_for(domain, seen)
        return found

    def _seal(
        self,
        submitted: BinaryIO,
        task: Task,
        by_domain: dict[str, list[Decision]],
        sinks: dict[str, BodySink],
        options: dict[str, SealOptions],
        signers: Sequence[Identity],
        now: datetime,
    ) -> list[Algorithms | None]:
        message = task.message
        copies = [
            Copy(
                # Recipients of one domain may share its certificate.
                list(dict.fromkeys(c for d in decisions for c in d.certificates)),
                sinks[domain],
                options[domain],
                self._peers.size_octets(domain),
            )
            for domain, decisions in by_domain.items()
        ]
        with scratch() as clear:
            return seal_copies(
                submitted,
                clear,
                copies,
                signers=signers,
                message_id=message.message_id_header or f"<{message.id}@{task.author.domain}>",
                accepted_at=message.received_at,
                boundary=f"direct-{message.id.hex}",
                trace=self._trace(message.id, message.received_at),
                now=now,
            )

    def _trace(self, identifier: UUID, now: datetime) -> bytes:
        # RFC5321 4.4: who took the message over, under which id, when; nothing of the edge.
        line = f"Received: by {self._hostname} id {identifier.hex};\r\n {format_datetime(now)}\r\n"
        return line.encode("ascii")
