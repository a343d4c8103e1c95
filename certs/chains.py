"""The certificates above a leaf, and the revocation of all, fetched where they are said to be.

Talks to HTTP servers that the certificates name, so within bounds: missing intermediates while
there is no path, at most five levels up; revocation only for a path that ends in an anchor.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, section 4.2
    RFC5280 sections 4.2.1.13, 4.2.2.1 and 6.3
    RFC6960 (OCSP)
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from cryptography import x509

from certs.binding import binding_of
from certs.errors import DirectError
from certs.evidence import Evidence, Revocation
from certs.issuer_source import IssuerSource
from certs.issuers import IssuerIndex, signed_by
from certs.memory import Kept, Memory
from certs.path import CANDIDATES, Path, find_path
from certs.policy import CertificatePolicy
from certs.profile import valid_at
from certs.revocation import authentic
from certs.revocation_source import RevocationSource

__all__ = ["DEADLINE_S", "Chains"]

LEVELS: Final = 5  # AS-082
LEAVES: Final = 10  # whose chains are completed, of one address
KEPT: Final = timedelta(minutes=1)  # before the same chains are looked through again
CHAINS_KEPT: Final = 10_000
DEADLINE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Gathered:
    intermediates: tuple[x509.Certificate, ...]
    revocation: Revocation
    paths: tuple[Path, ...]


class Chains:
    """Completes evidence. `complete` never raises for what it could not fetch.

    `deadline_s` is in seconds, for the chains and revocation of one address.
    """

    def __init__(
        self,
        *,
        issuers: IssuerSource,
        revocation: RevocationSource,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._deadline_s = deadline_s
        self._issuers = issuers
        self._revocation = revocation
        self._kept: Memory[_Gathered] = Memory(CHAINS_KEPT)

    async def complete(
        self,
        evidence: Evidence,
        anchors: Sequence[x509.Certificate] | IssuerIndex,
        *,
        now: datetime,
        policy: CertificatePolicy,
    ) -> Evidence:
        """Return `evidence` with the intermediates and revocation answers that were to be had.

        Of the answers that a message carried, those are kept that a CA on the path signed. They
        add to what is fetched, and spare nobody the question: they may be older than they need be.
        """
        if not evidence.found:
            return evidence
        trusted = anchors if isinstance(anchors, IssuerIndex) else IssuerIndex(anchors)
        key = _key(evidence, trusted, policy)
        gather = partial(self._gather, evidence, trusted, now, policy)
        kept = await self._kept.get(key, now, gather)
        if kept.answer is None:
            return evidence
        revocation = kept.answer.revocation
        if evidence.revocation != Revocation():
            stapled = await asyncio.to_thread(
                authentic, evidence.revocation, kept.answer.paths, now
            )
            revocation = replace(
                revocation,
                crls=revocation.crls + stapled.crls,
                ocsp_responses=revocation.ocsp_responses + stapled.ocsp_responses,
            )
        return replace(evidence, intermediates=kept.answer.intermediates, revocation=revocation)

    def forget(self) -> None:
        """Forget chains and issuers."""
        self._kept.clear()
        self._issuers.forget()

    async def _gather(
        self, evidence: Evidence, anchors: IssuerIndex, now: datetime, policy: CertificatePolicy
    ) -> Kept[_Gathered]:
        work = _Work(evidence, anchors, now, policy)
        try:
            async with asyncio.timeout(self._deadline_s):
                await asyncio.gather(*(self._one(work, leaf) for leaf in work.leaves))
        except TimeoutError:
            work.unreachable.append("deadline")
        return Kept(work.gathered(), work.now, work.now + KEPT)

    async def _one(self, work: _Work, leaf: x509.Certificate) -> None:
        path = await work.path(leaf)
        if path is None and await self._climb(work, leaf):
            path = await work.path(leaf)
        if path is None or path.certificates[0] == path.anchor:
            return
        await self._issuers.led_to_anchor(path, work.now)
        work.paths.append(path)
        work.answers.append(await self._revocation.answers_for(path, now=work.now))

    async def _climb(self, work: _Work, leaf: x509.Certificate) -> bool:
        """Fetch what is missing between `leaf` and an anchor; say whether anything was."""
        below, fetched = leaf, False
        for _ in range(LEVELS):
            # AS-083: no look-up where the issuer is an anchor, or at hand.
            if _issuer_in(work.anchors, below):
                return fetched
            issuer = _issuer_in(IssuerIndex(work.intermediates), below)
            if issuer is None:
                issuer = _issuer_in(
                    IssuerIndex(await self._issuers.named_by(below, work.now)), below
                )
                fetched = True
            if issuer is None:
                return False
            work.add(issuer)
            below = issuer
        return fetched


class _Work:
    """What is gathered while one address's evidence is completed."""

    def __init__(
        self,
        evidence: Evidence,
        anchors: IssuerIndex,
        now: datetime,
        policy: CertificatePolicy,
    ) -> None:
        certificates = [found.certificate for found in evidence.found[:LEAVES]]
        self.leaves = [cert for cert in certificates if _may_serve(cert, evidence, now, policy)]
        self.anchors = anchors
        self.now = now
        self._policy = policy
        self.intermediates = list(evidence.intermediates[:CANDIDATES])
        self.answers: list[Revocation] = []
        self.paths: list[Path] = []
        self.unreachable: list[str] = []

    async def path(self, leaf: x509.Certificate) -> Path | None:
        try:
            return await asyncio.to_thread(
                find_path,
                leaf,
                tuple(self.intermediates),
                self.anchors,
                now=self.now,
                policy=self._policy,
            )
        except DirectError:
            return None

    def add(self, issuer: x509.Certificate) -> None:
        if issuer not in self.intermediates:
            # What was fetched leads somewhere; the twenty that a message carried may not.
            self.intermediates.insert(0, issuer)

    def gathered(self) -> _Gathered:
        crls = {crl.digest: crl for answer in self.answers for crl in answer.crls}
        revocation = Revocation(
            crls=tuple(crls.values()),
            ocsp_responses=tuple(o for answer in self.answers for o in answer.ocsp_responses),
            unreachable=(
                *(url for answer in self.answers for url in answer.unreachable),
                *self.unreachable,
            ),
            fetched_at=self.now,
        )
        return _Gathered(tuple(self.intermediates), revocation, tuple(self.paths))


def _key(
    evidence: Evidence, anchors: IssuerIndex, policy: CertificatePolicy
) -> tuple[Hashable, ...]:
    certificates = tuple(found.certificate for found in evidence.found)
    return (evidence.address, certificates, evidence.intermediates, anchors.digest, policy)


def _may_serve(
    cert: x509.Certificate, evidence: Evidence, now: datetime, policy: CertificatePolicy
) -> bool:
    # Nothing is fetched for a certificate that will be refused whatever its chain is.
    try:
        binding_of(cert, evidence.address, policy.profile)
        valid_at(cert, now)
    except DirectError:
        return False
    return True


def _issuer_in(index: IssuerIndex, below: x509.Certificate) -> x509.Certificate | None:
    # a self-issued certificate is no step upwards.
    candidates = (issuer for issuer in index.issuers_of(below) if issuer != below)
    return next((issuer for issuer in candidates if signed_by(below, issuer)), None)
