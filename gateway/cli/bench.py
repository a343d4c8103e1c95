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
# Stored Communications, and requests of each kind.
FHIR: Final = (100_000, 1000)
QUICK_FHIR: Final = (2_000, 100)


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small messages, few runs.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the agent, the accept, the whole gateway, discovery, and the FHIR API.

    Example: direct-gateway bench --json
    """
    # Imported here, for it imports the listener: the other verbs start in a third of the time.
    from gateway.bench_agent import measure
    from gateway.bench_discovery import measure_discovery
    from gateway.bench_fhir import measure_fhir
    from gateway.bench_gateway import measure_gateway
    from gateway.bench_smtp import measure_smtp
    from gateway.bench_trust import measure_trust

    repeats = 3 if quick else 9
    agent = measure(QUICK_SIZES if quick else SIZES, repeats)
    agent += measure((100_000,), repeats, recipients=10)
    accept = [asdict(row) for row in measure_smtp(QUICK_ACCEPTS if quick else ACCEPTS)]
    whole = [asdict(row) for row in measure_gateway(QUICK_MESSAGES if quick else MESSAGES)]
    discovery = [asdict(row) for row in asyncio.run(measure_discovery(100 if quick else 1000))]
    trust = [asdict(row) for row in asyncio.run(measure_trust(*((5, 100) if quick else ())))]
    requests, attachments = asyncio.run(measure_fhir(*(QUICK_FHIR if quick else FHIR)))
    fhir = [asdict(row) for row in requests]
    memory = [asdict(row) for row in attachments]
    if as_json:
        found = {"agent": agent, "accept": accept, "gateway": whole, "discovery": discovery}
        write_json({**found, "trust": trust, "fhir": fhir, "fhir_attachments": memory})
        return
    table("agent: message in and out, beside the primitives", tuple(agent[0]), agent, as_json=False)
    table("trust: many anchors and bundles", tuple(trust[0]), trust, as_json=False)
    table("durable accept by SMTP", tuple(accept[0]), accept, as_json=False)
    table("whole gateway, durable", tuple(whole[0]), whole, as_json=False)
    table("discovery and verdicts", tuple(discovery[0]), discovery, as_json=False)
    table("FHIR API, of the server's CPU", tuple(fhir[0]), fhir, as_json=False)
    table("FHIR attachment of 25 MB", tuple(memory[0]), memory, as_json=False)
