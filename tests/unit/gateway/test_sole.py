from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from certs.errors import DirectError, Reason
from gateway.sole import sole_process

HOLD = """
import sys
from pathlib import Path
from gateway.sole import sole_process
with sole_process(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_folder_is_served_by_one_at_a_time(tmp_path: Path) -> None:
    with sole_process(tmp_path):
        with pytest.raises(DirectError) as caught, sole_process(tmp_path):
            pass
        assert caught.value.reason is Reason.CONFIGURATION_INVALID
        assert "another gateway" in caught.value.detail
    with sole_process(tmp_path):
        pass


def test_lock_is_given_back_where_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(LookupError), sole_process(tmp_path):
        raise LookupError
    with sole_process(tmp_path):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DirectError), sole_process(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with sole_process(tmp_path):
            pass


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DirectError) as caught, sole_process(tmp_path / "none"):
        pass
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
