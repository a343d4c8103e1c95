"""`client` and `user`: the programs that call the FHIR API, and the mail users of the edge.

Talks to the database and the terminal.
"""

from __future__ import annotations

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
    show,
    table,
)

__all__ = ["clients"]

clients = typer.Typer(help="Programs that call the FHIR API.", no_args_is_help=True)


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


def _ours(connection: Connection, mailboxes: list[DirectAddress]) -> None:
    for mailbox in mailboxes:
        if not domains.is_local(connection, mailbox):
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"{mailbox} is not served here")
