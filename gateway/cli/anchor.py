"""`anchor`: single CAs that a domain or an address trusts.

Talks to the database and to the files it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection

from certs.cert_files import certificates_in
from certs.errors import DirectError, Reason
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    change,
    fail,
    on_site,
    read_file,
    show,
    table,
)
from gateway.cli.trust_terms import Directions, Owner, period_of, shown_directions
from trust_bundles import store
from trust_bundles.policy import Direction, Period
from trust_bundles.store import StoredAnchor

__all__ = ["anchors"]

anchors = typer.Typer(help="Trust anchors, by domain or address.", no_args_is_help=True)

Sha256 = Annotated[str, typer.Argument(help="SHA-256 fingerprint, as `anchor list` prints.")]
OfOne = Annotated[str, typer.Option("--for", help="Only of this domain or address.")]
Begins = Annotated[str, typer.Option("--from", metavar="TIME", help="Trusted from then, ISO 8601.")]
Ends = Annotated[str, typer.Option("--until", metavar="TIME", help="Trusted until then, ISO 8601.")]


@anchors.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="CA certificate, PEM or DER.")],
    owner: Owner,
    direction: Directions = None,
    begins: Begins = "",
    ends: Ends = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Trust a CA, for a time where you say so; in force at the next message.

    Example: direct-gateway anchor add partner-ca.pem --for direct.example.org --until 2027-06-30
    """
    data = read_file(file)
    period = period_of(begins, ends)
    ways = frozenset(direction or Direction)

    async def work(site: Site) -> list[str]:
        certificates = certificates_in(data)

        def write(c: Connection) -> list[str]:
            added = [
                store.add_anchor(
                    c,
                    certificate=certificate,
                    domain_or_address=owner,
                    directions=ways,
                    now=site.now,
                    period=period,
                )
                for certificate in certificates
            ]
            for sha256 in added:
                site.audit(c, "anchor-added", owner, new=f"{sha256} {_terms(ways, period)}")
            return added

        return await site.database.write(write)

    added = on_site(config, work)
    show({"for": owner, "sha256": ", ".join(added)}, as_json=as_json)


@anchors.command("list")
def list_anchors(
    owner: OfOne = "", config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """List the anchors; those of bundles are listed by `bundle show`.

    Example: direct-gateway anchor list --for direct.example.org
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(lambda c: store.list_anchors(c, owner or None))
        return [
            {
                "for": a.owner,
                "subject": a.certificate.subject.rfc4514_string(),
                "directions": shown_directions(a.directions),
                "state": _state(a, site),
                "from": a.period.begins,
                "until": a.period.ends,
                "expires": a.certificate.not_valid_after_utc,
                "sha256": a.sha256,
            }
            for a in found
        ]

    columns = ("for", "subject", "directions", "state", "until", "expires", "sha256")
    table("anchors", columns, on_site(config, work), as_json=as_json)


@anchors.command("change")
def change_anchor(
    sha256: Sha256,
    owner: OfOne = "",
    direction: Directions = None,
    begins: Begins = "",
    ends: Ends = "",
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Take both times away.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Change which way, or for which time, an anchor is trusted; --from and --until go together.

    Example: direct-gateway anchor change 3fd1… --for direct.example.org --until 2027-06-30
    """
    period = period_of(begins, ends) if begins or ends or unlimited else None

    def work(c: Connection, _: Site) -> Change:
        count = store.change_anchor(c, sha256, owner or None, directions=direction, period=period)
        terms = _terms(frozenset(direction or ()), period or Period())
        return Change({"changed": count}, old=sha256, new=f"{owner or 'all'} {terms}")

    change(config, "anchor-changed", owner or "all", work, as_json=as_json)


@anchors.command("enable")
def enable(
    sha256: Sha256, owner: OfOne = "", config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Let an anchor count again.

    Example: direct-gateway anchor enable 3fd1… --for direct.example.org
    """
    _enable(config, sha256, owner, enabled=True, as_json=as_json)


@anchors.command("disable")
def disable(
    sha256: Sha256, owner: OfOne = "", config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Let an anchor not count for now; in force at the next message.

    Example: direct-gateway anchor disable 3fd1… --for direct.example.org
    """
    _enable(config, sha256, owner, enabled=False, as_json=as_json)


@anchors.command("export")
def export(
    sha256: Sha256,
    out: Annotated[Path, typer.Option("--out", "-o", help="PEM file to write.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Write the certificate of an anchor to a file.

    Example: direct-gateway anchor export 3fd1… --out partner-ca.pem
    """

    async def work(site: Site) -> bytes:
        wanted = sha256.lower().replace(":", "")
        found = await site.database.read(store.list_anchors)
        certificate = next((a.certificate for a in found if a.sha256 == wanted), None)
        if certificate is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no anchor {sha256}")
        return certificate.public_bytes(Encoding.PEM)

    content = on_site(config, work)
    try:
        out.write_bytes(content)
    except OSError as error:
        fail(f"{out}: {error.strerror}")
    show({"file": str(out)}, as_json=as_json)


@anchors.command("remove")
def remove(
    sha256: Sha256, owner: OfOne = "", config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Trust a CA no more; in force at the next message.

    Example: direct-gateway anchor remove 3fd1… --for direct.example.org
    """

    def work(c: Connection, _: Site) -> Change:
        removed = store.remove_anchor(c, sha256, owner or None)
        if not removed:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no anchor {sha256}")
        return Change({"removed": removed}, old=sha256)

    change(config, "anchor-removed", owner or "all", work, as_json=as_json)


def _enable(config: Path, sha256: str, owner: str, *, enabled: bool, as_json: bool) -> None:
    def work(c: Connection, _: Site) -> Change:
        count = store.change_anchor(c, sha256, owner or None, enabled=enabled)
        return Change({"changed": count, "enabled": enabled}, new=sha256)

    action = "anchor-enabled" if enabled else "anchor-disabled"
    change(config, action, owner or "all", work, as_json=as_json)


def _state(anchor: StoredAnchor, site: Site) -> str:
    """Return whether it counts now, and if not, why."""
    begins, ends = anchor.period.begins, anchor.period.ends
    if not anchor.enabled:
        return "disabled"
    if begins is not None and site.now < begins:
        return "not yet"
    if ends is not None and site.now >= ends:
        return "over"
    return "expired" if anchor.certificate.not_valid_after_utc < site.now else "trusted"


def _terms(directions: frozenset[Direction], period: Period) -> str:
    bounds = [f"{word} {at:%Y-%m-%dT%H:%M:%SZ}" for word, at in
              (("from", period.begins), ("until", period.ends)) if at]  # fmt: skip
    return " ".join([shown_directions(directions), *bounds]).strip()
