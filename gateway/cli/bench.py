"""`bench`: how fast this machine does the work of the gateway.

Talks to the terminal; everything measured is made on the spot.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from gateway.bench_agent import measure
from gateway.cli.common import Json, table

__all__ = ["bench"]

SIZES: Final = (2_000, 100_000, 10_000_000, 50_000_000)
QUICK_SIZES: Final = (2_000, 100_000)


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small messages, few runs.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the agent beside the primitives alone, and the durable accept.

    Example: direct-gateway bench --json
    """
    rows = measure(QUICK_SIZES if quick else SIZES, 3 if quick else 7)
    table("agent", tuple(rows[0]), rows, as_json=as_json)
