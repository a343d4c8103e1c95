"""The official discovery cases (requirements 7.2, 7.3) against real Knot and slapd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from certs.cache import CachingDirectory
from certs.directory import open_directory
from certs.errors import Reason
from certs.policy import CertificatePolicy, Profile
from gateway.dcdt import CASES, SERVERS, Case, Topology, build
from gateway.discovery_cases import Outcome, run_case, run_cases
from tests.helpers.name_servers import unbound
from tests.helpers.pki import NOW, der
from tests.helpers.servers import Entry, free_port, knot, slapd
from tests.helpers.web import web
from tests.helpers.zones import zone_text

BASE = "dcdt.example.org"


@dataclass(frozen=True)
class Site:
    """The running topology."""

    topology: Topology
    resolver: tuple[str, int]
    outcomes: dict[str, Outcome]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("dcdt")
    async with web() as served:
        with ExitStack() as servers:
            ports = {server: free_port() for server in SERVERS}
            topology = build(
                BASE,
                now=NOW,
                ldap_ports=ports,
                web_port=int(served.base.rpartition(":")[2]),
                host="127.0.0.1",
            )
            served.files.update(topology.files)
            for server, port in ports.items():
                servers.enter_context(slapd(folder / server, _entries(topology, server), port=port))
            zones = {o: zone_text(o, records) for o, records in topology.zones.items()}
            resolver = servers.enter_context(knot(folder / "knot", zones))
            async with open_directory(resolver=resolver, allow_private=True) as directory:
                outcomes = await run_cases(topology, directory, now=NOW, policy=CertificatePolicy())
            yield Site(topology, resolver, {outcome.case.id: outcome for outcome in outcomes})


def _entries(topology: Topology, server: str) -> list[Entry]:
    return [Entry(e.name, e.mail, [e.certificate]) for e in topology.entries[server]]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.id}-{case.why}") for case in CASES])
@pytest.mark.asyncio(loop_scope="module")
async def test_case(site: Site, case: Case) -> None:
    outcome = site.outcomes[case.id]
    assert outcome.passed, (outcome.chosen, outcome.decision.reason, outcome.steps)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("D5", Reason.CERTIFICATE_EXPIRED),
        ("D7", Reason.CERTIFICATE_EXPIRED),
        ("D11", Reason.CERTIFICATE_NOT_FOUND),
        ("D12", Reason.CERTIFICATE_NOT_FOUND),
        ("D13", Reason.CERTIFICATE_NOT_FOUND),
        ("d18", Reason.CERTIFICATE_REVOKED),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_refusal_says_why(site: Site, case: str, reason: Reason) -> None:
    assert site.outcomes[case].decision.reason is reason


@pytest.mark.asyncio(loop_scope="module")
async def test_large_certificate_does_not_fit_a_datagram(site: Site) -> None:
    """D14: it came by TCP, since there is no other way."""
    assert len(der(site.topology.certificates["D14_valA"])) > 1232


@pytest.mark.asyncio(loop_scope="module")
async def test_cases_pass_with_the_older_profile_and_with_the_cache_on(site: Site) -> None:
    policy = CertificatePolicy(profile=Profile.AS_1_2)
    async with open_directory(resolver=site.resolver, allow_private=True) as live:
        cached = CachingDirectory(live=live, clock=lambda: NOW, database=None)
        for _ in range(2):
            outcomes = await run_cases(site.topology, cached, now=NOW, policy=policy)
            assert [o.case.id for o in outcomes if not o.passed] == []


@pytest.mark.asyncio(loop_scope="module")
async def test_cases_pass_through_a_recursive_resolver(site: Site, tmp_path: Path) -> None:
    """Unbound before Knot, as in the field; with nothing of ours remembered, then with all."""
    stubs = dict.fromkeys(site.topology.zones, site.resolver[1])
    with unbound(tmp_path / "unbound", stubs) as resolver:
        async with open_directory(resolver=resolver, allow_private=True) as live:
            cached = CachingDirectory(live=live, clock=lambda: NOW, database=None)
            for directory in (live, cached, cached):
                outcomes = await run_cases(
                    site.topology, directory, now=NOW, policy=CertificatePolicy()
                )
                assert [o.case.id for o in outcomes if not o.passed] == []


@pytest.mark.asyncio(loop_scope="module")
async def test_one_message_to_all_recipients_of_the_tool(site: Site) -> None:
    """Requirements 12: all look-ups at once, each with its own outcome."""
    async with open_directory(resolver=site.resolver, allow_private=True) as live:
        cached = CachingDirectory(live=live, clock=lambda: NOW, database=None)
        outcomes = await asyncio.gather(
            *(
                run_case(case, site.topology, cached, now=NOW, policy=CertificatePolicy())
                for case in CASES
            )
        )
    assert [o.case.id for o in outcomes if not o.passed] == []
