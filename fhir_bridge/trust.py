"""What the gateway found out about a signer, and how a resource shows it.

Pure.

Standards:
    FHIR    R4 instant
    fhir.md section 3.3, row on the CMS signature
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from certs.address import DirectAddress
from fhir_bridge.terms import JSON, Terms, extension

__all__ = ["Trust", "instant", "trust_extension"]


@dataclass(frozen=True, slots=True)
class Trust:
    """What the gateway found out about the signer. Hashes are hexadecimal SHA-256."""

    status: str  # "trusted"
    signer: str | None
    binding: str | None  # "address-bound" or "domain-bound"
    organization: str | None  # the certificate's O
    anchor: str | None
    bundle: str | None  # its URL, or its name where it came from a file
    algorithms: str | None
    checked: datetime
    signed_at: datetime | None = None  # as the signer states it
    author: DirectAddress | None = None  # whom the signer speaks for, of several authors
    signature: bytes | None = None  # the CMS object, where it is apart from what it is over


def instant(moment: datetime) -> str:
    """Return an aware time as a FHIR instant, with the fraction only where there is one."""
    spec = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=spec).replace("+00:00", "Z")


def trust_extension(trust: Trust, terms: Terms) -> JSON:
    """Return the `direct-trust` extension."""
    parts: list[tuple[str, JSON]] = [("status", {"valueCode": trust.status})]
    for name, value in (
        ("signer", trust.signer),
        ("binding", trust.binding),
        ("anchor", trust.anchor),
        ("bundle", trust.bundle),
        ("algorithms", trust.algorithms),
    ):
        if value:
            parts.append((name, {"valueString": value}))
    parts.append(("checked", {"valueInstant": instant(trust.checked)}))
    return extension(terms.extension("direct-trust"), parts)
