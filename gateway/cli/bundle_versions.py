"""`bundle show`, `diff`, `approve`, `history`, `export`: what a bundle holds, held and will hold.

Talks to the database and to the files it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography import x509
from rich.tree import Tree
from sqlalchemy import Connection

from certs.errors import DirectError, Reason
from certs.identity import Identity, SoftwareKey
from certs.issuers import sha256_of
from certs.pkcs12 import load_pkcs12
from gateway.cli.asking import PasswordFile, password_of
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    actor,
    change,
    console,
    fail,
    grow,
    label,
    on_site,
    read_file,
    show,
    table,
    write_json,
)
from gateway.cli.trust_terms import bundle_in, described, shown_directions, span_of
from gateway.clock import utc_now
from trust_bundles import bundles as store
from trust_bundles import versions
from trust_bundles.anchors import Anchors, difference
from trust_bundles.bundle import read_bundle
from trust_bundles.bundle_writer import write_p7b, write_p7m, write_pem

__all__ = ["Format", "contents"]

contents = typer.Typer(help="What a bundle holds.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the bundle.")]
SHOWN: Final = 20  # anchors in a list for people


class Format(Enum):
    """How an exported bundle is written."""

    P7B = "p7b"
    P7M = "p7m"
    PEM = "pem"
    AS_RECEIVED = "as-received"


@contents.command("show")
def show_bundle(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Show a bundle: its settings, its state, who uses it, and its anchors in force.

    What a bundle says of itself (metadata) is shown and decides nothing.

    Example: direct-gateway bundle show atab
    """

    async def work(site: Site) -> dict[str, Any]:
        return await site.database.read(lambda c: _shown(c, name))

    report = on_site(config, work)
    if as_json:
        write_json(report)
        return
    anchors = report.pop("anchors")
    tree = Tree(label(f"bundle {name}"))
    for key, value in report.items():
        grow(tree, key, value)
    branch = tree.add(label(f"anchors: {len(anchors)}"))
    for anchor in anchors[:SHOWN]:
        branch.add(label(f"{anchor['subject']} until {anchor['expires']:%Y-%m-%d}"))
    if len(anchors) > SHOWN:
        branch.add(label(f"and {len(anchors) - SHOWN} more: --json lists them"))
    console().print(tree, markup=False)


def _shown(c: Connection, name: str) -> dict[str, Any]:
    bundle = store.get_bundle(c, name)
    found = versions.history(c, name)
    version = next((v for v in found if v.number == bundle.in_force), None)
    return {
        "bundle": name,
        "enabled": bundle.enabled,
        "url": bundle.settings.url,
        "every_s": int(bundle.settings.interval.total_seconds()),
        "signers": [described(cert) for cert in bundle.settings.signer_certificates],
        "own_tls_ca": bundle.settings.tls_ca is not None,
        "needs_approval": bundle.settings.needs_approval,
        "status": bundle.status.value,
        "detail": bundle.detail,
        "checked": bundle.checked_at,
        "good": bundle.good_at,
        "next": bundle.due_at,
        "failures": bundle.failures,
        "version": bundle.in_force,
        "staged": bundle.staged,
        "form": version.form if version else None,
        "signed_at": version.signed_at if version else None,
        "signer_sha256": version.signer if version else None,
        "metadata": version.metadata if version else None,
        "skipped": list(version.skipped) if version else [],
        "uses": [
            {"for": use.owner, "directions": shown_directions(use.directions)}
            for use in store.list_uses(c, name=name)
        ],
        "anchors": [described(cert) for cert in versions.anchors_in_force(c, name)],
    }


