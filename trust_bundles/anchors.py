"""A set of trust anchors, and what changed between two of them.

Pure.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, section 4.2.3
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from certs.issuers import IssuerIndex, name_key, same_authority

__all__ = ["Anchors", "Difference", "Succession", "difference"]


class Anchors(IssuerIndex):
    """The anchors of one address or domain; `digest` names the set, in any order.

    Made once and kept, so that a decision need not look through them all.
    """


@dataclass(frozen=True, slots=True)
class Succession:
    """An anchor in the place of one of the same name. `same_key`: it was only issued anew."""

    old: x509.Certificate
    new: x509.Certificate
    same_key: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """What a new set of anchors changes, in the order of the sets.

    `successions` are pairs of `removed` and `added`: a changed key deserves a second look.
    """

    added: tuple[x509.Certificate, ...]
    removed: tuple[x509.Certificate, ...]
    expiring: tuple[x509.Certificate, ...]
    successions: tuple[Succession, ...] = ()


def difference(old: Anchors, new: Anchors, *, now: datetime, warn_before: timedelta) -> Difference:
    """Compare two sets; `expiring` are those of `new` that end within `warn_before` of `now`."""
    added = tuple(cert for cert in new if cert not in old)
    removed = tuple(cert for cert in old if cert not in new)
    by_name: dict[object, list[x509.Certificate]] = {}
    for cert in added:
        by_name.setdefault(name_key(cert.subject), []).append(cert)
    return Difference(
        added=added,
        removed=removed,
        expiring=tuple(cert for cert in new if cert.not_valid_after_utc < now + warn_before),
        successions=tuple(
            Succession(gone, come, same_authority(gone, come))
            for gone in removed
            for come in by_name.get(name_key(gone.subject), ())
        ),
    )
