"""The receiving process of the benchmark: listener, spool and database of the gateway, no worker.

Talks to loopback; to its parent by standard input and output; and to /proc for its memory. It
prints port and memory when it listens, CPU time and memory when its input ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from time import process_time
from typing import Final

from gateway.acceptance import SmtpReception
from gateway.clock import utc_now
from gateway.database import SqlDatabase
from gateway.logs import log_to
from gateway.ports import Role
from gateway.smtp_in import Limits, Listener
from gateway.spool import SpoolBodies
from gateway.tls import server_context

__all__ = ["receive"]

# On loopback one peer makes all the connections of the run.
LIMITS: Final = Limits(messages=1_000_000, connections_per_ip=1000, connections_per_minute=100_000)


async def receive(folder: Path) -> None:
    """Accept mail into `folder`, which is set up, until standard input ends."""
    async with SqlDatabase.open(f"sqlite:///{folder / 'gateway.sqlite3'}") as database:
        listener = Listener(
            role=Role.BACKBONE,
            reception=SmtpReception(
                database=database,
                bodies=SpoolBodies(database=database, folder=folder / "spool", clock=utc_now),
                clock=utc_now,
                wake=lambda: None,
            ),
            hostname="bench.example",
            tls=server_context(folder / "tls.crt", folder / "tls.key"),
            limits=LIMITS,
        )
        _, port = await listener.start("127.0.0.1", 0)
        begun_s = process_time()
        _tell(port, _peak_mib())
        await asyncio.to_thread(sys.stdin.read)
        _tell(process_time() - begun_s, _peak_mib())
        await listener.stop(1.0)


def _tell(*values: float) -> None:
    sys.stdout.write(" ".join(map(str, values)) + "\n")
    sys.stdout.flush()


def _peak_mib() -> float:
    """Return the most memory this process ever had; unlike getrusage's, of this program alone."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    log_to(sys.stderr, "error")  # standard output is the parent's, who reads two lines
    asyncio.run(receive(Path(sys.argv[1])))
