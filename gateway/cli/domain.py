"""`domain` and `address`: whom this HISP serves.

Talks to the database.
"""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import Connection

from certs.address import parse_address, parse_domain
from gateway import domains
from gateway.cli.common import DEFAULT_CONFIG, ConfigPath, Json, Site, on_site, show, table

__all__ = ["addresses", "names"]

names = typer.Typer(help="The health domain names served here.", no_args_is_help=True)
addresses = typer.Typer(help="The Direct addresses served here.", no_args_is_help=True)


@names.command("add")
def add_domain(
    name: Annotated[str, typer.Argument(help="Health domain name, such as direct.example.org.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Serve a domain.

    Example: direct-gateway domain add direct.example.org
    """

    async def work(site: Site) -> str:
        domain = parse_domain(name)

        def write(c: Connection) -> None:
            domains.add_domain(c, domain, site.now)
            site.audit(c, "domain-added", domain)

        await site.database.write(write)
        return domain

    show({"domain": on_site(config, work)}, as_json=as_json)


@names.command("list")
def list_domains(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """List the domains.

    Example: direct-gateway domain list --json
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(domains.list_domains)
        return [
            {
                "domain": d.name,
                "profile": d.profile.value,
                "enabled": d.enabled,
                "added": d.created_at,
            }
            for d in found
        ]

    columns = ("domain", "profile", "enabled", "added")
    table("domains", columns, on_site(config, work), as_json=as_json)


@addresses.command("add")
def add_address(
    address: Annotated[str, typer.Argument(help="Direct address in a domain served here.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Serve an address.

    Example: direct-gateway address add dr.rivera@direct.example.org
    """

    async def work(site: Site) -> str:
        parsed = parse_address(address)

        def write(c: Connection) -> None:
            domains.add_address(c, parsed, site.now)
            site.audit(c, "address-added", parsed.key)

        await site.database.write(write)
        return str(parsed)

    show({"address": on_site(config, work)}, as_json=as_json)


@addresses.command("list")
def list_addresses(
    domain: Annotated[str, typer.Option(help="Only of this domain.")] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List the addresses.

    Example: direct-gateway address list --domain direct.example.org
    """

    async def work(site: Site) -> list[dict[str, object]]:
        name = parse_domain(domain) if domain else None
        found = await site.database.read(lambda c: domains.list_addresses(c, domain=name))
        return [
            {"address": str(a.address), "enabled": a.enabled, "added": a.created_at} for a in found
        ]

    table("addresses", ("address", "enabled", "added"), on_site(config, work), as_json=as_json)
