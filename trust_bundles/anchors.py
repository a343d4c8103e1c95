"""A set of trust anchors, and what changed between two of them.

Pure.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, section 4.2.3
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from certs.issuers import IssuerIndex

__all__ = ["Anchors", "Difference", "difference"]


class Anchors(IssuerIndex):
    """The anchors of one address or domain; `digest` names the set, in any order.

    Made once and kept, so that a decision need not look through them all.
    """


@dataclass(frozen=True, slots=True)
class Difference:
    """What a new set of anchors changes, in the order of the sets."""

    added: tuple[x509.Certificate, ...]
    removed: tuple[x509.Certificate, ...]
    expiring: tuple[x509.Certificate, ...]


def difference(old: Anchors, new: Anchors, *, now: datetime, warn_before: timedelta) -> Difference:
    """Compare two sets; `expiring` are those of `new` that end within `warn_before` of `now`."""
    return Difference(
        added=tuple(cert for cert in new if cert not in old),
        removed=tuple(cert for cert in old if cert not in new),
        expiring=tuple(cert for cert in new if cert.not_valid_after_utc < now + warn_before),
    )
