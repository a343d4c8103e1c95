"""`trust policy`: what a domain demands of certificates, as a short TOML file.

Talks to the database and to the files it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from certs.address import parse_domain
from certs.errors import DirectError, Reason
from certs.policy import CertificatePolicy
from gateway import domains
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    actor,
    change,
    fail,
    on_site,
    read_file,
    table,
    write_json,
)
from gateway.policies import DomainPolicies, default_policy
from trust_bundles import policies as store
from trust_bundles.policy_file import POLICY_OCTETS, read_policy, write_policy

__all__ = ["policy"]

policy = typer.Typer(help="What a domain demands of certificates.", no_args_is_help=True)

Domain = Annotated[str, typer.Argument(help="Domain served here.")]


@policy.command("check")
def check_policy(
    file: Annotated[Path, typer.Argument(help="Policy file.")], as_json: Json = False
) -> None:
    """Check a policy file; each mistake is told with its line, and exit status 1.

    Example: direct-gateway trust policy check policy.toml
    """
    problems: list[dict[str, object]] = []
    try:
        read_policy(_text(file), CertificatePolicy())
    except DirectError as error:
        for line in error.detail.splitlines():
            where, _, what = line.removeprefix("line ").partition(": ")
            problems.append({"line": int(where), "problem": what})
    if as_json:
        write_json({"file": str(file), "ok": not problems, "problems": problems})
    else:
        for problem in problems:
            typer.echo(f"{file}:{problem['line']}: {problem['problem']}")
        if not problems:
            typer.echo(f"{file}: ok")
    raise typer.Exit(1 if problems else 0)


@policy.command("set")
def set_policy(
    domain: Domain,
    file: Annotated[Path, typer.Argument(help="Policy file.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Demand this of certificates from now on; in force at the next message.

    Example: direct-gateway trust policy set direct.example.org policy.toml
    """
    text = _text(file)

    def work(c: Connection, site: Site) -> Change:
        name = parse_domain(domain)
        if domains.domain(c, name) is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no domain {name}")
        old = store.set_policy(c, name, text, actor=actor(), now=site.now)
        return Change({"domain": name, "policy": str(file)}, old=old, new=text)

    change(config, "policy-set", domain, work, as_json=as_json)


@policy.command("show")
def show_policy(domain: Domain, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Print the whole policy that is in force for a domain, as a file to start from.

    Example: direct-gateway trust policy show direct.example.org > policy.toml
    """
    try:
        name = parse_domain(domain)
    except DirectError as error:
        fail(error)

    async def work(site: Site) -> tuple[str | None, CertificatePolicy]:
        policies = DomainPolicies(default_policy(site.config.trust))
        return await site.database.read(
            lambda c: (store.text_of(c, name), policies.policy_for(c, name))
        )

    text, found = on_site(config, work)
    written = write_policy(found)
    if as_json:
        write_json({"domain": name, "own": text is not None, "policy": written})
        return
    own = "its own policy" if text is not None else "it has no policy of its own: the defaults"
    typer.echo(f"# {name}: {own}\n{written}", nl=False)


@policy.command("list")
def list_policies(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """List the domains that have a policy of their own.

    Example: direct-gateway trust policy list
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(store.list_policies)
        return [{"domain": p.domain, "changed": p.changed_at, "by": p.changed_by} for p in found]

    table("policies", ("domain", "changed", "by"), on_site(config, work), as_json=as_json)


@policy.command("remove")
def remove_policy(
    domain: Domain, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Go back to the defaults for a domain; in force at the next message.

    Example: direct-gateway trust policy remove direct.example.org
    """

    def work(c: Connection, _: Site) -> Change:
        name = parse_domain(domain)
        old = store.remove_policy(c, name)
        if old is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"{name} has no policy of its own")
        return Change({"removed": name}, old=old)

    change(config, "policy-removed", domain, work, as_json=as_json)


def _text(file: Path) -> str:
    data = read_file(file)
    if len(data) > POLICY_OCTETS:
        fail(f"{file}: over 64 KiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        fail(f"{file}: not UTF-8")
