"""`client`: the programs that call the FHIR API, their mailboxes and what they may do.

Talks to the database and the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from fhir_bridge import client_control as control
from fhir_bridge import clients as store
from fhir_bridge.backend_clients import add_backend_client
from fhir_bridge.scopes import USUAL
from gateway import domains
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
    read_file,
    table,
)

__all__ = ["clients"]

clients = typer.Typer(help="Programs that call the FHIR API.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the program.")]
SCOPE_HELP = (
    "SMART scopes, such as system/Communication.rs. Default: its mailboxes' mail, and reading the "
    "shared directory; system/*.cruds may change that directory too."
)


@clients.command("add")
def add_client(
    name: Annotated[str, typer.Argument(help="What to call the program.")],
    mailbox: Annotated[list[str], typer.Option(help="Address it reads and sends for.")],
    scope: Annotated[list[str] | None, typer.Option(help=SCOPE_HELP)] = None,
    jwks: Annotated[
        Path | None, typer.Option(help="Its public keys, for SMART Backend Services.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let a program call the API; its bearer token is printed once and never again.

    A program with keys of its own gets no token: it signs for short-lived ones.

    Example: direct-gateway client add clinic-app --mailbox dr.rivera@direct.example.org
    """
    keys = _text(jwks)
    scopes = " ".join(scope) if scope else USUAL

    def work(c: Connection, site: Site) -> Change:
        mailboxes = _ours(c, mailbox)
        new = _granted(mailboxes, scopes)
        if keys is not None:
            identity = add_backend_client(c, name, mailboxes, keys, site.now, scopes=scopes)
            return Change({"client": name, "client_id": str(identity)}, new=new)
        token = store.add_client(c, name, mailboxes, site.now, scopes=scopes)
        return Change({"client": name, "token": token}, new=new)

    change(config, "client-added", name, work, as_json=as_json)


@clients.command("list")
def list_clients(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """List the programs.

    Example: direct-gateway client list
    """

    async def work(site: Site) -> list[dict[str, object]]:
        def read(c: Connection) -> list[dict[str, object]]:
            return [
                {
                    "client": one.name,
                    "client_id": str(one.id),
                    "mailboxes": sorted(one.mailboxes),
                    "scopes": one.scopes.text,
                    "keys": control.has_keys(c, one.name),
                    "disabled": one.disabled,
                }
                for one in store.list_clients(c)
            ]

        return await site.database.read(read)

    columns = ("client", "mailboxes", "scopes", "keys", "disabled")
    table("clients", columns, on_site(config, work), as_json=as_json)


@clients.command("change")
def change_client(
    name: Name,
    mailbox: Annotated[
        list[str] | None, typer.Option(help="Address it acts for: all of them, anew.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="All of its scopes, anew; system/*.cruds lets it edit the directory."),
    ] = None,
    jwks: Annotated[Path | None, typer.Option(help="Its public keys, anew.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Say anew what a program acts for, or what it may do; in force at its next request.

    Example: direct-gateway client change clinic-app --scope 'system/*.cruds'
    """
    keys = _text(jwks)
    scopes = " ".join(scope) if scope else None

    def work(c: Connection, _: Site) -> Change:
        if not (mailbox or scopes or keys):
            raise DirectError(Reason.CONFIGURATION_INVALID, "say --mailbox, --scope or --jwks")
        old = _described(c, name)
        mailboxes = _ours(c, mailbox) if mailbox else None
        control.change_client(c, name, mailboxes=mailboxes, scopes=scopes, jwks=keys)
        new = _described(c, name)
        return Change({"client": name, "granted": new}, old=old, new=new)

    change(config, "client-changed", name, work, as_json=as_json)


@clients.command("token")
def new_token(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Give a program another token; the one it had is worthless at once.

    Example: direct-gateway client token clinic-app
    """

    def work(c: Connection, _: Site) -> Change:
        return Change({"client": name, "token": control.new_token(c, name)})

    change(config, "client-token-changed", name, work, as_json=as_json)


@clients.command("disable")
def disable_client(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Let a program in no more for now; in force at its next request.

    Example: direct-gateway client disable clinic-app
    """
    _enable(config, name, as_json, enabled=False)


@clients.command("enable")
def enable_client(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Let a disabled program in again.

    Example: direct-gateway client enable clinic-app
    """
    _enable(config, name, as_json, enabled=True)


@clients.command("remove")
def remove_client(
    name: Name, yes: Yes = False, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Let a program in no more and forget its tokens; its mailboxes keep what it stored.

    Example: direct-gateway client remove clinic-app --yes
    """
    confirm(f"Remove the client {name}?", yes=yes)

    def work(c: Connection, _: Site) -> Change:
        old = _described(c, name)
        control.remove_client(c, name)
        return Change({"removed": name}, old=old)

    change(config, "client-removed", name, work, as_json=as_json)


def _enable(config: ConfigPath, name: str, as_json: bool, *, enabled: bool) -> None:
    def work(c: Connection, _: Site) -> Change:
        control.change_client(c, name, disabled=not enabled)
        return Change({"client": name, "disabled": not enabled})

    change(config, f"client-{'enabled' if enabled else 'disabled'}", name, work, as_json=as_json)


def _ours(connection: Connection, texts: Sequence[str]) -> list[DirectAddress]:
    mailboxes = [parse_address(text) for text in texts]
    for mailbox in mailboxes:
        if domains.address(connection, mailbox) is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"{mailbox} is not served here")
    return mailboxes


def _described(connection: Connection, name: str) -> str | None:
    found = next((one for one in store.list_clients(connection) if one.name == name), None)
    return f"{' '.join(sorted(found.mailboxes))} {found.scopes.text}" if found else None


def _granted(mailboxes: Sequence[DirectAddress], scopes: str) -> str:
    return f"{' '.join(sorted(one.key for one in mailboxes))} {scopes}"


def _text(jwks: Path | None) -> str | None:
    return read_file(jwks).decode("utf-8", "replace") if jwks else None
