from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.zone
import pytest
import pytest_asyncio

from certs.address import parse_address
from certs.directory import LiveDirectory, open_directory
from certs.errors import Reason
from certs.evidence import Level
from gateway.dns_responder import DnsResponder
from tests.helpers.pki import Ca, der
from tests.helpers.web import web
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


async def test_resolver_that_refuses_cert_is_passed_by(zones: Zones) -> None:
    """CD-027: the zone's own name servers are asked instead."""
    zones.update(zone_of("direct.example.org", [cert_record("drjones", BOUND)]))
    authority = DnsResponder(zones)
    _, port = await authority.start()
    intermediary = Unwilling(zones)
    resolver = await intermediary.start()
    async with open_directory(
        resolver=resolver, allow_private=True, authority_port=port
    ) as directory:
        evidence = await directory.evidence_for(ADDRESS)
        nobody = await directory.evidence_for(parse_address("nobody@direct.example.org"))
    assert [found.certificate for found in evidence.found] == [BOUND]
    assert evidence.steps[0].server == f"127.0.0.1:{port}"
    assert nobody.failure is None
    await intermediary.stop()
    await authority.stop()


async def test_certificate_may_be_at_a_url(zones: Zones, directory: LiveDirectory) -> None:
    """CD-024."""
    async with web() as site:
        site.files["/drjones"] = der(BOUND)
        urls = [site.url("/gone"), site.url("/drjones")]
        records = [cert_record("drjones", url.encode(), kind=4) for url in urls]
        zones.update(zone_of("direct.example.org", records))
        evidence = await directory.evidence_for(ADDRESS)
    assert [found.certificate for found in evidence.found] == [BOUND]


async def test_many_addresses_at_once(zones: Zones, directory: LiveDirectory) -> None:
    records = [cert_record(f"u{number}", BOUND) for number in range(200)]
    zones.update(zone_of("direct.example.org", records))
    addresses = [parse_address(f"u{number}@direct.example.org") for number in range(200)]
    found = await asyncio.gather(*map(directory.evidence_for, addresses))
    assert all(len(evidence.found) == 1 for evidence in found)


async def test_search_ends_at_its_deadline_whatever_the_servers_do(zones: Zones) -> None:
    """CD-009."""
    responder = Silent(zones)
    where = await responder.start()
    start = time.monotonic()
    async with open_directory(resolver=where, deadline_s=0.3) as directory:
        evidence = await directory.evidence_for(ADDRESS)
    await responder.stop()
    assert time.monotonic() - start < 2
    assert evidence.failure is Reason.DIRECTORY_UNAVAILABLE


async def test_garbage_is_no_answer(zones: Zones) -> None:
    responder = Babbling(zones)
    where = await responder.start()
    async with open_directory(resolver=where, dns_lifetime_s=0.3) as directory:
        evidence = await directory.evidence_for(ADDRESS)
    await responder.stop()
    assert evidence.failure is Reason.DIRECTORY_UNAVAILABLE


async def test_answer_broken_by_udp_is_asked_for_by_tcp(zones: Zones) -> None:
    """CD-026 and T-28."""
    zones.update(zone_of("direct.example.org", [cert_record("drjones", BOUND)]))
    responder = CutShort(zones)
    where = await responder.start()
    async with open_directory(resolver=where, dns_lifetime_s=1) as directory:
        evidence = await directory.evidence_for(ADDRESS)
    await responder.stop()
    assert [found.certificate for found in evidence.found] == [BOUND]


class Silent(DnsResponder):
    """Takes questions and says nothing."""

    def answer(self, wire: bytes, *, limit_octets: int) -> bytes | None:
        return None


class Babbling(DnsResponder):
    """Answers with noise."""

    def answer(self, wire: bytes, *, limit_octets: int) -> bytes | None:
        return wire[:2] + b"\x84" + b"\xff" * 400


class CutShort(DnsResponder):
    """Loses the end of every datagram, and says nothing of it."""

    def answer(self, wire: bytes, *, limit_octets: int) -> bytes | None:
        answer = super().answer(wire, limit_octets=65535)
        return answer[:100] if answer and limit_octets < 65535 else answer


class Unwilling(DnsResponder):
    """A resolver that knows everything but CERT."""

    def answer(self, wire: bytes, *, limit_octets: int) -> bytes | None:
        query = dns.message.from_wire(wire)
        if query.question[0].rdtype is not dns.rdatatype.CERT:
            return super().answer(wire, limit_octets=limit_octets)
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.REFUSED)
        return response.to_wire()
