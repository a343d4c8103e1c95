"""`anchor`: the CAs that a domain or an address trusts.

Talks to the database and to the files it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from certs.cert_files import certificates_in
from certs.errors import DirectError, Reason
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
from trust_bundles import store
from trust_bundles.policy import Direction

__all__ = ["anchors"]

anchors = typer.Typer(help="Trust anchors, by domain or address.", no_args_is_help=True)

Owner = Annotated[str, typer.Option("--for", help="Domain or address that trusts it.")]


@anchors.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="CA certificate, PEM or DER.")],
    owner: Owner,
    direction: Annotated[
        list[Direction] | None, typer.Option(help="incoming, outgoing; default: both.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Trust a CA; in force at the next message.

    Example: direct-gateway anchor add partner-ca.pem --for direct.example.org
    """
    data = read_file(file)

    async def work(site: Site) -> list[str]:
        certificates = certificates_in(data)
        ways = frozenset(direction or Direction)

        def write(c: Connection) -> list[str]:
            added = [
                store.add_anchor(
                    c,
                    certificate=certificate,
                    domain_or_address=owner,
                    directions=ways,
                    now=site.now,
                )
                for certificate in certificates
            ]
            for sha256 in added:
                site.audit(c, "anchor-added", owner, new=sha256)
            return added

        return await site.database.write(write)

    added = on_site(config, work)
    show({"for": owner, "sha256": ", ".join(added)}, as_json=as_json)


@anchors.command("list")
def list_anchors(
    owner: Annotated[str, typer.Option("--for", help="Only of this domain or address.")] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List the anchors.

    Example: direct-gateway anchor list --for direct.example.org
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(lambda c: store.list_anchors(c, owner or None))
        return [
            {
                "for": a.owner,
                "subject": a.certificate.subject.rfc4514_string(),
                "directions": " ".join(sorted(d.value for d in a.directions)),
                "expires": a.certificate.not_valid_after_utc,
                "sha256": a.sha256,
            }
            for a in found
        ]

    columns = ("for", "subject", "directions", "expires", "sha256")
    table("anchors", columns, on_site(config, work), as_json=as_json)


@anchors.command("remove")
def remove(
    sha256: Annotated[str, typer.Argument(help="SHA-256 fingerprint, as `anchor list` prints.")],
    owner: Annotated[str, typer.Option("--for", help="Only of this domain or address.")] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Trust a CA no more; in force at the next message.

    Example: direct-gateway anchor remove 3fd1… --for direct.example.org
    """

    async def work(site: Site) -> int:
        def write(c: Connection) -> int:
            removed = store.remove_anchor(c, sha256, owner or None)
            if not removed:
                raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no anchor {sha256}")
            site.audit(c, "anchor-removed", owner or "all", old=sha256)
            return removed

        return await site.database.write(write)

    show({"removed": on_site(config, work)}, as_json=as_json)
