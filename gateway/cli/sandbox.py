"""`sandbox`: two HISPs on this machine exchange a clinical document, step by step.

Talks to the terminal.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from certs.errors import DirectError
from gateway.app import utc_now
from gateway.cli.common import console, fail, read_file
from gateway.exchange import Step, exchange
from gateway.sample_ccda import continuity_of_care_document
from gateway.sandbox import Hisp, Sandbox, open_sandbox

__all__ = ["sandbox"]


def sandbox(
    document: Annotated[
        Path | None, typer.Option(help="Document to send; default: a sample C-CDA.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the data here; default: a temporary folder.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Do not stay up after it.")] = False,
) -> None:
    """Run two HISPs on loopback and the exchange between them.

    Stays up until Ctrl-C where standard input is a terminal; exits 0 after an exchange that
    succeeded and 1 after one that failed.

    Example: direct-gateway sandbox --document summary.xml
    """
    content = read_file(document) if document else continuity_of_care_document(now=utc_now())
    stay = sys.stdin.isatty() and not once
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory(prefix="direct-sandbox-") as temporary:
        try:
            succeeded = asyncio.run(_run(folder or Path(temporary), content, stay=stay))
        except OSError as error:
            fail(f"the sandbox cannot run here: {error.strerror}")
    raise typer.Exit(0 if succeeded else 1)


async def _run(folder: Path, document: bytes, *, stay: bool) -> bool:
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
