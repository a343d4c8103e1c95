"""gateway.logs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FULL = Path("/dev/full")  # every write to it says that there is no space left


def test_a_line_is_json_with_level_and_time() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys, structlog, gateway.logs as g; g.log_to(sys.stderr, 'info');"
            "structlog.get_logger().info('started', port=25); structlog.get_logger().debug('no')",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = done.stderr.splitlines()
    told = json.loads(line)
    assert (told["event"], told["level"], told["port"]) == ("started", "info", 25)
    assert told["timestamp"].endswith("Z")


def test_a_log_on_a_full_disk_fails_nobody() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys, structlog, gateway.logs as g; g.log_to(sys.stderr, 'info');"
            "structlog.get_logger().error('one'); structlog.get_logger().error('two');"
            "print('it goes on')",
        ],
        stdout=subprocess.PIPE,
        stderr=FULL.open("w"),
        text=True,
        check=True,
    )
    assert done.stdout == "it goes on\n"
