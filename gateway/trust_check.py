"""Is there anything an administrator should know about trust? For `check`.

Talks to the database through the connection it is handed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from certs.errors import DirectError
from certs.policy import CertificatePolicy
from trust_bundles import bundles, policies, store, versions
from trust_bundles.bundles import StoredBundle, Use
from trust_bundles.policy import Direction
from trust_bundles.policy_file import read_policy
from trust_bundles.store import StoredAnchor

__all__ = ["Finding", "check_trust"]

EXPIRES_SOON: Final = timedelta(days=30)
STALE: Final = 3  # intervals without a good refresh


@dataclass(frozen=True, slots=True)
class Finding:
    """`verdict` is ok, warn or fail."""

    what: str
    verdict: str
    detail: str


def check_trust(
    connection: sa.Connection, domains: Sequence[str], now: datetime
) -> Sequence[Finding]:
    """Return what is to be said of anchors by domain, of each bundle and of each policy."""
    anchors = store.list_anchors(connection)
    uses, counts = bundles.list_uses(connection), versions.counts_in_force(connection)
    known = bundles.list_bundles(connection)
    counting = {b.name: counts.get(b.name, 0) for b in known if b.enabled}
    found = [f for name in domains for f in _domain(name, anchors, uses, counting, now)]
    found += [f for b in known for f in _bundle(b, now)]
    for policy in policies.list_policies(connection):
        found.append(_policy(policy.domain, policy.text))
    return found


def _domain(
    name: str,
    anchors: Sequence[StoredAnchor],
    uses: Sequence[Use],
    counting: dict[str, int],
    now: datetime,
) -> Iterator[Finding]:
    what = f"{name}: anchors"
    here = [a for a in anchors if a.owner.rpartition("@")[2] == name and _counts(a, now)]
    attached = [u for u in uses if u.owner.rpartition("@")[2] == name]
    totals = {
        way: sum(way in a.directions for a in here)
        + sum(counting.get(u.bundle, 0) for u in attached if way in u.directions)
        for way in Direction
    }
    if not any(totals.values()):
        yield Finding(what, "fail", "trusts nobody: direct-gateway anchor add, or bundle attach")
        return
    one_way = [way.value for way, total in totals.items() if not total]
    numbers = ", ".join(f"{total} {way.value}" for way, total in totals.items())
    yield Finding(what, "warn" if one_way else "ok", numbers)
    soon = sum(a.certificate.not_valid_after_utc < now + EXPIRES_SOON for a in here)
    if soon:
        yield Finding(what, "warn", f"{soon} expire within {EXPIRES_SOON.days} days")


def _bundle(bundle: StoredBundle, now: datetime) -> Iterator[Finding]:
    what, status = f"bundle {bundle.name}", bundle.status.value
    if not bundle.enabled:
        yield Finding(what, "ok", "disabled")
        return
    if bundle.status.failed:
        detail = f"{status}: {bundle.detail}; see: direct-gateway bundle show {bundle.name}"
        yield Finding(what, "fail" if _stale(bundle, now) else "warn", detail)
    elif bundle.in_force is None and bundle.staged is None:
        yield Finding(what, "warn", "holds nothing yet: direct-gateway bundle refresh")
    else:
        yield Finding(what, "ok", status)
    if bundle.staged is not None:
        ask = f"direct-gateway bundle diff {bundle.name}"
        yield Finding(what, "warn", f"version {bundle.staged} waits for approval: {ask}")


def _policy(domain: str, text: str) -> Finding:
    try:
        read_policy(text, CertificatePolicy())
    except DirectError as error:
        return Finding(f"{domain}: policy", "fail", "; ".join(error.detail.splitlines()))
    return Finding(f"{domain}: policy", "ok", "its own")


def _counts(anchor: StoredAnchor, now: datetime) -> bool:
    begins, ends = anchor.period.begins, anchor.period.ends
    in_time = (begins is None or begins <= now) and (ends is None or now < ends)
    return anchor.enabled and in_time and anchor.certificate.not_valid_after_utc >= now


def _stale(bundle: StoredBundle, now: datetime) -> bool:
    last = bundle.good_at or bundle.added_at
    return bundle.in_force is None or now - last > STALE * bundle.settings.interval
