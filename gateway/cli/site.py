"""`init`, `serve` and `check`: an installation as a whole.

Talks to the file system, the database and the terminal.
"""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer
from sqlalchemy import Connection

from certs import keys
from certs.address import parse_domain
from certs.errors import DirectError
from certs.keys import OwnIdentity
from gateway import domains
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Site,
    fail,
    on_site,
    show,
    table,
)
from gateway.clock import utc_now
from gateway.config import load
from gateway.config_sample import describe
from gateway.expiry import expiring
from gateway.initialise import initialise
from gateway.logs import log_to
from gateway.trust_check import Finding, check_trust

__all__ = ["check", "init", "serve"]

_SAMPLE: Final = """\
# direct-gateway: every setting and its default is shown by `direct-gateway init --sample`.

[gateway]
hostname = "{hostname}"
data = "data"

[backbone]
listen = "0.0.0.0:25"

[edge]
listen = "0.0.0.0:587"

[fhir]
listen = "127.0.0.1:8443"
"""


def init(
    hostname: Annotated[str, typer.Option(help="This host's public name.")] = "",
    sample: Annotated[
        bool, typer.Option("--sample", help="Only print every setting with its default.")
    ] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Set up an installation: configuration, data folder, key file, TLS certificate, database.

    Example: direct-gateway init --hostname gw.example.org
    """
    if sample:
        typer.echo(describe())
        return
    try:
        if not config.exists():
            if not hostname:
                fail("there is no configuration yet: say --hostname gw.example.org")
            config.write_text(_SAMPLE.format(hostname=parse_domain(hostname)), encoding="utf-8")
        loaded = load(config)
        asyncio.run(initialise(loaded, utc_now()))
    except DirectError as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    show({"configuration": config, "data": loaded.gateway.data}, as_json=as_json)


def serve(
    config: ConfigPath = DEFAULT_CONFIG,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="In place of [gateway] processes.")
    ] = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Example: direct-gateway serve --config /etc/direct-gateway.toml
    """
    try:
        loaded = load(config)
        log_to(sys.stderr, loaded.gateway.log_level)
        count = processes or loaded.gateway.processes
        # Imported here, for it imports the whole gateway: other verbs start in a third of the time.
        if count > 1:
            from gateway.processes import serve_together

            serve_together(loaded, count)
        else:
            from gateway.app import serve as serve_gateway

            serve_gateway(loaded)
    except DirectError as error:
        fail(error)


def check(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Check configuration, keys, certificates and trust; exit 1 where something is wrong.

    Example: direct-gateway check
    """

    async def work(site: Site) -> list[dict[str, object]]:
        site.kek()

        def read(
            c: Connection,
        ) -> tuple[Sequence[str], Sequence[OwnIdentity], Sequence[Finding]]:
            names = [domain.name for domain in domains.list_domains(c)]
            return names, keys.list_identities(c), check_trust(c, names, site.now)

        names, own, trust = await site.database.read(read)
        rows = [_row("configuration", "ok", str(config)), _row("database", "ok", "readable")]
        rows.append(await asyncio.to_thread(_check_folder, site))
        if not names:
            rows.append(_row("domains", "fail", "none: direct-gateway domain add NAME"))
        for name in names:
            rows += _check_domain(site, name, own)
        return rows + [_row(found.what, found.verdict, found.detail) for found in trust]

    rows = on_site(config, work)
    table("check", ("what", "verdict", "detail"), rows, as_json=as_json)
    raise typer.Exit(1 if any(row["verdict"] == "fail" for row in rows) else 0)


def _check_domain(site: Site, name: str, own: Sequence[OwnIdentity]) -> Iterator[dict[str, object]]:
    here = [o for o in own if o.subject.rpartition("@")[2] == name and not o.is_retired(site.now)]
    live = [o for o in here if o.is_valid(site.now)]
    if not live:
        yield _row(f"{name}: certificate", "fail", "none valid: direct-gateway cert import")
    elif not any(o.signs(site.now) for o in live):
        yield _row(f"{name}: certificate", "fail", "none signs now: direct-gateway cert list")
    elif not any(o.is_published(site.now) for o in live):
        yield _row(f"{name}: certificate", "fail", "none to be encrypted to: cert list")
    soon = {one.own.id for one in expiring(here, site.now)}
    for identity in live:
        left = identity.certificate.not_valid_after_utc - site.now
        verdict = "warn" if identity.id in soon else "ok"
        yield _row(f"{name}: certificate", verdict, f"{identity.subject}: {left.days} days left")


def _check_folder(site: Site) -> dict[str, object]:
    folder = site.config.gateway.data
    if folder.stat().st_mode & (stat.S_IROTH | stat.S_IXOTH | stat.S_IWOTH):
        detail = f"{folder} is open to every user of this machine: chmod o-rwx {folder}"
        return _row("data folder", "fail", detail)
    return _row("data folder", "ok", str(folder))


def _row(what: str, verdict: str, detail: str) -> dict[str, object]:
    return {"what": what, "verdict": verdict, "detail": detail}
