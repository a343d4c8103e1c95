"""gateway.turns."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from gateway.turns import PATIENCE_S, Turns

HOLD = """
import sys
from pathlib import Path
from gateway.turns import Turns
with Turns(Path(sys.argv[1])).turn():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_has_its_turn_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        turns = Turns(tmp_path)
        for _ in range(50):
            with turns.turn():
                inside += 1
                most = max(most, inside)
                inside -= 1
        turns.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_who_keeps_its_turn_for_too_long_is_waited_for_no_more(tmp_path: Path) -> None:
    with Turns(tmp_path).turn():
        begun_s = time.monotonic()
        with Turns(tmp_path).turn():
            assert time.monotonic() - begun_s >= PATIENCE_S
        # That one did not have a turn, and gives none back.
        begun_s = time.monotonic()
        with Turns(tmp_path).turn():
            assert time.monotonic() - begun_s >= PATIENCE_S


def test_turn_of_a_killed_process_is_the_next_ones(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    turns = Turns(tmp_path)
    begun_s = time.monotonic()
    with turns.turn():
        assert time.monotonic() - begun_s < PATIENCE_S


def test_a_folder_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    turns = Turns(folder)
    folder.rmdir()
    with turns.turn():
        pass
