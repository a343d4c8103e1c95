"""`lookup` with the gateway's cache, and `cert cache`; the verbs run within this process."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.name
import dns.zone
import pytest_asyncio
from typer.testing import CliRunner

from certs.issuers import sha256_of
from gateway.cli.__main__ import app
from gateway.clock import utc_now
from gateway.dns_responder import DnsResponder
from tests.helpers.console import Installation
from tests.helpers.pki import Ca
from tests.helpers.zones import cert_record, zone_of

DOMAIN = "direct.lakeview.example"
CHEN = f"Dr.Chen@{DOMAIN}"
NOW = utc_now()
ROOT = Ca.create("Root", not_before=NOW.replace(year=NOW.year - 1))
OLD, NEW = (
    ROOT.issue(address=CHEN, not_before=NOW.replace(year=NOW.year - 1), label=label).certificate
    for label in ("old", "new")
)


@dataclass
class World:
    """An installation, and the zone that its resolver serves."""

    here: Installation
    zones: dict[dns.name.Name, dns.zone.Zone]

    def publish(self, certificate: Any) -> None:
        self.zones.update(zone_of(DOMAIN, [cert_record("dr.chen", certificate)]))

    async def run(self, *verb: str) -> Any:
        words = [*verb, "--json", "--config", str(self.here.config)]
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    async def lookup(self, *options: str) -> tuple[str, str]:
        """Return who answered, and the digest of the certificate."""
        report = await self.run("lookup", CHEN, *options)
        return report["steps"][0]["server"], report["certificates"][0]["sha256"]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    zones: dict[dns.name.Name, dns.zone.Zone] = {}
    responder = DnsResponder(zones)
    host, port = await responder.start()
    more = f'[discovery]\nresolver = "{host}:{port}"\nprivate_addresses = true\n'
    create = asyncio.to_thread(Installation.create, tmp_path, "gw.example.org", more)
    yield World(await create, zones)
    await responder.stop()


async def test_lookup_answers_from_the_gateways_cache_unless_told_not_to(world: World) -> None:
    old, new = (sha256_of(certificate).hex() for certificate in (OLD, NEW))
    world.publish(OLD)
    where, found = await world.lookup()
    assert found == old
    world.publish(NEW)
    assert await world.lookup() == ("cache", old)
    assert await world.lookup("--no-cache") == (where, new)
    # Another resolver's word is no more the gateway's than what was not to be remembered.
    assert await world.lookup("--resolver", where) == (where, new)
    assert await world.lookup() == ("cache", old)

    (entry,) = await world.run("cert", "cache", "list")
    assert (entry["kind"], entry["key"], entry["certificates"]) == ("discovery", CHEN.lower(), 1)
    assert entry["fresh"] is True
    assert await world.run("cert", "cache", "flush", f"other@{DOMAIN}") == {"forgotten": 0}
    assert await world.run("cert", "cache", "flush", CHEN) == {"forgotten": 1}
    assert await world.lookup() == (where, new)
    assert await world.run("cert", "cache", "flush") == {"forgotten": 1}
    assert await world.run("cert", "cache", "list") == []


async def test_lookup_ends_at_the_configured_deadline(tmp_path: Path) -> None:
    """CD-009: a resolver that takes questions and says nothing."""
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    config = tmp_path / "direct-gateway.toml"
    config.write_text(
        f'[discovery]\nresolver = "127.0.0.1:{port}"\ndeadline_s = 0.5\ntimeout_s = 60\n'
    )
    words = ["lookup", CHEN, "--no-cache", "--json", "--config", str(config)]
    done = await asyncio.wait_for(asyncio.to_thread(CliRunner().invoke, app, words), 30)
    silent.close()
    assert done.exit_code == 1
    assert json.loads(done.stdout)["reason"] == "directory-unavailable"
