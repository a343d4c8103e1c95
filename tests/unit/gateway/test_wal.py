"""The log counts as synced until a sync fails, and again once it was begun anew."""

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


def test_a_log_that_was_not_begun_is_lost(log: WriteAheadLog, file: Path) -> None:
    file.write_bytes(b"what others have left")
    assert log.is_lost
    with pytest.raises(OSError, match="failed before"):
        log.sync(log.era)


def test_a_log_that_is_not_there_cannot_begin(log: WriteAheadLog) -> None:
    with pytest.raises(FileNotFoundError):
        log.begin()
    assert log.is_lost


def test_after_a_sync_that_failed_none_counts_until_the_log_is_begun_anew(
    log: WriteAheadLog, file: Path
) -> None:
    file.symlink_to("/dev/null")  # which cannot be synced
    log.begin()
    before = log.era
    assert not log.is_lost
    with pytest.raises(OSError, match="Invalid argument"):
        log.sync(before)
    file.unlink()
    file.write_bytes(b"one")
    assert log.is_lost
    with pytest.raises(OSError, match="failed before"):
        log.sync(log.era)
    log.begin()
    assert not log.is_lost
    log.sync(log.era)
    with pytest.raises(OSError, match="failed before"):  # what was committed then
        log.sync(before)


def test_what_was_committed_before_the_log_was_emptied_without_a_fault_is_durable(
    log: WriteAheadLog, file: Path
) -> None:
    file.write_bytes(b"one")
    log.begin()
    before = log.era
    log.begin()  # another connection writes to it by now
    log.sync(before)


def test_a_log_that_is_closed_syncs_nothing(log: WriteAheadLog, file: Path) -> None:
    file.write_bytes(b"one")
    log.begin()
    for _ in range(2):
        log.close()
    with pytest.raises(OSError, match="closed"):
        log.sync(log.era)
