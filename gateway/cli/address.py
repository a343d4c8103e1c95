"""`address`: the Direct addresses that this HISP serves, and where each reads its mail.

Talks to the database.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from certs.address import DirectAddress, parse_address, parse_domain
from certs.errors import DirectError, Reason
from fhir_bridge.client_control import forget_mailbox
from gateway import domain_control, domains
from gateway.address_settings import AddressSettings, Deliver, read_settings, write_settings
from gateway.cli.asking import confirm
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    Yes,
    change,
    fail,
    on_site,
    show,
    table,
)
from gateway.config import Mailbox
from gateway.domains import LocalAddress
from gateway.host_port import HostPort, parse_host_port
from gateway.tls_policy import Demand
from trust_bundles.store import forget_owner

__all__ = ["addresses"]

addresses = typer.Typer(help="Direct addresses served here.", no_args_is_help=True)

Address = Annotated[str, typer.Argument(help="Address served here.")]
Fhir = Annotated[bool, typer.Option("--fhir", help="It reads by FHIR, whatever its domain does.")]
AsDomain = Annotated[bool, typer.Option("--as-domain", help="It reads where its domain does.")]
SmtpServer = Annotated[str, typer.Option("--smtp", metavar="HOST:PORT", help="Mail server.")]
LmtpServer = Annotated[str, typer.Option("--lmtp", metavar="HOST:PORT", help="... by LMTP.")]
Tls = Annotated[Demand, typer.Option(help="TLS to the mail server.")]
Login = Annotated[str, typer.Option("--login", help="User for AUTH at the mail server.")]
LoginFile = Annotated[
    Path | None, typer.Option("--login-password-file", help="File with that user's password.")
]
Forward = Annotated[
    list[str] | None, typer.Option(help="Address of ours that gets a copy; '' for nobody.")
]


@addresses.command("add")
def add_address(
    address: Annotated[str, typer.Argument(help="Direct address in a domain served here.")],
    fhir: Fhir = False,
    smtp: SmtpServer = "",
    lmtp: LmtpServer = "",
    tls: Tls = Demand.VERIFY,
    login: Login = "",
    login_password_file: LoginFile = None,
    forward: Forward = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Serve an address. Unless told otherwise it reads where its domain does, by default by FHIR.

    Example: direct-gateway address add desk@direct.example.org --lmtp 127.0.0.1:24 --tls none
    """
    server = _server(smtp, lmtp, tls, login, login_password_file)

    def work(c: Connection, site: Site) -> Change:
        parsed = parse_address(address)
        settings = _changed(
            c, AddressSettings(), fhir=fhir, default=False, server=server, forward=forward
        )
        values = write_settings(settings)
        domains.add_address(c, parsed, site.now, settings=values)
        return Change({"address": str(parsed)}, new=json.dumps(values))

    change(config, "address-added", address, work, as_json=as_json)


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
        return [_row(one) for one in found]

    columns = ("address", "enabled", "deliver", "server", "forward", "added")
    table("addresses", columns, on_site(config, work), as_json=as_json)


