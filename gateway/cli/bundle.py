"""`bundle`: published collections of trust anchors, kept fresh by themselves.

Talks to the database and, to refresh, to the servers of bundles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from gateway.cli.asking import confirm
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    Yes,
    actor,
    change,
    on_site,
    read_file,
    show,
    table,
)
from gateway.cli.trust_terms import Directions, Owners, pem_in, shown_directions, span_of
from gateway.cli.working import counting
from gateway.clock import utc_now
from trust_bundles import bundles as store
from trust_bundles import versions
from trust_bundles.bundles import Settings
from trust_bundles.outcome import Outcome
from trust_bundles.policy import Direction

__all__ = ["bundles"]

bundles = typer.Typer(help="Trust bundles: published collections of anchors.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the bundle, as you gave it.")]
Url = Annotated[str, typer.Option(metavar="URL", help="Where it is published; https only.")]
FromFile = Annotated[Path | None, typer.Option("--file", help="Take it from this file.")]
Signer = Annotated[
    Path | None, typer.Option(help="Certificate of its signer, or of the CA of its signers.")
]
TlsCa = Annotated[
    Path | None, typer.Option(help="CA of its web server; default: the system's CAs.")
]
Every = Annotated[str, typer.Option(metavar="SPAN", help="Refresh every 24h, 30m, 7d; 0: never.")]
Older = Annotated[
    bool, typer.Option("--allow-older", help="Take it though it is older than the one in force.")
]


@bundles.command("add")
def add(
    name: Annotated[str, typer.Argument(help="A name of your choice: a-z, 0-9, '.', '-', '_'.")],
    url: Url = "",
    file: FromFile = None,
    signer: Signer = None,
    tls_ca: TlsCa = None,
    every: Every = "24h",
    approve: Annotated[
        bool, typer.Option("--approve", help="New versions wait for `bundle approve`.")
    ] = False,
    owners: Owners = None,
    direction: Directions = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Add a bundle, fetch it, and let those after --for trust it; exit 1 where it was not taken.

    Example: direct-gateway bundle add atab --url https://bundles.example.org/atab.p7m
    --signer signer.pem --for direct.example.org
    """
    settings = Settings(
        url=url or None,
        interval=span_of(every),
        signers=pem_in(signer) if signer else None,
        tls_ca=pem_in(tls_ca) if tls_ca else None,
        needs_approval=approve,
    )
    content = read_file(file) if file else None

    async def work(site: Site) -> list[Outcome]:
        def write(c: Connection) -> None:
            store.add_bundle(c, name, settings, site.now)
            for owner in owners or ():
                store.attach(c, name, owner, direction or list(Direction), site.now)
            uses = ", ".join(owners or ())
            site.audit(c, "bundle-added", name, new=f"{url or 'from files'} for {uses or 'nobody'}")

        await site.database.write(write)
        return await _refreshed(site, [name] if url or content is not None else [], content)

    _report(on_site(config, work), as_json=as_json)


