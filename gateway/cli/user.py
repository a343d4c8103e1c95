"""`user`: the mail users of the edge, and the addresses they may send as.

Talks to the database and the terminal.
"""

from __future__ import annotations

import secrets
from typing import Annotated

import typer
from sqlalchemy import Connection

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway import domain_control, domains
from gateway.cli.asking import PasswordFile, confirm, password_of
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

__all__ = ["users"]

users = typer.Typer(help="Mail users of the edge (SMTP AUTH).", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="SMTP AUTH user name.")]
MADE_OCTETS = 18


@users.command("add")
def add_user(
    name: Name,
    address: Annotated[list[str], typer.Option(help="Address it may send as.")],
    ask: Annotated[bool, typer.Option("--ask", help="Ask for the password.")] = False,
    password_file: PasswordFile = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let a mail system submit at the edge. Its password is made and printed once, unless given.

    Example: direct-gateway user add ehr --address dr.rivera@direct.example.org
    """
    given = ask or password_file is not None
    password = _new_password(password_file, ask=ask)
    hashed = domains.hash_password(password)

    def work(c: Connection, site: Site) -> Change:
        addresses = [parse_address(text) for text in address]
        domains.add_edge_user(c, name, hashed, addresses, site.now)
        shown = {"user": name, "password": None if given else password}
        return Change(shown, new=" ".join(a.key for a in addresses))

    change(config, "user-added", name, work, as_json=as_json)


@users.command("list")
def list_users(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """List the users.

    Example: direct-gateway user list
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(domain_control.list_edge_users)
        return [
            {
                "user": u.name,
                "enabled": u.enabled,
                "addresses": list(u.may_send),
                "added": u.created_at,
            }
            for u in found
        ]

    columns = ("user", "enabled", "addresses", "added")
    table("users", columns, on_site(config, work), as_json=as_json)


@users.command("change")
def change_user(
    name: Name,
    address: Annotated[
        list[str] | None, typer.Option(help="Address it may send as: all of them, anew.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Say anew which addresses a user may send as.

    Example: direct-gateway user change ehr --address desk@direct.example.org
    """

    def work(c: Connection, _: Site) -> Change:
        if not address:
            raise DirectError(Reason.CONFIGURATION_INVALID, "say --address, once for each")
        addresses = [parse_address(text) for text in address]
        before = next((u for u in domain_control.list_edge_users(c) if u.name == name), None)
        domain_control.change_edge_user(c, name, may_send=addresses)
        new = [a.key for a in addresses]
        old = " ".join(before.may_send) if before else None
        return Change({"user": name, "addresses": new}, old, " ".join(new))

    change(config, "user-changed", name, work, as_json=as_json)


@users.command("password")
def change_password(
    name: Name,
    ask: Annotated[bool, typer.Option("--ask", help="Ask for the password.")] = False,
    password_file: PasswordFile = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Give a user another password. It is made and printed once, unless given.

    Example: direct-gateway user password ehr
    """
    given = ask or password_file is not None
    password = _new_password(password_file, ask=ask)
    hashed = domains.hash_password(password)

    def work(c: Connection, _: Site) -> Change:
        domain_control.change_edge_user(c, name, password_hash=hashed)
        return Change({"user": name, "password": None if given else password})

    change(config, "user-password-changed", name, work, as_json=as_json)


@users.command("disable")
def disable_user(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Let a user in no more for now; in force at the next AUTH.

    Example: direct-gateway user disable ehr
    """
    _enable(config, name, as_json, enabled=False)


@users.command("enable")
def enable_user(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Let a disabled user in again.

    Example: direct-gateway user enable ehr
    """
    _enable(config, name, as_json, enabled=True)


@users.command("remove")
def remove_user(
    name: Name, yes: Yes = False, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Let a user in no more.

    Example: direct-gateway user remove ehr --yes
    """
    confirm(f"Remove the user {name}?", yes=yes)

    def work(c: Connection, _: Site) -> Change:
        domain_control.remove_edge_user(c, name)
        return Change({"removed": name})

    change(config, "user-removed", name, work, as_json=as_json)


def _enable(config: ConfigPath, name: str, as_json: bool, *, enabled: bool) -> None:
    def work(c: Connection, _: Site) -> Change:
        domain_control.change_edge_user(c, name, enabled=enabled)
        return Change({"user": name, "enabled": enabled})

    change(config, f"user-{'enabled' if enabled else 'disabled'}", name, work, as_json=as_json)


def _new_password(file: PasswordFile, *, ask: bool) -> str:
    if ask or file is not None:
        return password_of(file, "Password", twice=True)
    return secrets.token_urlsafe(MADE_OCTETS)
