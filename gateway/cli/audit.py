"""`audit`: what was done, by whom, and whether the record of it is whole.

Talks to the database.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gateway import audit as trail
from gateway.audit_export import fhir_audit_event, line_of
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Site,
    on_site,
    show,
    table,
)

__all__ = ["audit"]

audit = typer.Typer(help="What was done, by whom.", no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many events.")]


@audit.command("list")
def list_events(
    limit: Limit = 50,
    action: Annotated[str, typer.Option(help="Only of this action.")] = "",
    subject: Annotated[str, typer.Option(help="Only about this.")] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List events, newest first.

    Example: direct-gateway audit list --action anchor-added
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(
            lambda c: trail.list_events(
                c, limit=limit, action=action or None, subject=subject or None
            )
        )
        return [
            {
                "number": e.number,
                "at": e.at,
                "actor": e.actor,
                "action": e.action,
                "subject": e.subject,
                "outcome": e.outcome,
                "old": e.old,
                "new": e.new,
            }
            for e in found
        ]

    columns = ("number", "at", "actor", "action", "subject", "outcome", "old", "new")
    table("audit", columns, on_site(config, work), as_json=as_json)


@audit.command("export")
def export(
    limit: Limit = 1000,
    fhir: Annotated[bool, typer.Option("--fhir", help="As FHIR AuditEvent.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Print events as NDJSON, oldest first.

    Example: direct-gateway audit export --fhir > audit.ndjson
    """

    async def work(site: Site) -> list[str]:
        found = await site.database.read(lambda c: trail.list_events(c, limit=limit))
        return [
            json.dumps(fhir_audit_event(event)) if fhir else line_of(event)
            for event in reversed(found)
        ]

    for line in on_site(config, work):
        typer.echo(line)


@audit.command("verify")
def verify(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Check that no event was edited, removed or put in between; exit 1 where one was.

    Example: direct-gateway audit verify
    """

    async def work(site: Site) -> tuple[int | None, trail.Head]:
        return await site.database.read(lambda c: (trail.verify(c), trail.head(c)))

    broken, head = on_site(config, work)
    show(
        {
            "sound": broken is None,
            "first_broken": broken,
            "events": head.number,
            "head": head.digest,
        },
        as_json=as_json,
    )
    raise typer.Exit(0 if broken is None else 1)