@addresses.command("show")
def show_address(
    address: Address, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Show one address, and who may send as it.

    Example: direct-gateway address show dr.rivera@direct.example.org
    """

    async def work(site: Site) -> dict[str, Any]:
        parsed = parse_address(address)
        found, users = await site.database.read(
            lambda c: (domains.address(c, parsed), domain_control.list_edge_users(c))
        )
        if found is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no address {parsed}")
        return {**_row(found), "users": [u.name for u in users if parsed.key in u.may_send]}

    show(on_site(config, work), as_json=as_json)


@addresses.command("change")
def change_address(
    address: Address,
    fhir: Fhir = False,
    as_domain: AsDomain = False,
    smtp: SmtpServer = "",
    lmtp: LmtpServer = "",
    tls: Tls = Demand.VERIFY,
    login: Login = "",
    login_password_file: LoginFile = None,
    forward: Forward = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Change where an address reads, or who gets copies; in force at the next message.

    Example: direct-gateway address change desk@direct.example.org --forward a@direct.example.org
    """
    server = _server(smtp, lmtp, tls, login, login_password_file)

    def work(c: Connection, _: Site) -> Change:
        parsed = parse_address(address)
        before = domains.address(c, parsed)
        old = before.settings if before else {}
        settings = _changed(
            c, read_settings(old), fhir=fhir, default=as_domain, server=server, forward=forward
        )
        new = write_settings(settings)
        domain_control.change_address(c, parsed, settings=new)
        return Change(
            {"address": str(parsed), **_settings(settings)}, json.dumps(old), json.dumps(new)
        )

    change(config, "address-changed", address, work, as_json=as_json)


@addresses.command("disable")
def disable_address(
    address: Address, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Take and send no mail of an address for now.

    Example: direct-gateway address disable dr.rivera@direct.example.org
    """
    _enable(config, address, as_json, enabled=False)


@addresses.command("enable")
def enable_address(
    address: Address, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Serve a disabled address again.

    Example: direct-gateway address enable dr.rivera@direct.example.org
    """
    _enable(config, address, as_json, enabled=True)


@addresses.command("remove")
def remove_address(
    address: Address, yes: Yes = False, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Serve an address no more; refused while a message from it or to it is under way.

    No user and no client acts for it any longer, and its own trust is forgotten.

    Example: direct-gateway address remove dr.rivera@direct.example.org --yes
    """
    confirm(f"Remove the address {address}?", yes=yes)

    def work(c: Connection, _: Site) -> Change:
        parsed = parse_address(address)
        domain_control.remove_address(c, parsed)
        forget_mailbox(c, parsed)
        forget_owner(c, str(parsed))
        return Change({"removed": str(parsed)})

    change(config, "address-removed", address, work, as_json=as_json)


def _enable(config: ConfigPath, address: str, as_json: bool, *, enabled: bool) -> None:
    def work(c: Connection, _: Site) -> Change:
        parsed = parse_address(address)
        domain_control.change_address(c, parsed, enabled=enabled)
        return Change({"address": str(parsed), "enabled": enabled})

    action = f"address-{'enabled' if enabled else 'disabled'}"
    change(config, action, address, work, as_json=as_json)


def _server(smtp: str, lmtp: str, tls: Demand, login: str, file: Path | None) -> Mailbox | None:
    if smtp and lmtp:
        fail("say --smtp or --lmtp, not both")
    if not (smtp or lmtp):
        if login or file or tls is not Demand.VERIFY:
            fail("--tls, --login and --login-password-file go with --smtp or --lmtp")
        return None
    try:
        host, port = parse_host_port(smtp or lmtp)
    except DirectError as error:
        fail(error)
    return Mailbox(
        server=HostPort(host=host, port=port),
        lmtp=bool(lmtp),
        tls=tls,
        user=login,
        password_file=file.absolute() if file else None,
    )


def _changed(
    connection: Connection,
    settings: AddressSettings,
    *,
    fhir: bool,
    default: bool,
    server: Mailbox | None,
    forward: list[str] | None,
) -> AddressSettings:
    if fhir + default + (server is not None) > 1:
        detail = "an address reads at one place: by FHIR, at a mail server, or as its domain"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail)
    if fhir:
        settings = replace(settings, deliver=Deliver.FHIR, server=None)
    elif default:
        settings = replace(settings, deliver=Deliver.DEFAULT, server=None)
    elif server is not None:
        settings = replace(settings, deliver=Deliver.SERVER, server=server)
    if forward is not None:
        pool = tuple(_ours(connection, parse_address(text)) for text in forward if text)
        settings = replace(settings, forward=pool)
    return settings


def _ours(connection: Connection, address: DirectAddress) -> DirectAddress:
    if domains.address(connection, address) is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no address {address} to forward to")
    return address


def _row(one: LocalAddress) -> dict[str, Any]:
    return {
        "address": str(one.address),
        "enabled": one.enabled,
        **_settings(read_settings(one.settings)),
        "added": one.created_at,
    }


def _settings(settings: AddressSettings) -> dict[str, Any]:
    server = settings.server
    way = None
    if server is not None:
        way = f"{'lmtp' if server.lmtp else 'smtp'} {server.server} tls={server.tls.value}"
    return {
        "deliver": settings.deliver.value,
        "server": way,
        "forward": [str(address) for address in settings.forward],
    }
