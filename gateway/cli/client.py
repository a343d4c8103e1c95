"""`client` and `user`: the programs that call the FHIR API, and the mail users of the edge.

Talks to the database and the terminal.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from fhir_bridge import clients as store
from gateway import domains
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Site,
    on_site,
    read_file,
    show,
    table,
)

__all__ = ["clients", "users"]

clients = typer.Typer(help="Programs that call the FHIR API.", no_args_is_help=True)
users = typer.Typer(help="Mail users of the edge (SMTP AUTH).", no_args_is_help=True)


@clients.command("add")
def add_client(
    name: Annotated[str, typer.Argument(help="What to call the program.")],
    mailbox: Annotated[list[str], typer.Option(help="Address it reads and sends for.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let a program call the API; its bearer token is printed once and never again.

    Example: direct-gateway client add clinic-app --mailbox dr.rivera@direct.example.org
    """

    async def work(site: Site) -> str:
        mailboxes = [parse_address(text) for text in mailbox]

        def write(c: Connection) -> str:
            _ours(c, mailboxes)
            token = store.add_client(c, name, mailboxes, site.now)
            site.audit(c, "client-added", name, new=" ".join(m.key for m in mailboxes))
            return token

        return await site.database.write(write)

    show({"client": name, "token": on_site(config, work)}, as_json=as_json)


@clients.command("list")
def list_clients(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """List the programs.

    Example: direct-gateway client list
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(store.list_clients)
        return [
            {
                "client": c.name,
                "mailboxes": " ".join(sorted(c.mailboxes)),
                "disabled": c.disabled,
            }
            for c in found
        ]

    table("clients", ("client", "mailboxes", "disabled"), on_site(config, work), as_json=as_json)


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="SMTP AUTH user name.")],
    address: Annotated[list[str], typer.Option(help="Address it may send as.")],
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password; default: one is made.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let a mail system submit at the edge.

    Example: direct-gateway user add ehr --address dr.rivera@direct.example.org
    """
    if password_file is None:
        password = secrets.token_urlsafe(18)
    else:
        password = read_file(password_file).decode("utf-8", "strict").rstrip("\r\n")

    async def work(site: Site) -> None:
        addresses = [parse_address(text) for text in address]
        hashed = domains.hash_password(password)

        def write(c: Connection) -> None:
            domains.add_edge_user(c, name, hashed, addresses, site.now)
            site.audit(c, "user-added", name, new=" ".join(a.key for a in addresses))

        await site.database.write(write)

    on_site(config, work)
    shown = {"user": name, "password": None if password_file else password}
    show(shown, as_json=as_json)


def _ours(connection: Connection, mailboxes: list[DirectAddress]) -> None:
    for mailbox in mailboxes:
        if not domains.is_local(connection, mailbox):
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"{mailbox} is not served here")
