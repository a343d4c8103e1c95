"""Fetch what a trust decision needs, then have it made.

Talks to the database for anchors and to the directory for missing intermediates and revocation;
the decisions themselves are pure and run in a thread.

Standards:
    AS  Applicability Statement v1.3, section 4 (AS-061, AS-074, AS-080 to AS-085)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from certs.address import DirectAddress
from certs.evidence import Evidence
from certs.policy import CertificatePolicy
from certs.ports import Database
from gateway.judgement import Judgement, judge
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, decide
from trust_bundles.policy import Direction, Purpose
from trust_bundles.store import AnchorSets
from trust_bundles.verdicts import VerdictCache

__all__ = ["Completion", "Trust"]


class Completion(Protocol):
    """Adds to evidence what a path to one of the anchors needs (AS-082, AS-083)."""

    async def complete(
        self, evidence: Evidence, anchors: Anchors, *, now: datetime, policy: CertificatePolicy
    ) -> Evidence:
        """Return `evidence` with fetched intermediates and revocation answers."""
        ...


class Trust:
    """Makes the trust decisions of the domains this HISP serves."""

    def __init__(
        self,
        *,
        database: Database,
        completion: Completion,
        policy: CertificatePolicy,
        cache: VerdictCache,
    ) -> None:
        self._database = database
        self._completion = completion
        self._policy = policy
        self._cache = cache
        self._sets = AnchorSets()

    async def recipients(
        self, author: DirectAddress, found: Sequence[Evidence], now: datetime
    ) -> list[Decision]:
        """Say of each recipient whether `author` may encrypt to it: by the author's anchors."""
        anchors = await self._database.read(
            lambda c: self._sets.anchors_for(c, author, Direction.OUTGOING)
        )
        complete = await asyncio.gather(
            *(
                self._completion.complete(evidence, anchors, now=now, policy=self._policy)
                for evidence in found
            )
        )
        return await asyncio.to_thread(self._encrypt, complete, anchors, now)

    def _encrypt(
        self, found: Sequence[Evidence], anchors: Anchors, now: datetime
    ) -> list[Decision]:
        return [
            decide(
                evidence.address,
                evidence,
                anchors,
                purpose=Purpose.ENCRYPT,
                now=now,
                policy=self._policy,
                cache=self._cache,
            )
            for evidence in found
        ]

    async def signer(
        self, evidence: Evidence, recipients: Sequence[DirectAddress], now: datetime
    ) -> Judgement:
        """Say for each recipient whether it believes the signer: by the recipient's anchors."""
        anchors = await self._database.read(
            lambda c: {r: self._sets.anchors_for(c, r, Direction.INCOMING) for r in recipients}
        )
        together = self._sets.merged(anchors.values())
        complete = await self._completion.complete(evidence, together, now=now, policy=self._policy)
        return await asyncio.to_thread(
            judge, complete, anchors, now=now, policy=self._policy, cache=self._cache
        )
