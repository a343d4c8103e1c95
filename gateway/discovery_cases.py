"""Put the official discovery cases to our discovery and trust decision, one after another.

Talks to whatever servers the directory asks.

Standards:
    DCDT    Direct Certificate Discovery Tool (ONC) 3.x, discovery cases D1 to D18
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from certs.cache import CachingDirectory
from certs.directory import LiveDirectory
from certs.evidence import Step
from certs.policy import CertificatePolicy
from gateway.dcdt import CASES, Case, Topology
from trust_bundles.decision import Decision, decide
from trust_bundles.policy import Purpose

__all__ = ["Outcome", "run_case", "run_cases"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case. `chosen` are the names of the certificates encrypted to."""

    case: Case
    chosen: tuple[str, ...]
    decision: Decision
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        """Whether exactly the target was chosen, or nobody where there is none."""
        return self.chosen == ((self.case.expected,) if self.case.expected else ())


async def run_cases(
    topology: Topology,
    directory: LiveDirectory | CachingDirectory,
    *,
    now: datetime,
    policy: CertificatePolicy,
) -> Sequence[Outcome]:
    """Return the outcome of every case, in order."""
    return [await run_case(case, topology, directory, now=now, policy=policy) for case in CASES]


async def run_case(
    case: Case,
    topology: Topology,
    directory: LiveDirectory | CachingDirectory,
    *,
    now: datetime,
    policy: CertificatePolicy,
) -> Outcome:
    """Return the outcome of one case."""
    anchors = [topology.anchor]
    address = topology.address_of(case)
    found = await directory.evidence_for(address)
    evidence = await directory.complete(found, anchors, now=now, policy=policy)
    decision = decide(address, evidence, anchors, purpose=Purpose.ENCRYPT, now=now, policy=policy)
    names = {certificate: name for name, certificate in topology.certificates.items()}
    chosen = tuple(names[certificate] for certificate in decision.certificates)
    return Outcome(case, chosen, decision, evidence.steps)
