"""Keep the trust bundles fresh: on schedule while the gateway runs, on demand for the command line.

Talks to the database, to DNS, and to the servers of bundles and of their signers' revocation. What
becomes of a bundle is an audit event; a failure is also logged and counted, and changes nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
import structlog

from certs.dns_client import DnsClient
from certs.errors import DirectError
from certs.http_client import HttpClient
from certs.issuer_source import IssuerSource
from certs.policy import CertificatePolicy
from certs.ports import Clock, Database
from certs.revocation_source import RevocationSource
from gateway import audit
from gateway.config import Config
from gateway.finder import resolver_of
from gateway.metrics import Metrics
from trust_bundles.bundles import claim_due
from trust_bundles.fetch import BundleClient
from trust_bundles.outcome import Outcome
from trust_bundles.refresh import Refresher, Told
from trust_bundles.status import Status

__all__ = ["AT_ONCE", "keep_bundles_fresh", "open_refresher"]

POLL_S: Final = 5.0
AT_ONCE: Final = 8
# Longer than a refresh can take: nobody else refreshes the bundle meanwhile, and after a crash
# somebody does.
LEASE: Final = timedelta(minutes=10)

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_refresher(
    config: Config, database: Database, *, actor: str, clock: Clock
) -> AsyncIterator[Refresher]:
    """Open what refreshes bundles; `actor` is whom history and audit trail name."""
    dns = DnsClient(
        resolver=resolver_of(config),
        allow_private=config.discovery.private_addresses,
        lifetime_s=config.discovery.timeout_s,
    )
    http = HttpClient(resolver=dns)
    try:
        yield Refresher(
            database=database,
            source=BundleClient(resolver=dns),
            revocations=RevocationSource(http=http),
            issuers=IssuerSource(http=http),
            policy=CertificatePolicy(revocation=config.trust.revocation),
            clock=clock,
            random=random.SystemRandom().random,
            tell=_teller(actor),
            actor=actor,
        )
    finally:
        await http.aclose()


async def keep_bundles_fresh(
    config: Config, database: Database, metrics: Metrics, clock: Clock
) -> None:
    """Refresh each bundle when it is due, until cancelled."""
    async with open_refresher(config, database, actor="schedule", clock=clock) as refresher:
        while True:
            names: Sequence[str] = ()
            try:
                names = await database.write(lambda c: claim_due(c, clock(), LEASE, limit=AT_ONCE))
            except DirectError as error:
                _log.error("bundles cannot be claimed", reason=error.reason.code)
            work = (_refresh(refresher, name, metrics) for name in names)
            # What nobody foresaw in one bundle must not end the refreshing of all.
            ends = await asyncio.gather(*work, return_exceptions=True)
            for name, end in zip(names, ends, strict=True):
                if isinstance(end, Exception):
                    _log.error("bundle not refreshed", bundle=name, error=type(end).__name__)
            if not names:
                await asyncio.sleep(POLL_S)


async def _refresh(refresher: Refresher, name: str, metrics: Metrics) -> None:
    try:
        outcome = await refresher.refresh(name)
    except DirectError as error:
        # An administrator was quicker, or the database failed: the lease brings it back.
        _log.warning("bundle not refreshed", bundle=name, reason=error.reason.code)
        return
    metrics.bundle_refreshed(outcome.status.value)
    if outcome.status.failed:
        _log.error(
            "bundle refresh failed: the anchors of before stay in force",
            bundle=name,
            status=outcome.status.value,
            detail=outcome.detail,
        )
    elif outcome.status is not Status.UNCHANGED:
        _log.info(
            "bundle refreshed",
            bundle=name,
            status=outcome.status.value,
            version=outcome.number,
            added=len(outcome.added),
            removed=len(outcome.removed),
        )


def _teller(actor: str) -> Told:
    def tell(connection: sa.Connection, outcome: Outcome, now: datetime) -> None:
        if outcome.status is Status.UNCHANGED:
            return
        changes = None
        if outcome.number is not None:
            changes = (
                f"version {outcome.number}, {len(outcome.added)} added, "
                f"{len(outcome.removed)} removed, sha256 {outcome.sha256}"
            )
        audit.record(
            connection,
            now=now,
            actor=actor,
            action="bundle-refreshed",
            subject=outcome.name,
            outcome=outcome.status.value,
            new=changes,
        )

    return tell
