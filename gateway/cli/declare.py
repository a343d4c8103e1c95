"""`apply` and `export`: the whole site in one file.

Talks to the database and the files it is given.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy import Connection

from certs.errors import DirectError
from gateway.cli.asking import confirm
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Site,
    Yes,
    actor,
    console,
    fail,
    on_site,
    read_file,
    write_json,
    write_out,
)
from gateway.cli.working import working
from gateway.site_file import read_site, write_site
from gateway.site_plan import Act, Step, plan, undeclared
from gateway.site_store import Made, carry_out, present

__all__ = ["apply", "export"]

SIGNS = {Act.ADD: ("+", "green"), Act.CHANGE: ("~", "yellow"), Act.REMOVE: ("-", "red")}
SHOWN_CHARACTERS = 100


def apply(
    file: Annotated[Path, typer.Argument(help="What the site shall be, as TOML.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the plan; exit 1 where there is one.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what is not declared.")] = False,
    yes: Yes = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Make domains, addresses, users, clients, bundles and anchors as a file declares them.

    All of it or nothing; applied again, it changes nothing. Secrets of new users and clients are
    printed once. `export` writes such a file.

    Example: direct-gateway apply site.toml --dry-run
    """
    try:
        wanted = read_site(read_file(file).decode("utf-8"))
    except UnicodeDecodeError:
        fail(f"{file}: not UTF-8")
    except DirectError as error:
        fail(DirectError(error.reason, f"{file}: {error.detail}"))

    async def look(site: Site) -> tuple[list[Step], int]:
        there = await site.database.read(present)
        left = 0 if prune else len(undeclared(wanted, there))
        return plan(wanted, there, prune=prune), left

    steps, left = on_site(config, look)
    if dry_run or not steps:
        _show(steps, left, [], as_json=as_json, applied=not dry_run)
        raise typer.Exit(1 if steps else 0)
    if not as_json:
        _print(steps, left)
    if sys.stdin.isatty() or any(step.act is Act.REMOVE for step in steps):
        confirm(f"Make these {len(steps)} changes?", yes=yes)

    async def work(site: Site) -> tuple[list[Step], list[Made]]:
        # Planned anew in the transaction that carries it out: somebody else may have been faster.
        return await site.database.write(
            lambda c: _carried_out(c, site, plan(wanted, present(c), prune=prune), file.parent)
        )

    done, made = on_site(config, work)
    _show(done, left, made, as_json=as_json, applied=True)


def export(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Write the site as a file that `apply` takes: all but keys, passwords and tokens.

    Example: direct-gateway export --out site.toml
    """

    async def work(site: Site) -> str:
        return write_site(await site.database.read(present))

    text = on_site(config, work)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        write_out(out, text.encode())
    except DirectError as error:
        fail(error)


def _carried_out(
    connection: Connection, site: Site, steps: Sequence[Step], folder: Path
) -> tuple[list[Step], list[Made]]:
    made = []
    for step in working(steps, "Applying"):
        secret = carry_out(connection, step, folder=folder, actor=actor(), now=site.now)
        if secret is not None:
            made.append(secret)
        action = {Act.ADD: "added", Act.CHANGE: "changed", Act.REMOVE: "removed"}[step.act]
        site.audit(
            connection,
            f"{step.thing.kind}-{action}",
            step.thing.key,
            old=_summary(step.old, step),
            new=_summary(step.new, step),
        )
    return list(steps), made


def _show(
    steps: Sequence[Step], left: int, made: Sequence[Made], *, as_json: bool, applied: bool
) -> None:
    if as_json:
        write_json(
            {
                "applied": applied,
                "undeclared": left,
                "steps": [_row(step) for step in steps],
                "made": [
                    {"kind": one.kind, "name": one.name, "secret": one.secret} for one in made
                ],
            }
        )
        return
    if not applied:
        _print(steps, left)
    elif not steps:
        console().print("all is as declared")
    else:
        console().print(f"done: {len(steps)} changes", style="bold green")
    for one in made:
        console().print(f"{one.kind} {one.name}: {one.secret}", markup=False)


def _print(steps: Sequence[Step], left: int) -> None:
    out = console()
    for step in steps:
        sign, colour = SIGNS[step.act]
        out.print(Text(f"{sign} {step.thing.kind} {step.thing.key}", style=colour))
        for name in step.changed if step.act is Act.CHANGE else ():
            old, new = _brief(step.old.get(name)), _brief(step.new.get(name))
            out.print(Text(f"    {name}: {old} -> {new}"))
    if left:
        out.print(f"{left} things are not declared and stay as they are (--prune removes them)")
    if not steps:
        out.print("all is as declared")


def _row(step: Step) -> dict[str, Any]:
    return {
        "act": step.act.value,
        "kind": step.thing.kind,
        "key": step.thing.key,
        "changed": list(step.changed),
        "old": step.old or None,
        "new": step.new or None,
    }


def _summary(values: dict[str, Any], step: Step) -> str | None:
    """Return what changed as the audit trail keeps it: long texts by their fingerprint."""
    if not values:
        return None
    shown = {name: _brief(values.get(name)) for name in step.changed}
    return json.dumps(shown, sort_keys=True)


def _brief(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= SHOWN_CHARACTERS:
        return value
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
