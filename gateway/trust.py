"""Fetch what a trust decision needs, then have it made.

Talks to the database for anchors and to the directory for missing intermediates and revocation;
the decisions themselves are pure and run in a thread.

Standards:
    AS  Applicability Statement v1.3, section 4 (AS-061, AS-074, AS-080 to AS-085)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

from certs.address import DirectAddress
from certs.evidence import Evidence
from certs.policy import CertificatePolicy, loosest
from certs.ports import Database
from gateway.judgement import Judgement, judge
from gateway.policies import DomainPolicies
from gateway.ports import Completion
from gateway.revocation_watch import RevocationWatch
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, decide, is_judged
from trust_bundles.policy import Direction, Purpose
from trust_bundles.sets import AnchorSet, AnchorSets
from trust_bundles.verdicts import VerdictCache

__all__ = ["Trust", "Trusting"]

AT_ONCE: Final = 10  # recipients, each of whose verdicts is looked up in 20 us


@dataclass(frozen=True, slots=True)
class Trusting:
    """What each of a received message's recipients demands of its signer, and whom it believes."""

    policies: Mapping[DirectAddress, CertificatePolicy]
    sets: Mapping[DirectAddress, AnchorSet]

    @property
    def anchors(self) -> Mapping[DirectAddress, Anchors]:
        """The anchors of each recipient."""
        return {recipient: each.anchors for recipient, each in self.sets.items()}

    def bundles_of(self, judgement: Judgement) -> Mapping[DirectAddress, str]:
        """Return by which bundle each recipient believes the signer, where it is by one."""
        found = {}
        for recipient, each in self.sets.items():
            verdict = judgement.deciding_for(recipient)
            anchor = verdict.anchor if verdict else None
            bundle = each.bundle_of(anchor) if anchor is not None else None
            if bundle is not None:
                found[recipient] = bundle
        return found


class Trust:
    """Makes the trust decisions of the domains this HISP serves.

    Anchors, bundles and policies are looked up for every message: a change is in force at once.
    `watch` hears of decisions made without an answer about revocation.
    """

    def __init__(
        self,
        *,
        database: Database,
        completion: Completion,
        policy: CertificatePolicy,
        cache: VerdictCache,
        watch: RevocationWatch | None = None,
    ) -> None:
        self._database = database
        self._completion = completion
        self._policies = DomainPolicies(policy)
        self._cache = cache
        self._watch = watch
        self._sets = AnchorSets()

    async def recipients(
        self, author: DirectAddress, found: Sequence[Evidence], now: datetime
    ) -> list[Decision]:
        """Say of each recipient whether `author` may encrypt to it: by the author's anchors."""
        anchors, policy = await self._database.read(
            lambda c: (
                self._sets.anchors_for(c, author, Direction.OUTGOING, now),
                self._policies.policy_for(c, author.domain),
            )
        )
        complete = await asyncio.gather(
            *(
                self._completion.complete(evidence, anchors, now=now, policy=policy)
                for evidence in found
            )
        )
        if self._are_judged(complete, anchors, policy, now):
            decisions = self._encrypt(complete, anchors, policy, now)
        else:
            decisions = await asyncio.to_thread(self._encrypt, complete, anchors, policy, now)
        for evidence, decision in zip(complete, decisions, strict=True):
            self._tell(evidence, [decision], now)
        return decisions

    def _are_judged(
        self, found: Sequence[Evidence], anchors: Anchors, policy: CertificatePolicy, now: datetime
    ) -> bool:
        """Say whether the decisions take less time than to have them made in a thread."""
        return len(found) <= AT_ONCE and all(
            is_judged(
                evidence,
                anchors,
                purpose=Purpose.ENCRYPT,
                now=now,
                policy=policy,
                cache=self._cache,
            )
            for evidence in found
        )

    def _encrypt(
        self, found: Sequence[Evidence], anchors: Anchors, policy: CertificatePolicy, now: datetime
    ) -> list[Decision]:
        return [
            decide(
                evidence.address,
                evidence,
                anchors,
                purpose=Purpose.ENCRYPT,
                now=now,
                policy=policy,
                cache=self._cache,
            )
            for evidence in found
        ]

    async def of(self, recipients: Sequence[DirectAddress], now: datetime) -> Trusting:
        """Return what the domain of each recipient demands now, and whom each believes."""
        return await self._database.read(
            lambda c: Trusting(
                {r: self._policies.policy_for(c, r.domain) for r in recipients},
                {r: self._sets.set_for(c, r, Direction.INCOMING, now) for r in recipients},
            )
        )

    async def signer(
        self,
        evidence: Evidence,
        trusting: Trusting,
        now: datetime,
    ) -> Judgement:
        """Say for each recipient whether it believes the signer: by its own anchors and policy."""
        policies, anchors = trusting.policies, trusting.anchors
        together, policy = self._sets.merged(anchors.values()), loosest(policies.values())
        complete = await self._completion.complete(evidence, together, now=now, policy=policy)
        made = partial(judge, complete, anchors, now=now, policies=policies, cache=self._cache)
        at_hand = self._knows_signer(complete, trusting, now)
        judgement = made() if at_hand else await asyncio.to_thread(made)
        self._tell(complete, judgement.decisions.values(), now)
        return replace(judgement, bundles=trusting.bundles_of(judgement))

    def _knows_signer(self, evidence: Evidence, trusting: Trusting, now: datetime) -> bool:
        """Say whether the judgement takes less time than to have it made in a thread."""
        return len(evidence.found) * len(trusting.anchors) <= AT_ONCE and all(
            is_judged(
                evidence,
                anchors,
                purpose=Purpose.SIGN,
                now=now,
                policy=trusting.policies[recipient],
                cache=self._cache,
            )
            for recipient, anchors in trusting.anchors.items()
        )

    def _tell(self, evidence: Evidence, decisions: Iterable[Decision], now: datetime) -> None:
        if self._watch is not None:
            self._watch.seen(evidence, decisions, now)
