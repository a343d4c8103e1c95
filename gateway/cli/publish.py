"""`cert publish`: our certificates where other HISPs look for them.

Talks to the database, and to a name server where it is told to push.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

import dns.exception
import dns.tsig
import typer

from certs import keys
from certs.address import DirectAddress, parse_address, parse_domain
from certs.binding import Binding
from certs.errors import DirectError
from certs.issuers import sha256_of
from certs.keys import OwnIdentity
from gateway.cli import cert
from gateway.cli.common import DEFAULT_CONFIG, ConfigPath, Site, fail, on_site, read_file
from gateway.host_port import parse_host_port
from gateway.publish import (
    LdapService,
    Publication,
    ldif,
    nsupdate_script,
    update_message,
    zone_text,
)

__all__ = ["Format", "certs", "is_published"]

certs = cert.certs  # the noun, with one verb more


class Format(Enum):
    """How the records are written."""

    ZONE = "zone"
    LDIF = "ldif"
    NSUPDATE = "nsupdate"


@certs.command("publish")
def publish(
    domain: Annotated[str, typer.Argument(help="Domain whose certificates to publish.")],
    form: Annotated[Format, typer.Option("--format", help="How to write them.")] = Format.ZONE,
    mx: Annotated[list[str] | None, typer.Option(help="Mail host for MX, best first.")] = None,
    ldap: Annotated[list[str] | None, typer.Option(help="LDAP server for SRV, host:port.")] = None,
    suffix: Annotated[str, typer.Option(help="LDAP suffix, for ldif.")] = "",
    push: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Push by dynamic update instead.")
    ] = "",
    tsig_name: Annotated[str, typer.Option(help="Name of the TSIG key, for --push.")] = "",
    tsig_file: Annotated[Path | None, typer.Option(help="File with its base64 secret.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Print CERT, SRV and MX records, an LDIF or an nsupdate script; or push them.

    Example: direct-gateway cert publish direct.example.org --mx gw.example.org
    """

    async def work(site: Site) -> Publication:
        name = parse_domain(domain)
        own = await site.database.read(keys.list_identities)
        return Publication(
            domain=name,
            certificates=[
                (_subject(o), o.certificate) for o in own if is_published(o, name, site.now)
            ],
            mail_hosts=[parse_domain(host) for host in mx or ()],
            ldap=[LdapService(*parse_host_port(server)) for server in ldap or ()],
        )

    async def told(site: Site) -> None:
        prints = " ".join(sha256_of(one).hex() for _, one in publication.certificates)
        await site.database.write(
            lambda c: site.audit(c, "certificates-published", domain, new=f"{push} {prints}")
        )

    publication = on_site(config, work)
    try:
        if push:
            _push(publication, push, tsig_name, tsig_file)
            on_site(config, told)
        elif form is Format.LDIF:
            typer.echo(ldif(publication, suffix=suffix or f"dc={domain.replace('.', ',dc=')}"))
        else:
            write = zone_text if form is Format.ZONE else nsupdate_script
            typer.echo(write(publication))
    except DirectError as error:
        fail(error)


def _push(publication: Publication, server: str, name: str, secret: Path | None) -> None:
    # Imported here, for it brings asynchronous DNS: the other verbs need none.
    from gateway.dns_update import push_update

    if not name or secret is None:
        fail("--push needs --tsig-name and --tsig-file")
    try:
        key = dns.tsig.Key(name, read_file(secret).decode("ascii").strip())
    except (UnicodeDecodeError, ValueError, dns.exception.DNSException):
        fail(f"{secret}: not a TSIG secret in base64")
    message = update_message(publication)
    asyncio.run(push_update(message, server=parse_host_port(server), key=key))
    typer.echo(f"pushed to {server}")


def is_published(own: OwnIdentity, domain: str, now: datetime) -> bool:
    """Say whether others should find this certificate of `domain` now."""
    return own.subject.rpartition("@")[2] == domain and own.is_published(now)


def _subject(own: OwnIdentity) -> DirectAddress | str:
    return parse_address(own.subject) if own.binding is Binding.ADDRESS else own.subject
