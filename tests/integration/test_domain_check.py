"""`domain check` against what `cert publish` wrote, served by real Knot and slapd.

All verbs but this one run within the test's process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.__main__ import app
from tests.helpers.console import Installation
from tests.helpers.listeners import HOST, listening
from tests.helpers.memory_reception import MemoryReception
from tests.helpers.pki import Ca
from tests.helpers.servers import SUFFIX, free_port, knot, slapd
from tests.helpers.zones import cert_record, zone_text

DOMAIN = "direct.hillside.example"
USER = f"dr.rivera@{DOMAIN}"
DESK = f"desk@{DOMAIN}"
MX_ZONE = zone_text("b.example", ["mx IN A 127.0.0.1"])
GOOD_POLICIES = ['_smtp._tls IN TXT "v=TLSRPTv1; rua=mailto:tls@hillside.example"']


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.create(tmp_path_factory.mktemp("check"), HOST)
    call(made, "domain", "add", DOMAIN)
    for address in (USER, DESK):
        call(made, "address", "add", address)
    for owner in (DOMAIN, USER):
        call(made, "cert", "new", "--for", owner, "--kind", "p256")
    return made


def call(here: Installation, *words: object, status: int | None = 0) -> Result:
    """Run one verb; `status` None: it may be anything."""
    done = CliRunner().invoke(app, [*map(str, words), "--config", str(here.config)])
    assert status is None or done.exit_code == status, done.output
    return done


@dataclass
class World:
    """What is served about the domain: records, LDAP entries, and where LDAP listens."""

    here: Installation
    folder: Path
    records: Sequence[str]
    ldif: str
    ldap: int

    async def check(self, *more: object) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
        """Run the verb while everything is up; return exit status and rows by check and name."""
        zones = {DOMAIN: zone_text(DOMAIN, self.records), "b.example": MX_ZONE}
        with (
            slapd(self.folder / "slapd", [], port=self.ldap, ldif=self.ldif),
            knot(self.folder / "knot", zones) as (host, port),
        ):
            async with listening(MemoryReception()) as (_, smtp):
                verb = ("domain", "check", DOMAIN, "--json", "--private", *more)
                where = ("--resolver", f"{host}:{port}", "--dns-port", port, "--smtp-port", smtp)
                # In a process of its own: what the listener logs goes to this one's output.
                run = partial(self.here.run, *verb, *where, check=False)
                done = await asyncio.to_thread(run)
        assert done.returncode in (0, 1), done.stderr
        rows = json.loads(done.stdout)
        return done.returncode, {(row["check"], row["name"].split(" at ")[0]): row for row in rows}


@pytest.fixture
def world(here: Installation, tmp_path: Path) -> World:
    port = free_port()
    publish = ("cert", "publish", DOMAIN, "--mx", HOST, "--ldap", f"ldap.{DOMAIN}:{port}")
    records = call(here, *publish).stdout
    ldif = call(here, *publish, "--format", "ldif", "--suffix", SUFFIX).stdout
    return World(here, tmp_path, ["ldap IN A 127.0.0.1", records, *GOOD_POLICIES], ldif, port)


async def test_what_publish_wrote_is_what_check_wants(world: World) -> None:
    status, rows = await world.check("--ldap", f"ldap.{DOMAIN}:{world.ldap}")
    assert status == 0, rows
    assert {key: row["status"] for key, row in rows.items()} == {
        ("CERT", DOMAIN): "ok",
        ("CERT", USER): "ok",
        ("CERT", DESK): "ok",  # the domain's certificate serves it
        ("CERT by TCP", DOMAIN): "ok",
        ("CERT by TCP", USER): "ok",
        ("CERT by TCP", DESK): "ok",
        ("SRV", f"_ldap._tcp.{DOMAIN}"): "ok",
        ("LDAP", DOMAIN): "ok",
        ("LDAP", USER): "ok",
        ("LDAP", DESK): "ok",
        ("MX", DOMAIN): "ok",
        ("TLS", HOST): "ok",
        ("MTA-STS", "policy"): "absent",
        ("TLS-RPT", "record"): "ok",
    }
    assert "TLSv1.3" in rows["TLS", HOST]["found"]
    assert rows["CERT", USER]["found"] == rows["CERT", USER]["wanted"]


async def test_what_is_wrong_is_named(world: World) -> None:
    """A foreign certificate, a missing one, another MX, no LDAP server, a stale STS record."""
    foreign = Ca.create("Foreign").issue(domain=DOMAIN).certificate
    world.records = [
        cert_record("@", foreign),
        "@ IN MX 10 mx.b.example.",
        "@ IN MX 20 gone.b.example.",
        f"_ldap._tcp IN SRV 0 0 {free_port()} ldap",
        "ldap IN A 127.0.0.1",
        '_mta-sts IN TXT "v=STSv1"',
    ]
    status, rows = await world.check()
    assert status == 1
    assert {key for key, row in rows.items() if row["status"] == "wrong"} == {
        ("CERT", DOMAIN),
        ("CERT", USER),
        ("CERT by TCP", DOMAIN),
        ("CERT by TCP", USER),
        ("LDAP", DOMAIN),
        ("LDAP", USER),
        ("LDAP", DESK),
        ("MX", DOMAIN),
        ("TLS", "gone.b.example"),
        ("MTA-STS", "policy"),
    }
    assert rows["CERT", USER]["found"] == "none"
    assert "gone.b.example" in rows["MX", DOMAIN]["found"]


async def test_ldap_alone_is_enough(world: World) -> None:
    """H3 and H4: nothing in DNS but where LDAP is."""
    world.records = [
        f"@ IN MX 10 {HOST}.",
        f"_ldap._tcp IN SRV 0 0 {world.ldap} ldap",
        "ldap IN A 127.0.0.1",
    ]
    status, rows = await world.check()
    assert status == 0, rows
    assert rows["CERT", USER]["found"] == "none"


def test_domain_that_is_not_served_is_an_error(here: Installation) -> None:
    done = call(here, "domain", "check", "other.example", status=2)
    assert "resource-not-found" in done.stderr