@contents.command("diff")
def diff(
    name: Name,
    version: Annotated[int, typer.Option(help="This version; default: the staged one.")] = 0,
    against: Annotated[int, typer.Option(help="Against this one; default: what is in force.")] = 0,
    file: Annotated[Path | None, typer.Option("--file", help="The bundle in this file.")] = None,
    expiring: Annotated[str, typer.Option(metavar="SPAN", help="What expires within.")] = "60d",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Show what another version would change: anchors added, removed, expiring, with a new key.

    Without a staged version, the last change is shown.

    Example: direct-gateway bundle diff atab
    """
    span = span_of(expiring)

    async def work(site: Site) -> dict[str, Any]:
        given = bundle_in(file)[1].anchors if file else None
        return await site.database.read(
            lambda c: _difference(c, site, name, version, against, given, span)
        )

    report = on_site(config, work)
    if as_json:
        write_json(report)
        return
    tree = Tree(label(f"bundle {name}: from {report['from']} to {report['to']}"))
    for key in ("added", "removed", "changed_key", "renewed", "expiring"):
        branch = tree.add(label(f"{key.replace('_', ' ')}: {len(report[key])}"))
        for anchor in report[key]:
            branch.add(label(_line(anchor)))
    console().print(tree, markup=False)


def _line(anchor: dict[str, Any]) -> str:
    if "old" in anchor:
        return f"{anchor['subject']}: {anchor['old'][:16]} becomes {anchor['new'][:16]}"
    return f"{anchor['subject']} until {anchor['expires']:%Y-%m-%d}, {anchor['sha256'][:16]}"


def _difference(
    c: Connection,
    site: Site,
    name: str,
    version: int,
    against: int,
    given: Sequence[x509.Certificate] | None,
    span: timedelta,
) -> dict[str, Any]:
    bundle = store.get_bundle(c, name)
    old_number, new_number = against or bundle.in_force, version or bundle.staged
    if given is None and not new_number:
        # Nothing waits: the last change, which is in force.
        new_number = bundle.in_force
        earlier = (v.number for v in versions.history(c, name) if v.in_force_at)
        old_number = against or next((n for n in earlier if n < (new_number or 0)), None)
    if given is None and not new_number:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"bundle {name} has no version yet")
    new = Anchors(given if given is not None else _anchors(c, site, name, new_number or 0))
    old = Anchors(_anchors(c, site, name, old_number) if old_number else ())
    found = difference(old, new, now=site.now, warn_before=span)
    return {
        "bundle": name,
        "from": f"version {old_number}" if old_number else "nothing",
        "to": "the file" if given is not None else f"version {new_number}",
        "added": [described(cert) for cert in found.added],
        "removed": [described(cert) for cert in found.removed],
        **{
            key: [
                {
                    "subject": s.new.subject.rfc4514_string(),
                    "old": sha256_of(s.old).hex(),
                    "new": sha256_of(s.new).hex(),
                }
                for s in found.successions
                if s.same_key is same
            ]
            for key, same in (("changed_key", False), ("renewed", True))
        },
        "expiring": [described(cert) for cert in found.expiring],
    }


def _anchors(c: Connection, site: Site, name: str, number: int) -> Sequence[x509.Certificate]:
    if number == store.get_bundle(c, name).in_force:
        return versions.anchors_in_force(c, name)
    return read_bundle(versions.content_of(c, name, number), now=site.now).anchors


@contents.command("approve")
def approve(
    name: Name,
    version: Annotated[int, typer.Argument(help="The staged version, as `bundle diff` shows it.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Put a staged version in force; the number makes sure that it is the one you looked at.

    Example: direct-gateway bundle approve atab 7
    """

    async def check_again(site: Site) -> None:
        # Imported here, for it brings HTTP: the other verbs do not need it.
        from gateway.bundle_refresh import open_refresher

        async with open_refresher(
            site.config, site.database, actor=actor(), clock=utc_now
        ) as refresher:
            await refresher.check_again(name, version)

    def work(c: Connection, site: Site) -> Change:
        # Imported here, for it brings path validation: the other verbs do not need it.
        from trust_bundles.signature import verify

        read = read_bundle(versions.content_of(c, name, version), now=site.now)
        # Another signer may have been configured meanwhile.
        signers = store.get_bundle(c, name).settings.signer_certificates
        verify(read.envelope, signers, now=site.now)
        anchors = read.anchors
        done = versions.approve(c, name, version, anchors, actor=actor(), now=site.now)
        shown = {
            "bundle": name,
            "version": done.number,
            "added": len(done.added),
            "removed": len(done.removed),
        }
        new = f"version {version}, {len(done.added)} added, {len(done.removed)} removed"
        return Change(shown, new=new)

    change(config, "bundle-approved", name, work, before=check_again, as_json=as_json)


@contents.command("history")
def history(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """List every version of a bundle: when it came, by whom, and what it changed.

    Example: direct-gateway bundle history atab
    """

    async def work(site: Site) -> list[dict[str, Any]]:
        def read(c: Connection) -> list[dict[str, Any]]:
            bundle = store.get_bundle(c, name)
            return [
                {
                    "version": v.number,
                    "state": _state(v, bundle.in_force, bundle.staged),
                    "received": v.received_at,
                    "in_force": v.in_force_at,
                    "by": v.actor,
                    "approved_by": v.approved_by,
                    "source": v.source,
                    "anchors": v.anchors,
                    "added": list(v.added) if as_json else len(v.added),
                    "removed": list(v.removed) if as_json else len(v.removed),
                    "signed_at": v.signed_at,
                    "sha256": v.sha256,
                }
                for v in versions.history(c, name)
            ]

        return await site.database.read(read)

    columns = ("version", "state", "received", "by", "approved_by", "anchors", "added", "removed")
    table(f"bundle {name}", columns, on_site(config, work), as_json=as_json)


def _state(version: versions.StoredVersion, in_force: int | None, staged: int | None) -> str:
    if version.number in (in_force, staged):
        return "in force" if version.number == in_force else "staged"
    return "replaced" if version.in_force_at else "never in force"


@contents.command("export")
def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    form: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.P7B,
    version: Annotated[int, typer.Option(help="This version; default: what is in force.")] = 0,
    signer: Annotated[Path | None, typer.Option(help="PKCS#12 that signs a p7m.")] = None,
    password_file: PasswordFile = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Write a bundle's anchors to a file, or a version as it was received.

    Example: direct-gateway bundle export atab --out atab.p7b
    """
    identity = _identity(signer, password_file) if form is Format.P7M else None

    async def work(site: Site) -> tuple[bytes, int]:
        def read(c: Connection) -> tuple[bytes, int]:
            number = version or store.get_bundle(c, name).in_force
            if not number:
                raise DirectError(Reason.RESOURCE_NOT_FOUND, f"bundle {name} has no version yet")
            anchors = _anchors(c, site, name, number)
            match form:
                case Format.AS_RECEIVED:
                    return versions.content_of(c, name, number), len(anchors)
                case Format.PEM:
                    return write_pem(anchors), len(anchors)
                case _ if identity is not None:
                    return write_p7m(anchors, identity, now=site.now), len(anchors)
                case _:
                    return write_p7b(anchors), len(anchors)

        return await site.database.read(read)

    content, count = on_site(config, work)
    try:
        out.write_bytes(content)
    except OSError as error:
        fail(f"{out}: {error.strerror}")
    report = {"bundle": name, "file": str(out), "format": form.value, "anchors": count}
    show(report, as_json=as_json)


def _identity(signer: Path | None, password_file: Path | None) -> Identity:
    if signer is None:
        fail("a p7m is signed: say --signer FILE.p12")
    try:
        opened = load_pkcs12(read_file(signer), password_of(password_file, "Password of --signer"))
    except DirectError as error:
        fail(error)
    return Identity(opened.certificate, opened.chain, SoftwareKey(opened.key))
