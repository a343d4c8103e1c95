from __future__ import annotations

from collections.abc import AsyncIterator

import dns.name
import dns.zone
import pytest
import pytest_asyncio

from certs.address import parse_address
from certs.directory import LiveDirectory, open_directory
from certs.errors import Reason
from certs.evidence import Level
from gateway.dns_responder import DnsResponder
from tests.helpers.pki import Ca
from tests.helpers.zones import cert_record, cname_record, zone_of

ADDRESS = parse_address("DrJones@direct.example.org")
ROOT = Ca.create("Root")
BOUND = ROOT.issue(address="drjones@direct.example.org").certificate
DOMAIN = ROOT.issue(domain="direct.example.org").certificate

Zones = dict[dns.name.Name, dns.zone.Zone]


@pytest.fixture
def zones() -> Zones:
    return {}


@pytest_asyncio.fixture
async def directory(zones: Zones) -> AsyncIterator[LiveDirectory]:
    responder = DnsResponder(zones)
    where = await responder.start()
    async with open_directory(resolver=where, allow_private=True) as opened:
        yield opened
    await responder.stop()


async def test_address_level_comes_first_and_ends_the_search(
    zones: Zones, directory: LiveDirectory
) -> None:
    records = [cert_record("drjones", BOUND), cert_record("@", DOMAIN)]
    zones.update(zone_of("direct.example.org", records))
    evidence = await directory.evidence_for(ADDRESS)
    assert [(f.certificate, f.level) for f in evidence.found] == [(BOUND, Level.DNS_ADDRESS)]
    assert [(s.level, s.outcome, s.certificates) for s in evidence.steps] == [
        (Level.DNS_ADDRESS, "found", 1)
    ]


async def test_domain_level_comes_second(zones: Zones, directory: LiveDirectory) -> None:
    zones.update(zone_of("direct.example.org", [cert_record("@", DOMAIN)]))
    evidence = await directory.evidence_for(ADDRESS)
    assert [(f.certificate, f.level) for f in evidence.found] == [(DOMAIN, Level.DNS_DOMAIN)]
    assert [s.outcome for s in evidence.steps] == ["empty", "found"]


async def test_nothing_there_is_certain(zones: Zones, directory: LiveDirectory) -> None:
    zones.update(zone_of("direct.example.org", []))
    evidence = await directory.evidence_for(ADDRESS)
    assert evidence.found == ()
    assert evidence.failure is None


async def test_refused_everywhere_is_a_failure(directory: LiveDirectory) -> None:
    evidence = await directory.evidence_for(ADDRESS)
    assert evidence.failure is Reason.DIRECTORY_UNAVAILABLE
    assert all(step.outcome.startswith("failed") for step in evidence.steps)


async def test_set_that_does_not_fit_udp_comes_whole_by_tcp(
    zones: Zones, directory: LiveDirectory
) -> None:
    """CD-026 and D14."""
    many = [ROOT.issue(address=str(ADDRESS), key="rsa4096").certificate for _ in range(4)]
    zones.update(zone_of("direct.example.org", [cert_record("drjones", c) for c in many]))
    evidence = await directory.evidence_for(ADDRESS)
    assert {f.certificate for f in evidence.found} == set(many)


async def test_aliases_are_followed(zones: Zones, directory: LiveDirectory) -> None:
    records = [cname_record("drjones", "other"), cert_record("other", BOUND)]
    zones.update(zone_of("direct.example.org", records))
    assert [f.certificate for f in (await directory.evidence_for(ADDRESS)).found] == [BOUND]
