"""`domain`: the health domain names that this HISP serves.

Talks to the database.
"""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import Connection

from certs.address import parse_domain
from certs.policy import Profile
from gateway import domain_control, domains
from gateway.cli.asking import confirm
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    Yes,
    change,
    on_site,
    table,
)
from trust_bundles.store import forget_owner

__all__ = ["names"]

names = typer.Typer(help="Health domain names served here.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Domain served here.")]


@names.command("add")
def add_domain(
    name: Annotated[str, typer.Argument(help="Health domain name, such as direct.example.org.")],
    profile: Annotated[Profile, typer.Option(help="Edition that binds.")] = Profile.AS_1_3,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Serve a domain.

    Example: direct-gateway domain add direct.example.org
    """

    def work(c: Connection, site: Site) -> Change:
        domain = parse_domain(name)
        domains.add_domain(c, domain, site.now, profile=profile)
        return Change({"domain": domain}, new=profile.value)

    change(config, "domain-added", name, work, as_json=as_json)


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


@names.command("change")
def change_domain(
    name: Name,
    profile: Annotated[Profile, typer.Option(help="Edition that binds.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Change a domain's settings; in force at the next message.

    Example: direct-gateway domain change direct.example.org --profile as-1.2
    """

    def work(c: Connection, _: Site) -> Change:
        domain = parse_domain(name)
        before = domains.domain(c, domain)
        domain_control.change_domain(c, domain, profile=profile)
        old = before.profile.value if before else None
        return Change({"domain": domain, "profile": profile.value}, old=old, new=profile.value)

    change(config, "domain-changed", name, work, as_json=as_json)


@names.command("disable")
def disable_domain(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Take and send no mail of a domain for now; nothing of it is forgotten.

    Example: direct-gateway domain disable direct.example.org
    """
    _enable(config, name, as_json, enabled=False)


@names.command("enable")
def enable_domain(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Serve a disabled domain again.

    Example: direct-gateway domain enable direct.example.org
    """
    _enable(config, name, as_json, enabled=True)


@names.command("remove")
def remove_domain(
    name: Name, yes: Yes = False, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Serve a domain no more; refused while it has addresses or messages under way.

    Its trust is forgotten with it. Its keys are not: mail may yet come that only they open.

    Example: direct-gateway domain remove direct.example.org --yes
    """
    confirm(f"Remove the domain {name}, with whom it trusts?", yes=yes)

    def work(c: Connection, _: Site) -> Change:
        domain = parse_domain(name)
        domain_control.remove_domain(c, domain)
        forget_owner(c, domain)
        return Change({"removed": domain})

    change(config, "domain-removed", name, work, as_json=as_json)


def _enable(config: ConfigPath, name: str, as_json: bool, *, enabled: bool) -> None:
    def work(c: Connection, _: Site) -> Change:
        domain = parse_domain(name)
        domain_control.change_domain(c, domain, enabled=enabled)
        return Change({"domain": domain, "enabled": enabled})

    change(config, f"domain-{'enabled' if enabled else 'disabled'}", name, work, as_json=as_json)
