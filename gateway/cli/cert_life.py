"""`cert rollover`, `retire`, `remove` and `rewrap`: from one key to the next.

Talks to the database, the data folder and the PKCS#11 token.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from sqlalchemy import Connection

from certs import keys, rollover
from certs.rollover import Dates
from gateway.cli import cert
from gateway.cli.asking import confirm
from gateway.cli.cert import Sha256
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    Yes,
    change,
)
from gateway.cli.times import parse_time
from gateway.key_access import adopt_next_kek, key_access, next_kek
from gateway.own_ca import rewrap_ca

__all__ = ["certs"]

certs = cert.certs  # the noun, with four verbs more

When = "now, +14d, +12h, +30m or ISO 8601."


@certs.command("rollover")
def roll_over(
    sha256: Sha256,
    publish: Annotated[str, typer.Option(help=f"When peers may find it: {When}")] = "now",
    switch: Annotated[str, typer.Option(help=f"When it signs: {When}")] = "+3d",
    retire: Annotated[str, typer.Option(help=f"When the old are no longer found: {When}")] = "+14d",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let a certificate take over from the others of its subject, at dates that are kept.

    The running gateway keeps them. What was encrypted to the old is still opened afterwards, for
    keys.old_keys_days. Publish again (`cert publish`) at the first and at the last date.

    Example: direct-gateway cert rollover 3fd1 --switch +3d --retire +14d
    """

    def work(c: Connection, site: Site) -> Change:
        dates = Dates(*(parse_time(text, site.now) for text in (publish, switch, retire)))
        new = keys.find(c, sha256)
        old = rollover.roll_over(c, new.sha256, dates, site.now)
        shown = {
            "for": new.subject,
            "sha256": new.sha256,
            "publish": dates.publish,
            "switch": dates.switch,
            "retire": dates.retire,
            "takes_over_from": [one.sha256 for one in old],
        }
        return Change(shown, old=" ".join(one.sha256 for one in old), new=new.sha256)

    change(config, "certificate-rollover", sha256, work, as_json=as_json)


@certs.command("retire")
def retire_cert(
    sha256: Sha256,
    at: Annotated[str, typer.Option(help=f"When: {When}")] = "now",
    yes: Yes = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Sign with a certificate no more and publish it no more; it still opens mail.

    Example: direct-gateway cert retire 3fd1 --yes
    """
    confirm(f"Retire the certificate {sha256}?", yes=yes)

    def work(c: Connection, site: Site) -> Change:
        own, time = keys.find(c, sha256), parse_time(at, site.now)
        done = rollover.retire(c, own.sha256, time, site.now)
        shown = {"for": own.subject, "sha256": own.sha256, "retired": time if done else None}
        return Change(shown, old=own.sha256)

    change(config, "certificate-retired", sha256, work, as_json=as_json)


@certs.command("remove")
def remove_cert(
    sha256: Sha256,
    anyway: Annotated[
        bool, typer.Option("--lose-mail", help="Even if mail may come that only it opens.")
    ] = False,
    yes: Yes = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Forget a certificate with its key; refused unless it has been retired for long enough.

    Example: direct-gateway cert remove 3fd1 --yes
    """
    confirm(f"Forget the certificate {sha256} and its key?", yes=yes)

    def work(c: Connection, site: Site) -> Change:
        kept = timedelta(days=0 if anyway else site.config.keys.old_keys_days)
        own = rollover.remove(c, keys.find(c, sha256).sha256, opened_until=site.now - kept)
        if own.token_label is not None:
            with key_access(site.config) as access:
                access.token().remove(own.token_label)
        return Change({"for": own.subject, "removed": own.sha256}, old=own.sha256)

    change(config, "certificate-removed", sha256, work, as_json=as_json)


@certs.command("rewrap")
def rewrap(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new key-encryption key first.")
    ] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Seal all private keys under the present key-encryption key, or under a new one.

    To move it from a file to a credential or token: name the new place in keys.kek and the old
    one in keys.former_kek, restart, run this, and delete keys.former_kek. The gateway goes on
    throughout; a rotation that broke off is taken up again.

    Example: direct-gateway cert rewrap --rotate
    """

    def work(c: Connection, site: Site) -> Change:
        with key_access(site.config) as access:
            if rotate:
                next_kek(site.config, access)
            keks = access.keks()
        count = rollover.rewrap_all(c, old_keks=keks, new_kek=keks[-1])
        count += rewrap_ca(site.config.gateway.data, old_keks=keks, new_kek=keks[-1])
        return Change({"keys": count, "rotated": rotate})

    async def adopted(site: Site) -> None:
        if rotate:
            adopt_next_kek(site.config)

    change(config, "keys-rewrapped", "keys", work, after=adopted, as_json=as_json)
