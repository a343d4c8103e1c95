"""A disk that takes no more, a database that is locked or corrupt: 451, and on it goes.

The gateway is the served one. strace makes its system calls fail, as a disk does.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from pathlib import Path

import aiosmtplib
import pytest

from tests.helpers.gateway_sweep import traced
from tests.helpers.neighbours import Neighbours, neighbours
from tests.helpers.round_check import Round, settled

SMALL, LARGE = 1000, 300_000  # in a row of the database, and in a file
FAULTS = (
    ("ENOSPC", "pwrite64", SMALL),
    ("ENOSPC", "pwrite64", LARGE),
    ("EROFS", "pwrite64", SMALL),
    ("EIO", "fsync", LARGE),
)


async def refused(around: Neighbours, octets: int) -> str:
    """Send once and return the refusal."""
    with pytest.raises(aiosmtplib.SMTPResponseException) as caught:
        await around.receive_once("<refused@test.example>", octets)
    return f"{caught.value.code} {caught.value.message}"


async def test_a_full_a_read_only_and_a_broken_disk_are_451_until_they_are_well_again(
    tmp_path: Path,
) -> None:
    sent = Round([], [])
    async with neighbours(tmp_path) as around:
        with around.here.served() as process:
            for error, calls, octets in FAULTS:
                inject = ("-e", f"trace={calls}", "-e", f"inject={calls}:error={error}")
                async with traced(process.pid, tmp_path / "trace", *inject):
                    assert (await refused(around, octets)).startswith("451 4.3.0 "), error
                sent.received.append(f"<{error}.{octets}@test.example>")
                await around.receive_once(sent.received[-1], LARGE)
            assert await settled(around, sent) is None


async def test_a_locked_database_is_451_until_it_is_free(tmp_path: Path) -> None:
    sent = Round([], ["<free@test.example>"])
    async with neighbours(tmp_path) as around:
        with around.here.served():
            other = sqlite3.connect(around.database_url.removeprefix("sqlite:///"))
            other.isolation_level = None
            other.execute("BEGIN IMMEDIATE")
            assert (await refused(around, SMALL)).startswith("451 4.3.0 ")
            other.execute("ROLLBACK")
            other.close()
            await around.receive_once("<free@test.example>", SMALL)
            assert await settled(around, sent) is None


async def test_a_corrupt_database_is_not_served_and_a_backup_is(tmp_path: Path) -> None:
    sent = Round([], ["<before@test.example>"])
    async with neighbours(tmp_path) as around:
        with around.here.served():
            await around.receive_once("<before@test.example>", SMALL)
            assert await settled(around, sent) is None
        file = Path(around.database_url.removeprefix("sqlite:///"))
        backup = file.read_bytes()
        file.write_bytes(backup[:4096] + b"\xa5" * (len(backup) - 4096))
        done = await asyncio.to_thread(
            subprocess.run, around.here.command, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        assert "database disk image is malformed" in done.stderr
        assert "Traceback" not in done.stderr
        file.write_bytes(backup)
        with around.here.served():
            sent.received.append("<after@test.example>")
            await around.receive_once("<after@test.example>", SMALL)
            assert await settled(around, sent) is None
