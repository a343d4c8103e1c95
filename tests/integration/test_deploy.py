"""The systemd unit of docs/deploy, as systemd's own tool reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

UNIT = Path(__file__).parents[2] / "docs/deploy/direct-gateway.service"
COMMAND = "/opt/direct-gateway/bin/direct-gateway serve"
# Of 100, the exposure that systemd calls "OK" ends at 50. A gateway needs the network, the
# capability to bind port 25 and the address families that go with it: 16.
EXPOSURE = 20


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_unit_has_no_error(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert COMMAND in text
    unit.write_text(text.replace(COMMAND, "/bin/true"))  # nothing is installed there in a test
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_is_hardened() -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(UNIT))
    assert done.returncode == 0, done.stdout
