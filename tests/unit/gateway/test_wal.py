"""The log counts as synced until a sync fails, and again once it was written anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.wal import WriteAheadLog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db-wal"


@pytest.fixture
def log(tmp_path: Path) -> WriteAheadLog:
    return WriteAheadLog(tmp_path / "gateway.db")


def test_a_log_that_sqlite_has_removed_is_in_the_database(log: WriteAheadLog) -> None:
    log.sync(log.era)


def test_a_log_that_took_the_place_of_another_is_synced(log: WriteAheadLog, file: Path) -> None:
    file.write_bytes(b"one")
    log.sync(log.era)
    file.unlink()
    file.symlink_to("/dev/null")  # which cannot be synced
    with pytest.raises(OSError, match="Invalid argument"):
        log.sync(log.era)


def test_after_a_sync_that_failed_none_counts_until_the_log_is_written_anew(
    log: WriteAheadLog, file: Path
) -> None:
    content = bytes(range(256)) * 10_000  # more than is written at once
    before = log.era
    file.symlink_to("/dev/null")
    with pytest.raises(OSError, match="Invalid argument"):
        log.sync(before)
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(OSError, match="failed before"):
        log.sync(log.era)
    log.mend()
    log.sync(log.era)
    assert file.read_bytes() == content
    with pytest.raises(OSError, match="failed before"):  # what was committed then
        log.sync(before)
    log.close()


def test_a_disk_that_still_fails_is_not_taken_for_mended(log: WriteAheadLog, file: Path) -> None:
    before = log.era
    file.symlink_to("/dev/null")
    with pytest.raises(OSError, match="Invalid argument"):
        log.sync(before)
    with pytest.raises(OSError, match="Invalid argument"):
        log.mend()
    assert log.era == before


def test_a_log_without_fault_is_not_written_anew(log: WriteAheadLog, file: Path) -> None:
    file.write_bytes(b"one")
    written = file.stat().st_mtime_ns
    log.mend()
    assert file.stat().st_mtime_ns == written
