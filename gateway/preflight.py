"""Say beforehand whether a message could be sent: for the FHIR bridge, and for people.

Talks to the directory and the database through its ports; implements
`fhir_bridge.ports.Preflight`.

Standards:
    AS  Applicability Statement v1.3, section 4 (AS-061)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from certs.address import DirectAddress
from certs.issuers import sha256_of
from certs.ports import Clock
from fhir_bridge.ports import Prospect
from gateway.ports import Directory
from gateway.trust import Trust
from trust_bundles.decision import Decision

__all__ = ["Preflight"]


class Preflight:
    """Discovers and judges as the pipeline does, and sends nothing."""

    def __init__(self, *, directory: Directory, trust: Trust, clock: Clock) -> None:
        self._directory = directory
        self._trust = trust
        self._clock = clock

    async def prospects(
        self, sender: DirectAddress, recipients: Sequence[DirectAddress]
    ) -> Sequence[Prospect]:
        """Return the prospect of each recipient, in order."""
        evidence = await asyncio.gather(
            *(self._directory.evidence_for(address) for address in recipients)
        )
        decisions = await self._trust.recipients(sender, evidence, self._clock())
        return [_prospect(decision) for decision in decisions]


def _prospect(decision: Decision) -> Prospect:
    trusted = [verdict for verdict in decision.verdicts if verdict.reason is None]
    if not trusted:
        return Prospect(decision.address, decision.reason)
    first = trusted[0]
    return Prospect(
        address=decision.address,
        reason=None,
        binding=first.binding.value if first.binding else None,
        certificate=sha256_of(first.certificate).hex(),
        expires=min(verdict.certificate.not_valid_after_utc for verdict in trusted),
    )
