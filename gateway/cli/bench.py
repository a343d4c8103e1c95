"""`bench`: how fast this machine does the work of the gateway.

Talks to the terminal; everything measured is made on the spot, on loopback and in temporary
folders.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Final

import typer

from gateway.cli.common import Json, table, write_json

__all__ = ["bench"]

SIZES: Final = (2_000, 100_000, 10_000_000, 50_000_000)
QUICK_SIZES: Final = (2_000, 100_000)
# Size in octets, connections, messages.
ACCEPTS: Final = ((10_000, 1, 500), (10_000, 20, 5_000), (25_000_000, 20, 20))
QUICK_ACCEPTS: Final = ((10_000, 20, 500),)
# The edge's and the backbone's limit: 100 messages for each of 20 connections.
MESSAGES: Final = 2000
QUICK_MESSAGES: Final = 200


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small messages, few runs.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the agent beside the primitives alone, the accept, the whole gateway, and discovery.

    Example: direct-gateway bench --json
    """
    # Imported here, for it imports the listener: the other verbs start in a third of the time.
    from gateway.bench_agent import measure
    from gateway.bench_discovery import measure_discovery
    from gateway.bench_gateway import measure_gateway
    from gateway.bench_smtp import measure_smtp

    agent = measure(QUICK_SIZES if quick else SIZES, 3 if quick else 7)
    accept = [asdict(row) for row in measure_smtp(QUICK_ACCEPTS if quick else ACCEPTS)]
    whole = [asdict(row) for row in measure_gateway(QUICK_MESSAGES if quick else MESSAGES)]
    discovery = [asdict(row) for row in asyncio.run(measure_discovery(100 if quick else 1000))]
    if as_json:
        write_json({"agent": agent, "accept": accept, "gateway": whole, "discovery": discovery})
        return
    table("agent: message in and out, beside the primitives", tuple(agent[0]), agent, as_json=False)
    table("durable accept by SMTP", tuple(accept[0]), accept, as_json=False)
    table("whole gateway, durable", tuple(whole[0]), whole, as_json=False)
    table("discovery and verdicts", tuple(discovery[0]), discovery, as_json=False)
