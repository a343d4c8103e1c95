"""gateway.expiry_watch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from certs import keys
from certs.address import parse_address
from certs.pkcs12 import KeyBundle
from gateway.database import SqlDatabase
from gateway.expiry_watch import watch_expiry
from tests.helpers.pki import NOW, Ca, private_key_of

ADDRESS = parse_address("drjones@direct.example.org")


async def test_certificate_that_expires_is_said_once_and_counted(
    sqlite_database: SqlDatabase,
) -> None:
    soon = Ca.create("Root").issue(address=str(ADDRESS), not_after=NOW + timedelta(days=20))
    bundle = KeyBundle(private_key_of(soon), soon.certificate, ())
    await sqlite_database.write(
        lambda c: keys.add(c, bundle, subject=ADDRESS, kek=os.urandom(32), now=NOW)
    )
    counted: asyncio.Queue[Mapping[int, int]] = asyncio.Queue()

    def clock() -> datetime:
        return NOW

    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(watch_expiry(sqlite_database, counted.put_nowait, clock))
        async with asyncio.timeout(10):
            assert await counted.get() == {60: 1, 30: 1, 7: 0, 0: 0}
        task.cancel()
    [said] = logs
    assert (said["event"], said["log_level"]) == ("a certificate expires", "warning")
    assert (said["subject"], said["days_left"]) == (ADDRESS.key, 20)
    assert "cert rollover" in said["do"]
