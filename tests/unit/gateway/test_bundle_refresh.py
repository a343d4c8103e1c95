"""The schedule: what is due is refreshed, failures are told three ways, and it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from gateway import audit
from gateway.background import in_background
from gateway.bundle_refresh import keep_bundles_fresh
from gateway.config import Config
from gateway.database import SqlDatabase
from gateway.metrics import Metrics
from tests.helpers.bundle_host import bundle_host
from tests.helpers.pki import NOW
from tests.helpers.trust import ONE
from trust_bundles.bundle_writer import write_p7b
from trust_bundles.bundles import Settings, add_bundle, list_bundles
from trust_bundles.status import Status

OUTCOME = "direct_gateway_bundle_refreshes_total"


async def until(database: SqlDatabase, done: Callable[[Any], bool]) -> list[Any]:
    """Read the bundles until it is so."""
    async with asyncio.timeout(20):
        while True:
            found = list(await database.read(list_bundles))
            if done(found):
                return found
            await asyncio.sleep(0.01)


async def test_due_bundles_are_refreshed_and_failures_told(sqlite_database: SqlDatabase) -> None:
    config, metrics = Config(), Metrics()

    def counted(status: Status) -> float | None:
        return metrics.registry.get_sample_value(OUTCOME, {"outcome": status.value})

    async with bundle_host() as (host, certificate):
        host.files["/good"] = write_p7b([ONE])
        tls_ca = certificate.certificate_pem.decode()

        def set_up(c: Any) -> None:
            for name in ("bad", "good", "manual"):
                interval = timedelta(0) if name == "manual" else timedelta(days=1)
                settings = Settings(url=host.url(f"/{name}"), tls_ca=tls_ca, interval=interval)
                add_bundle(c, name, settings, NOW)

        await sqlite_database.write(set_up)
        with capture_logs() as logs:
            work = keep_bundles_fresh(config, sqlite_database, metrics, lambda: NOW)
            async with in_background(work):
                # They are counted after they are recorded.
                found = await until(
                    sqlite_database,
                    lambda _: None not in (counted(Status.SUCCESS), counted(Status.NOT_FOUND)),
                )
    bad, good, manual = found
    assert (bad.status, bad.failures, bad.in_force) == (Status.NOT_FOUND, 1, None)
    assert (good.status, good.in_force) == (Status.SUCCESS, 1)
    assert manual.status is Status.NEVER
    assert counted(Status.NOT_FOUND) == 1
    events = await sqlite_database.read(lambda c: audit.list_events(c, limit=10))
    told = {(e.actor, e.action, e.subject, e.outcome) for e in events}
    assert told == {
        ("schedule", "bundle-refreshed", "bad", "not-found"),
        ("schedule", "bundle-refreshed", "good", "success"),
    }
    alerts = [log for log in logs if log["log_level"] == "error"]
    assert [(alert["bundle"], alert["status"]) for alert in alerts] == [("bad", "not-found")]
