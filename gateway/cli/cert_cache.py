"""`cert cache`: what the gateway remembers of others' certificates, and of their revocation.

Talks to the database.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer
from sqlalchemy import Connection

from certs import cache as remembered
from certs.address import parse_address
from certs.cache import Entry
from gateway.cli import publish
from gateway.cli.common import DEFAULT_CONFIG, ConfigPath, Json, Site, on_site, show, table

__all__ = ["cache", "certs"]

certs = publish.certs  # the noun, with one more below it
cache = typer.Typer(help="What is remembered of others' certificates.", no_args_is_help=True)
certs.add_typer(cache, name="cache")


@cache.command("list")
def list_cache(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List what is remembered, the newest first; the times are of the last good answer.

    Example: direct-gateway cert cache list
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(lambda c: remembered.list_entries(c, limit))
        return [_described(entry, site) for entry in found]

    columns = ("kind", "key", "certificates", "octets", "stored", "expires", "fresh")
    table("remembered", columns, on_site(config, work), as_json=as_json)


@cache.command("flush")
def flush_cache(
    key: Annotated[str, typer.Argument(help="Address or URL; default: everything.")] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Forget what is remembered, or one address or URL; it is asked for anew.

    A gateway that runs empties its own memory within a minute.

    Example: direct-gateway cert cache flush dr.chen@direct.example.net
    """

    async def work(site: Site) -> int:
        only = parse_address(key).key if "@" in key and "://" not in key else key

        def write(c: Connection) -> int:
            count = remembered.flush(c, site.now, only or None)
            site.audit(c, "cache-flushed", only or "everything")
            return count

        return await site.database.write(write)

    show({"forgotten": on_site(config, work)}, as_json=as_json)


def _described(entry: Entry, site: Site) -> dict[str, object]:
    found = len(json.loads(entry.value)) if entry.kind == remembered.DISCOVERY else None
    return {
        "kind": entry.kind,
        "key": entry.key,
        "certificates": found,
        "octets": len(entry.value),
        "stored": entry.stored_at,
        "expires": entry.expires_at,
        "fresh": entry.stored_at <= site.now < entry.expires_at,
    }
