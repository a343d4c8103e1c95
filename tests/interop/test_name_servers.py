"""What we publish in BIND, NSD and Knot, and discovery through a real Unbound."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.tsig
import pytest
import pytest_asyncio

from certs.address import parse_address
from certs.directory import open_directory
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Level
from gateway.dns_update import push_update
from gateway.publish import Publication, nsupdate_script, update_message, zone_text
from tests.helpers import zones
from tests.helpers.name_servers import bind, nsd, unbound
from tests.helpers.pki import Ca
from tests.helpers.servers import knot

DOMAIN = "direct.example.org"
ROOT = Ca.create("Root")
JONES = parse_address(f"Dr.Jones+x@{DOMAIN}")
OLD, NEW = (
    ROOT.issue(address=str(JONES), key="rsa4096", label=label).certificate
    for label in ("old", "new")
)
OWN = ROOT.issue(domain=DOMAIN).certificate
PUBLISHED = Publication(
    DOMAIN, [(JONES, OLD), (JONES, NEW), (DOMAIN, OWN)], mail_hosts=("mx1.example.org",), ttl_s=600
)
SECRET = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3I="
KEY = dns.tsig.Key("update.", SECRET, dns.tsig.HMAC_SHA256)
ALLOWED = f'key "update." {{ algorithm hmac-sha256; secret "{SECRET}"; }};'

Server = Callable[[Path, dict[str, str]], AbstractContextManager[tuple[str, int]]]


async def found(address: str, resolver: tuple[str, int], *, authority: int = 53) -> Evidence:
    async with open_directory(
        resolver=resolver, allow_private=True, authority_port=authority
    ) as directory:
        return await directory.evidence_for(parse_address(address))


def certificates(evidence: Evidence) -> set[object]:
    return {one.certificate for one in evidence.found}


@pytest.mark.parametrize("server", [bind, nsd, knot], ids=["bind", "nsd", "knot"])
async def test_zone_is_loaded_and_found(server: Server, tmp_path: Path) -> None:
    """CD-029: also the address whose name needs escapes, and more certificates than UDP takes."""
    text = zones.zone_text(DOMAIN, [zone_text(PUBLISHED)])
    with server(tmp_path / "server", {DOMAIN: text}) as where:
        by_address = await found(str(JONES), where)
        by_domain = await found(f"nobody@{DOMAIN}", where)
        host, port = where
        query = dns.message.make_query(f"dr.jones\\+x.{DOMAIN}", "CERT", use_edns=0)
        by_udp = await dns.asyncquery.udp(query, host, timeout=5, port=port)
    assert certificates(by_address) == {OLD, NEW}
    assert certificates(by_domain) == {OWN}
    assert by_domain.found[0].level is Level.DNS_DOMAIN
    assert by_udp.flags & dns.flags.TC


@pytest.mark.parametrize("way", ["push", "nsupdate"])
async def test_update_of_bind(way: str, tmp_path: Path) -> None:
    """RFC2136 and TSIG: new records take the place of old ones; another key is refused."""
    empty = {DOMAIN: zones.zone_text(DOMAIN, [])}
    options = 'allow-update { key "update."; };'
    with bind(tmp_path / "bind", empty, extra=ALLOWED, options=options) as server:
        await _updated(way, PUBLISHED, server)
        assert certificates(await found(str(JONES), server)) == {OLD, NEW}
        await _updated(way, replace(PUBLISHED, certificates=[(JONES, NEW)]), server)
        assert certificates(await found(str(JONES), server)) == {NEW}
        assert certificates(await found(f"nobody@{DOMAIN}", server)) == {OWN}
        wrong = dns.tsig.Key("update.", "d3Jvbmc=", dns.tsig.HMAC_SHA256)
        with pytest.raises(DirectError) as caught:
            await push_update(update_message(PUBLISHED), server=server, key=wrong)
        assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def _updated(way: str, publication: Publication, server: tuple[str, int]) -> None:
    if way == "push":
        await push_update(update_message(publication), server=server, key=KEY)
        return
    host, port = server
    script = f"server {host} {port}\nkey hmac-sha256:update. {SECRET}\n"
    script += nsupdate_script(publication)
    run = partial(subprocess.run, ["nsupdate", "-v"], input=script, text=True, timeout=30)
    done = await asyncio.to_thread(run, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


LAME = "lame.example.org"
REFUSING = "refusing.example.org"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """NSD and Unbound before it; NSD knows nothing of one zone, Unbound refuses another's name."""
    folder = tmp_path_factory.mktemp("world")
    records = [
        zone_text(PUBLISHED),
        zones.cname_record("alias", "dr.jones\\+x"),
        zones.cert_record("mixed.case", OLD),
        zones.cert_record("unknown", b"\x01", kind=253),
    ]
    served = {DOMAIN: zones.zone_text(DOMAIN, records)}
    served[REFUSING] = zones.zone_text(REFUSING, [zones.cert_record("u", OLD)])
    extra = f"  local-zone: 'u.{REFUSING}.' refuse\n"
    with ExitStack() as stack:
        _, authority = stack.enter_context(nsd(folder / "nsd", served))
        stubs = {DOMAIN: authority, REFUSING: authority, LAME: authority}
        resolver = stack.enter_context(unbound(folder / "unbound", stubs, extra=extra))
        yield World(resolver, authority)


class World:
    """Where the resolver and the name server listen."""

    def __init__(self, resolver: tuple[str, int], authority: int) -> None:
        self.resolver = resolver
        self.authority = authority

    async def found(self, address: str) -> Evidence:
        return await found(address, self.resolver, authority=self.authority)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_unbound_answers_that_are_truncated_come_by_tcp(world: World) -> None:
    """CD-026."""
    assert certificates(await world.found(str(JONES))) == {OLD, NEW}


async def test_unbound_follows_aliases_and_ignores_case(world: World) -> None:
    """CD-021, CD-027."""
    assert certificates(await world.found(f"alias@{DOMAIN}")) == {OLD, NEW}
    assert certificates(await world.found(f"MiXeD.CaSe@{DOMAIN.upper()}")) == {OLD}


async def test_records_of_another_type_are_none(world: World) -> None:
    """CD-025: type 253 at the address; the domain's certificate is found."""
    evidence = await world.found(f"unknown@{DOMAIN}")
    assert certificates(evidence) == {OWN}
    assert evidence.found[0].level is Level.DNS_DOMAIN


async def test_unbound_that_refuses_is_passed_by(world: World) -> None:
    """CD-027 and T-28: the zone's own name servers are asked."""
    evidence = await world.found(f"u@{REFUSING}")
    assert certificates(evidence) == {OLD}
    assert evidence.steps[0].server == f"127.0.0.1:{world.authority}"


async def test_servfail_is_a_failure_and_no_absence(world: World) -> None:
    """CD-006: the domain's name server does not know it, so Unbound says SERVFAIL."""
    assert (await world.found(f"u@{LAME}")).failure is Reason.DIRECTORY_UNAVAILABLE


async def test_time_to_live_counts_down_in_unbound(world: World) -> None:
    """CD-007: what is kept is kept no longer than what is left of the resolver's time."""
    async with open_directory(resolver=world.resolver, allow_private=True) as directory:
        _, first = await directory.look_up(JONES)
        _, second = await directory.look_up(JONES)
    assert first is not None
    assert second is not None
    assert 0 < second <= first <= 600
