"""`selftest`: official conformance cases, run on this machine.

Talks to servers of its own on loopback.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import typer

from certs.errors import DirectError
from gateway.cli.common import Json, fail, table
from gateway.clock import utc_now

__all__ = ["selftest"]

selftest = typer.Typer(help="Conformance cases, run here.", no_args_is_help=True)


@selftest.callback()
def cases() -> None:
    """Keep the noun apart from its verbs, of which there may be one."""


@selftest.command("discovery")
def discovery(as_json: Json = False) -> None:
    """Run the discovery and hosting cases of the official tool; exit 1 where one fails.

    Example: direct-gateway selftest discovery
    """
    # Imported here, for it brings the directory and its servers: the other verbs need neither.
    from gateway.selftest_discovery import discovery_selftest

    try:
        rows = [asdict(row) for row in asyncio.run(discovery_selftest(utc_now()))]
    except DirectError as error:
        fail(error)
    columns = ("id", "passed", "expected", "chosen", "reason", "why")
    table("discovery", columns, rows, as_json=as_json)
    raise typer.Exit(0 if all(row["passed"] for row in rows) else 1)
