"""`domain check`: what the world sees of a domain, beside what it should see.

Talks to the database for what should be seen, and to DNS, LDAP, SMTP and HTTPS for what is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from certs import keys
from certs.address import parse_domain
from certs.dns_client import DNS_PORT
from certs.errors import DirectError, Reason
from gateway import domains
from gateway.cli import domain
from gateway.cli.common import DEFAULT_CONFIG, ConfigPath, Json, Site, on_site, table
from gateway.cli.publish import is_published
from gateway.domain_check import Finding, Status, Wanted, examine
from gateway.host_port import parse_host_port
from gateway.mx import SMTP_PORT

__all__ = ["names"]

names = domain.names  # the noun, with one verb more


@names.command("check")
def check_domain(
    name: Annotated[str, typer.Argument(help="Domain served here.")],
    mx: Annotated[
        list[str] | None, typer.Option(help="Mail host there should be; default: this host.")
    ] = None,
    ldap: Annotated[
        list[str] | None, typer.Option(help="LDAP server there should be, host:port.")
    ] = None,
    resolver: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="DNS server to ask; default: as configured.")
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Follow records into private networks.")
    ] = False,
    dns_port: Annotated[int, typer.Option(help="Port of the name servers.")] = DNS_PORT,
    smtp_port: Annotated[int, typer.Option(help="Port of the mail hosts.")] = SMTP_PORT,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Ask the public view of a domain for what it should show; exit 1 where something is wrong.

    Certificates in DNS, also by TCP from each name server, and in LDAP where it is announced; MX
    and the TLS of its hosts; MTA-STS and TLS-RPT, which may be absent.

    Example: direct-gateway domain check direct.example.org
    """

    async def work(site: Site) -> Sequence[Finding]:
        domain_name = parse_domain(name)
        hosts = [parse_domain(host) for host in mx or [site.config.gateway.hostname]]
        servers = ["{}:{}".format(*parse_host_port(server)) for server in ldap or ()]
        certificates = await site.database.read(lambda c: _certificates(c, domain_name, site))
        wanted = Wanted(domain_name, certificates, hosts, servers)
        where = parse_host_port(resolver) if resolver else None
        return await _look(site, wanted, where, private, (dns_port, smtp_port))

    rows = [_row(finding) for finding in on_site(config, work)]
    columns = ("status", "check", "name", "wanted", "found")
    table(f"public view of {name}", columns, rows, as_json=as_json)
    raise typer.Exit(1 if any(row["status"] == Status.WRONG.value for row in rows) else 0)


async def _look(
    site: Site,
    wanted: Wanted,
    resolver: tuple[str, int] | None,
    private: bool,
    ports: tuple[int, int],
) -> Sequence[Finding]:
    # Imported here, for they bring HTTP and LDAP: the other verbs need neither.
    from certs.dns_client import DnsClient
    from certs.http_client import HttpClient
    from certs.ldap_client import LdapClient
    from gateway.domain_view import PublicView
    from gateway.mx import MxResolver
    from gateway.tls import verifying_context

    configured = site.config.discovery.resolver
    if resolver is None and configured is not None:
        resolver = (configured.host, configured.port)
    dns_port, smtp_port = ports
    private = private or site.config.discovery.private_addresses
    dns = DnsClient(resolver=resolver, allow_private=private, authority_port=dns_port)
    ldap, http = LdapClient(), HttpClient(resolver=dns)
    view = PublicView(
        dns=dns,
        ldap=ldap,
        http=http,
        mail=MxResolver(dns=dns, port=smtp_port),
        hostname=site.config.gateway.hostname,
        verifying=await asyncio.to_thread(verifying_context),
    )
    try:
        return examine(wanted, await view.of(wanted), site.now)
    finally:
        await http.aclose()
        ldap.close()


def _certificates(connection: Connection, name: str, site: Site) -> dict[str, frozenset[str]]:
    """Return the digests that each subject publishes.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; the domain is not served here.
    """
    if domains.domain(connection, name) is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no domain {name}")
    found: dict[str, set[str]] = {name: set()}
    for local in domains.list_addresses(connection, domain=name):
        if local.enabled:
            found[local.address.key] = set()
    for own in keys.list_identities(connection):
        if is_published(own, name, site.now):
            found.setdefault(own.subject, set()).add(own.sha256)
    return {subject: frozenset(digests) for subject, digests in found.items()}


def _row(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "status": finding.status.value}
