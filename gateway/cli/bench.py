"""`bench`: how fast this machine does the work of the gateway.

Talks to the terminal; everything measured is made on the spot.
"""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.bench_agent import measure
from gateway.cli.common import Json, table

__all__ = ["bench"]

KIB = 1024


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the agent against the primitives alone, and the durable accept.

    Example: direct-gateway bench --json
    """
    rows = measure()
    table("agent", tuple(rows[0]), rows, as_json=as_json)
