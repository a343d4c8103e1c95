"""`trust explain`: the trust decision between two addresses, with everything it rested on.

Talks to the database, and to DNS, LDAP and HTTP through the directory; decides nothing itself.

Standards:
    AS  Applicability Statement v1.3, section 4
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol

from cryptography import x509
from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.evidence import Evidence
from certs.issuers import sha256_of
from certs.policy import CertificatePolicy
from certs.ports import Database
from gateway import domains
from gateway.policies import DomainPolicies
from gateway.ports import Completion
from trust_bundles import policies as stored_policies
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, Verdict, decide
from trust_bundles.explain import (
    RevocationShown,
    Try,
    clauses_against,
    revocation_shown,
    tries_for,
)
from trust_bundles.policy import Direction, Purpose
from trust_bundles.sets import anchors_for, sources_of

__all__ = ["Explained", "Explanation", "Finder", "explain"]

_PURPOSE: Final = {Direction.OUTGOING: Purpose.ENCRYPT, Direction.INCOMING: Purpose.SIGN}


class Finder(Completion, Protocol):
    """Finds certificates, and what a path needs."""

    async def evidence_for(self, address: DirectAddress) -> Evidence:
        """Return all that can be learnt about `address`."""
        ...


@dataclass(frozen=True, slots=True)
class Explained:
    """One certificate: its verdict, the paths tried, the policy's clauses against it."""

    verdict: Verdict
    tries: tuple[Try, ...]
    clauses: tuple[str, ...]
    revocation: RevocationShown


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision of `owner`, one of ours, about `other`. `sources`: by whom, by which bundle."""

    direction: Direction
    owner: DirectAddress
    other: DirectAddress
    anchors: int
    own_policy: bool
    evidence: Evidence
    decision: Decision
    certificates: tuple[Explained, ...]
    sources: Sequence[tuple[str, str | None]]

    @property
    def deciding(self) -> Explained | None:
        """The certificate that decided: one that is trusted, else the one that came furthest."""
        holding = (one for one in self.certificates if one.verdict.reason is None)
        same = (one for one in self.certificates if one.verdict.reason is self.decision.reason)
        return next(holding, next(same, None))

    @property
    def report(self) -> dict[str, Any]:
        """The explanation with the keys of the contract."""
        one = self.deciding
        anchor = one.verdict.anchor if one else None
        bundles = [bundle for _, bundle in self.sources]
        return {
            "direction": self.direction.value,
            "decision": "trusted" if self.decision.reason is None else "not-trusted",
            "reason": self.decision.reason.code if self.decision.reason else None,
            "certificate": _certificate(one) if one else None,
            "path": [_named(cert) for cert in one.verdict.path] if one else [],
            "anchor": _named(anchor) if anchor else None,
            "bundle": next((b for b in bundles if b is not None), None),
            "policy": {
                "of": self.owner.domain if self.own_policy else "defaults",
                "clauses": list(one.clauses) if one else [],
            },
            "revocation": _revocation(one) if one else None,
        }


async def explain(
    database: Database,
    finder: Finder,
    policies: DomainPolicies,
    *,
    sender: DirectAddress,
    recipient: DirectAddress,
    direction: Direction | None,
    now: datetime,
) -> Explanation:
    """Return why mail from `sender` to `recipient` is trusted or not, as seen from our side.

    For mail that comes in, the sender's published certificates stand for the one it signs with.
    `direction` None: outgoing where the sender is ours.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; neither address is in a domain served here.
    """
    way = direction
    if way is None:
        way = await database.read(partial(_direction, sender, recipient))
    seen: Final = way
    owner, other = (sender, recipient) if seen is Direction.OUTGOING else (recipient, sender)

    def read(c: Connection) -> tuple[Anchors, CertificatePolicy, bool]:
        own = stored_policies.text_of(c, owner.domain) is not None
        return anchors_for(c, owner, seen, now), policies.policy_for(c, owner.domain), own

    evidence, (anchors, policy, own_policy) = await asyncio.gather(
        finder.evidence_for(other), database.read(read)
    )
    evidence = await finder.complete(evidence, anchors, now=now, policy=policy)
    case = _Case(other, evidence, anchors, _PURPOSE[seen], now, policy)
    decision, certificates = await asyncio.to_thread(case.explained)
    holding = next((v.anchor for v in decision.verdicts if v.anchor and v.reason is None), None)
    anchor = holding or next((v.anchor for v in decision.verdicts if v.anchor), None)
    sources: Sequence[tuple[str, str | None]] = ()
    if anchor is not None:
        sha256 = sha256_of(anchor).hex()
        sources = await database.read(lambda c: sources_of(c, sha256, owner, seen, now))
    return Explanation(
        direction=seen,
        owner=owner,
        other=other,
        anchors=len(anchors),
        own_policy=own_policy,
        evidence=evidence,
        decision=decision,
        certificates=certificates,
        sources=sources,
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything that the decision rests on."""

    address: DirectAddress
    evidence: Evidence
    anchors: Anchors
    purpose: Purpose
    now: datetime
    policy: CertificatePolicy

    def explained(self) -> tuple[Decision, tuple[Explained, ...]]:
        decision = self._decide(self.policy)
        return decision, tuple(self._one(verdict) for verdict in decision.verdicts)

    def _decide(self, policy: CertificatePolicy) -> Decision:
        return decide(
            self.address,
            self.evidence,
            self.anchors,
            purpose=self.purpose,
            now=self.now,
            policy=policy,
        )

    def _one(self, verdict: Verdict) -> Explained:
        tries = tries_for(verdict, self.evidence, self.anchors, now=self.now, policy=self.policy)
        return Explained(
            verdict,
            tries,
            clauses_against(verdict, self.policy, self._decide),
            revocation_shown(verdict, self.evidence.revocation, self.now),
        )


def _direction(sender: DirectAddress, recipient: DirectAddress, c: Connection) -> Direction:
    if domains.domain(c, sender.domain) is not None:
        return Direction.OUTGOING
    if domains.domain(c, recipient.domain) is not None:
        return Direction.INCOMING
    raise DirectError(
        Reason.RESOURCE_NOT_FOUND,
        f"neither {sender.domain} nor {recipient.domain} is a domain served here",
    )


def _certificate(one: Explained) -> dict[str, Any]:
    verdict = one.verdict
    return {
        **_named(verdict.certificate),
        "binding": verdict.binding.value if verdict.binding else None,
        "level": verdict.level.value,
        "detail": verdict.detail,
    }


def _revocation(one: Explained) -> dict[str, Any]:
    shown = one.revocation
    return {
        "status": shown.status,
        "source": shown.source,
        "age_s": shown.age_s,
        "unreachable": list(shown.unreachable),
    }


def _named(cert: x509.Certificate) -> dict[str, Any]:
    return {"subject": cert.subject.rfc4514_string(), "sha256": sha256_of(cert).hex()}
