"""The sandbox in the terminal: the exchange as a timeline, and how to go on by hand.

Talks to the terminal.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from rich.console import Console

from certs.errors import DirectError
from gateway.cli.common import console
from gateway.exchange import Step, exchange
from gateway.sandbox import Hisp, Sandbox, open_sandbox

__all__ = ["show"]


async def show(folder: Path, document: bytes, *, stay: bool) -> bool:
    """Run the sandbox under `folder` and say whether the exchange succeeded."""
    out = console()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    async with open_sandbox(folder) as running:
        out.print("Two HISPs are running on this machine.", style="bold")
        for hisp in (running.hillside, running.lakeview):
            out.print(f"  {hisp.name}: {hisp.domain}, backbone {_where(hisp.listening.backbone)}")
        out.print()
        succeeded = await _perform(out, running, document)
        _by_hand(out, running)
        if stay:
            out.print("\nStaying up. Ctrl-C ends it.", style="bold")
            await stopped.wait()
    return succeeded


async def _perform(out: Console, running: Sandbox, document: bytes) -> bool:
    number = 0
    try:
        async for step in exchange(running, document):
            number += 1
            _print(out, number, step)
    except DirectError as error:
        out.print(f"\nThe exchange failed: {error.detail}", style="bold red", markup=False)
        return False
    out.print("\nThe exchange succeeded.", style="bold green")
    return True


def _print(out: Console, number: int, step: Step) -> None:
    took = f"  [{step.took_ms:.0f} ms]" if step.took_ms is not None else ""
    out.print(f"{number:2}. {step.who}", style="bold", end="", markup=False)
    out.print(f" {step.what}{took}", markup=False)
    for line in step.details:
        out.print(f"      {line}", markup=False, style="dim")


def _by_hand(out: Console, running: Sandbox) -> None:
    out.print("\nTo go on by hand:", style="bold")
    for hisp in (running.hillside, running.lakeview):
        _print_access(out, hisp)
    a, b = running.hillside, running.lakeview
    lines = [
        f"curl -s -H 'Authorization: Bearer {b.token}' '{b.base_url}/Communication?_count=5'",
        f"curl -s -X POST -H 'Authorization: Bearer {a.token}' "
        f"-H 'Content-Type: application/fhir+json' {a.base_url}/Communication "
        f"-d '{_example(a, b)}'",
        f"direct-gateway message list --config {a.config_file}",
        f"direct-gateway lookup {b.user} --resolver {running.resolver[0]}:{running.resolver[1]}",
    ]
    for line in lines:
        out.print(f"  {line}", markup=False)


def _print_access(out: Console, hisp: Hisp) -> None:
    out.print(f"  {hisp.name}", style="bold")
    for name, value in (
        ("FHIR", hisp.base_url),
        ("token", hisp.token),
        ("mail edge", f"{_where(hisp.listening.edge)}, user ehr, password {hisp.password}"),
        ("addresses", f"{hisp.user}, {hisp.desk}"),
        ("configuration", hisp.config_file),
    ):
        out.print(f"    {name}: {value}", markup=False)


def _example(a: Hisp, b: Hisp) -> str:
    return (
        '{"resourceType":"Communication","status":"in-progress",'
        f'"sender":{{"identifier":{{"system":"urn:ietf:rfc:3986","value":"mailto:{a.user}"}}}},'
        f'"recipient":[{{"identifier":{{"system":"urn:ietf:rfc:3986","value":"mailto:{b.user}"}}}}],'
        '"topic":{"text":"By hand"},"payload":[{"contentString":"Hello"}]}'
    )


def _where(address: tuple[str, int] | None) -> str:
    return f"{address[0]}:{address[1]}" if address else "off"
