"""`audit`: what was done, by whom, and whether the record of it is whole.

Talks to the database, and to files that `audit export` wrote.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from certs.errors import DirectError
from gateway import audit as trail
from gateway.audit import AuditEvent, Head
from gateway.audit_export import events_of, fhir_audit_event, line_of
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Site,
    fail,
    on_site,
    read_file,
    show,
    table,
)

__all__ = ["audit"]

audit = typer.Typer(help="What was done, by whom.", no_args_is_help=True)

PAGE: Final = 1000
_HEAD: Final = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


@audit.command("list")
def list_events(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many events.")] = 50,
    before: Annotated[int | None, typer.Option(help="Only older than the one so numbered.")] = None,
    actor: Annotated[str, typer.Option(help="Only by this user, client, peer or job.")] = "",
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
                c,
                limit=limit,
                before=before,
                actor=actor or None,
                action=action or None,
                subject=subject or None,
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
    since: Annotated[int, typer.Option(min=0, help="Only after the one so numbered.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="How many; default: all.")] = None,
    fhir: Annotated[bool, typer.Option("--fhir", help="As FHIR AuditEvent.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Print events as NDJSON, oldest first; lines that are not FHIR can be verified elsewhere.

    Example: direct-gateway audit export --since 1200 > audit.ndjson
    """

    async def work(site: Site) -> None:
        last, left = since, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = await _page(site, last, size)
            for event in page:
                typer.echo(json.dumps(fhir_audit_event(event)) if fhir else line_of(event))
            if len(page) < size:
                break
            last, left = page[-1].number, None if left is None else left - size

    on_site(config, work)


@audit.command("verify")
def verify(
    file: Annotated[
        Path | None, typer.Argument(help="What `export` wrote; '-': standard input.")
    ] = None,
    known: Annotated[
        str, typer.Option(metavar="NUMBER:DIGEST", help="A head that was kept elsewhere.")
    ] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Check that no event was edited, removed or put in between; exit 1 where one was.

    That the newest were removed shows only beside a head that was kept elsewhere: keep what this
    prints, and say it with --known the next time.

    Example: direct-gateway audit verify --known 1200:5feceb66…
    """
    match = _HEAD.fullmatch(known)
    if known and match is None:
        fail("--known: write NUMBER:DIGEST, as `audit verify` prints them")
    kept = Head(int(match[1]), match[2]) if match else None

    async def work(site: Site) -> tuple[int | None, Head]:
        found = await site.database.read(lambda c: (trail.verify(c, known=kept), trail.head(c)))
        await _made_durable(site)
        return found

    broken, head = on_site(config, work) if file is None else _verified(file, kept)
    show(
        {
            "sound": broken is None,
            "first_broken": broken,
            "events": head.number,
            "head": f"{head.number}:{head.digest}",
        },
        as_json=as_json,
    )
    raise typer.Exit(0 if broken is None else 1)


async def _page(site: Site, last: int, size: int) -> Sequence[AuditEvent]:
    found = await site.database.read(lambda c: trail.events_since(c, last, limit=size))
    await _made_durable(site)
    return found


async def _made_durable(site: Site) -> None:
    """Return when what was read is on the disk: what leaves the machine is taken back no more."""
    await site.database.write(lambda _: None)


def _verified(file: Path, known: Head | None) -> tuple[int | None, Head]:
    """Verify exported lines: a whole trail, or what follows the event before their first."""
    data = sys.stdin.buffer.read() if str(file) == "-" else read_file(file)
    try:
        events = list(events_of(data.decode("utf-8", "replace").splitlines()))
    except DirectError as error:
        fail(error)
    if not events:
        return None, trail.BEGINNING
    since = Head(events[0].number - 1, events[0].previous)
    broken = trail.first_broken(events, since=since, known=known)
    return broken, Head(events[-1].number, events[-1].digest)
