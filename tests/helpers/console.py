"""The real console script in a subprocess: one call, or a gateway that is served."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.servers import free_port

__all__ = ["Installation", "Said", "run"]

SCRIPT = Path(sys.executable).parent / "direct-gateway"
READY_S = 120.0  # a machine may be busy with much else


def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the script; with `check`, exit status 0 is required."""
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


class Said(NamedTuple):
    """What one call came to: `output` is its JSON, or its text where it failed."""

    status: int
    output: Any
    error: str


@dataclass
class Installation:
    """A data folder and configuration that the script works on."""

    folder: Path
    backbone: int
    edge: int
    fhir: int
    name: str = "direct-gateway.toml"

    @classmethod
    def create(
        cls, folder: Path, hostname: str, more: str = "", *, database: str = ""
    ) -> Installation:
        folder.mkdir(parents=True, exist_ok=True)
        backbone, edge, fhir = (free_port() for _ in range(3))
        here = cls(folder, backbone, edge, fhir)
        here.config.write_text(
            f'[gateway]\nhostname = "{hostname}"\ndatabase = "{database}"\n'
            f'[backbone]\nlisten = "127.0.0.1:{backbone}"\n'
            f'[edge]\nlisten = "127.0.0.1:{edge}"\n'
            f'[fhir]\nlisten = "127.0.0.1:{fhir}"\n'
            f"{more}"
        )
        run("init", "--config", here.config)
        return here

    def another(self) -> Installation:
        """One more gateway on the same data and database, with ports of its own."""
        backbone, edge, fhir = (free_port() for _ in range(3))
        other = Installation(self.folder, backbone, edge, fhir, "another.toml")
        text = self.config.read_text()
        for old, new in ((self.backbone, backbone), (self.edge, edge), (self.fhir, fhir)):
            text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
        other.config.write_text(text)
        return other

    @property
    def config(self) -> Path:
        return self.folder / self.name

    def run(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(*arguments, "--config", self.config, check=check)

    def json(self, *arguments: object) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def batch(
        self, *calls: Sequence[object], environment: Mapping[str, str] | None = None
    ) -> list[Said]:
        """Run several calls, each with `--json`, in one process of the script."""
        lines = [
            shlex.join([*map(str, call), "--config", str(self.config), "--json"]) for call in calls
        ]
        done = subprocess.run(
            [SCRIPT, "batch", "--json", "--keep-going"],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **(environment or {})},
        )
        said = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(said) == len(calls), done.stdout + done.stderr
        return [Said(one["status"], one["output"], one["error"]) for one in said]

    @contextlib.contextmanager
    def served(self) -> Iterator[subprocess.Popen[bytes]]:
        """Serve, ready when the context begins; a process still alive at its end is stopped."""
        process = subprocess.Popen(self.command)
        try:
            self.wait_until_ready(process)
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=20) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    @property
    def command(self) -> list[str]:
        """What serves it."""
        return [str(SCRIPT), "serve", "--config", str(self.config)]

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Return when the process that serves it takes connections."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            assert process.poll() is None, "serve ended by itself"
            with contextlib.suppress(OSError):
                for port in (self.backbone, self.edge, self.fhir):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError("serve did not become ready")