@bundles.command("change")
def change_bundle(
    name: Name,
    url: Url = "",
    signer: Signer = None,
    no_signer: Annotated[
        bool, typer.Option("--no-signer", help="Check its signature no more.")
    ] = False,
    tls_ca: TlsCa = None,
    every: Every = "",
    approve: Annotated[
        bool | None, typer.Option("--approve/--no-approve", help="Versions wait for approval.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Change where a bundle comes from and how it is checked; what is in force stays so.

    Example: direct-gateway bundle change atab --signer new-signer.pem --approve
    """
    changes: dict[str, Any] = {"url": url} if url else {}
    if signer or no_signer:
        changes["signers"] = pem_in(signer) if signer else None
    if tls_ca:
        changes["tls_ca"] = pem_in(tls_ca)
    if every:
        changes["interval"] = span_of(every)
    if approve is not None:
        changes["needs_approval"] = approve

    def work(c: Connection, site: Site) -> Change:
        old = store.get_bundle(c, name).settings
        new = replace(old, **changes)
        store.change_bundle(c, name, new, site.now)
        return Change({"bundle": name, "changed": sorted(changes)}, _settings(old), _settings(new))

    change(config, "bundle-changed", name, work, as_json=as_json)


@bundles.command("list")
def list_bundles(
    owner: Annotated[str, typer.Option("--for", help="Only those this one itself trusts.")] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List the bundles, who trusts them, and how each last refresh went.

    Example: direct-gateway bundle list --for direct.example.org
    """

    async def work(site: Site) -> list[dict[str, object]]:
        def read(c: Connection) -> list[dict[str, object]]:
            counts = versions.counts_in_force(c)
            uses: dict[str, list[str]] = {}
            for use in store.list_uses(c, owner=owner or None):
                uses.setdefault(use.bundle, []).append(use.owner)
            return [
                {
                    "bundle": b.name,
                    "for": uses.get(b.name, []),
                    "enabled": b.enabled,
                    "status": b.status.value,
                    "anchors": counts.get(b.name, 0),
                    "version": b.in_force,
                    "staged": b.staged,
                    "checked": b.checked_at,
                    "next": b.due_at,
                    "url": b.settings.url,
                }
                for b in store.list_bundles(c)
                if not owner or b.name in uses
            ]

        return await site.database.read(read)

    columns = (
        "bundle",
        "for",
        "enabled",
        "status",
        "anchors",
        "version",
        "staged",
        "checked",
        "next",
    )
    table("bundles", columns, on_site(config, work), as_json=as_json)


@bundles.command("refresh")
def refresh(
    names: Annotated[list[str] | None, typer.Argument(help="Bundles; default: all.")] = None,
    file: FromFile = None,
    allow_older: Older = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Refresh bundles now; exit 1 where one was not taken: its anchors of before stay in force.

    Example: direct-gateway bundle refresh atab
    """
    if file is not None and len(names or ()) != 1:
        raise typer.BadParameter("--file is for one bundle")
    content = read_file(file) if file else None

    async def work(site: Site) -> list[Outcome]:
        found = await site.database.read(store.list_bundles)
        wanted = names or [b.name for b in found if b.enabled and b.settings.url]
        return await _refreshed(site, wanted, content, allow_older=allow_older)

    _report(on_site(config, work), as_json=as_json)


@bundles.command("attach")
def attach(
    name: Name,
    owners: Annotated[list[str], typer.Option("--for", help="Domain or address; repeatable.")],
    direction: Directions = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let a domain or one address trust a bundle; in force at the next message.

    Example: direct-gateway bundle attach atab --for direct.example.org --direction incoming
    """
    ways = direction or list(Direction)

    def work(c: Connection, site: Site) -> Change:
        attached = [store.attach(c, name, owner, ways, site.now) for owner in owners]
        shown = {"bundle": name, "for": attached, "directions": shown_directions(ways)}
        return Change(shown, new=f"{', '.join(attached)}: {shown_directions(ways)}")

    change(config, "bundle-attached", name, work, as_json=as_json)


@bundles.command("detach")
def detach(
    name: Name,
    owners: Annotated[list[str], typer.Option("--for", help="Domain or address; repeatable.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let a domain or address trust a bundle no more; in force at the next message.

    Example: direct-gateway bundle detach atab --for direct.example.org
    """

    def work(c: Connection, _: Site) -> Change:
        detached = [store.detach(c, name, owner) for owner in owners]
        return Change({"bundle": name, "detached": detached}, old=", ".join(detached))

    change(config, "bundle-detached", name, work, as_json=as_json)


@bundles.command("enable")
def enable(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Let a bundle count again for all who use it.

    Example: direct-gateway bundle enable atab
    """
    _enable(config, name, enabled=True, as_json=as_json)


@bundles.command("disable")
def disable(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Let a bundle count for nobody and refresh it no more; nothing of it is forgotten.

    Example: direct-gateway bundle disable atab
    """
    _enable(config, name, enabled=False, as_json=as_json)


@bundles.command("remove")
def remove(
    name: Name, yes: Yes = False, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Remove a bundle with its history; its anchors stop counting at once.

    Example: direct-gateway bundle remove atab --yes
    """
    confirm(f"Remove bundle {name}, its history and all trust in it?", yes=yes)

    def work(c: Connection, _: Site) -> Change:
        old = store.get_bundle(c, name)
        store.remove_bundle(c, name)
        return Change({"removed": name}, old=_settings(old.settings))

    change(config, "bundle-removed", name, work, as_json=as_json)


def _enable(config: Path, name: str, *, enabled: bool, as_json: bool) -> None:
    def work(c: Connection, _: Site) -> Change:
        store.enable_bundle(c, name, enabled=enabled)
        return Change({"bundle": name, "enabled": enabled})

    action = "bundle-enabled" if enabled else "bundle-disabled"
    change(config, action, name, work, as_json=as_json)


async def _refreshed(
    site: Site, names: Sequence[str], content: bytes | None, *, allow_older: bool = False
) -> list[Outcome]:
    if not names:
        return []
    # Imported here, for it brings HTTP and DNS: the other verbs need neither.
    from gateway.bundle_refresh import AT_ONCE, open_refresher

    async with open_refresher(
        site.config, site.database, actor=actor(), clock=utc_now
    ) as refresher:
        if content is not None:
            return [await refresher.take_file(names[0], content, allow_older=allow_older)]
        room = asyncio.Semaphore(AT_ONCE)

        async def one(name: str, done: Callable[[], None]) -> Outcome:
            async with room:
                outcome = await refresher.refresh(name, allow_older=allow_older)
            done()
            return outcome

        with counting(len(names), "Refreshing") as done:
            return await asyncio.gather(*(one(name, done) for name in names))


def _report(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    rows = [
        {
            "bundle": outcome.name,
            "status": outcome.status.value,
            "version": outcome.number,
            "added": len(outcome.added),
            "removed": len(outcome.removed),
            "detail": outcome.detail,
        }
        for outcome in outcomes
    ]
    columns = ("bundle", "status", "version", "added", "removed", "detail")
    if len(rows) == 1 and not as_json:
        show(rows[0], as_json=False)
    else:
        table("bundles", columns, rows, as_json=as_json)
    raise typer.Exit(1 if any(outcome.status.failed for outcome in outcomes) else 0)


def _settings(settings: Settings) -> str:
    checked = "signed" if settings.signers else "unsigned"
    approval = ", approved by hand" if settings.needs_approval else ""
    return f"{settings.url or 'from files'}, every {settings.interval}, {checked}{approval}"
