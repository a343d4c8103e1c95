"""Discovery against a real Knot and a real slapd on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from certs.address import parse_address
from certs.directory import open_directory
from certs.errors import Reason
from certs.evidence import Evidence, Level
from tests.helpers.pki import Ca
from tests.helpers.servers import Entry, free_port, knot, slapd
from tests.helpers.zones import cert_record, srv_record, zone_text

ROOT = Ca.create("Root")
DRJONES = ROOT.issue(address="drjones@dns.example.org", key="rsa2048").certificate
LARGE = [ROOT.issue(address="large@dns.example.org", key="rsa4096").certificate for _ in range(3)]
DOMAIN = ROOT.issue(domain="dns.example.org").certificate
NURSE = ROOT.issue(address="nurse@ldap.example.org").certificate
SECOND = ROOT.issue(address="nurse@ldap.example.org", label="second").certificate
ORGANISATION = ROOT.issue(domain="ldap.example.org").certificate
STAR = ROOT.issue(address="n*e@ldap.example.org").certificate


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("servers")
    entries = [
        Entry("nurse", "Nurse@ldap.example.org", [NURSE, b"not a certificate"]),
        Entry("nurse2", "nurse@ldap.example.org", [SECOND]),
        Entry("bare", "ldap.example.org", [ORGANISATION]),
        Entry("star", "n*e@ldap.example.org", [STAR]),
        Entry("empty", "empty@ldap.example.org"),
    ]
    with slapd(folder / "full", entries) as full, slapd(folder / "none", []) as none:
        zones = {
            "dns.example.org": zone_text("dns.example.org", _dns_records()),
            "ldap.example.org": zone_text("ldap.example.org", _ldap_records(full[1], none[1])),
        }
        with knot(folder / "knot", zones) as where:
            yield where


def _dns_records() -> list[str]:
    return [
        cert_record("drjones", b"mQ==", kind=3),  # a PGP key beside the certificate
        cert_record("drjones", DRJONES, tag=4711),
        *[cert_record("large", certificate) for certificate in LARGE],
        cert_record("broken", b"not a certificate"),
        cert_record("@", DOMAIN),
    ]


def _ldap_records(full: int, none: int) -> list[str]:
    return [
        srv_record("nowhere", 389, priority=0),
        srv_record("ldap", free_port(), priority=1, weight=9),
        srv_record("ldap", none, priority=1, weight=5),
        srv_record("ldap", full, priority=1, weight=1),
        "ldap IN A 127.0.0.1",
    ]


async def _evidence(address: str, resolver: tuple[str, int], *, private: bool = True) -> Evidence:
    async with open_directory(resolver=resolver, allow_private=private) as directory:
        return await directory.evidence_for(parse_address(address))


def _certificates(evidence: Evidence) -> set[object]:
    return {found.certificate for found in evidence.found}


async def test_address_in_dns_among_other_records(resolver: tuple[str, int]) -> None:
    evidence = await _evidence("DrJones@dns.example.org", resolver)
    assert _certificates(evidence) == {DRJONES}
    assert evidence.found[0].level is Level.DNS_ADDRESS


async def test_large_set_is_fetched_by_tcp(resolver: tuple[str, int]) -> None:
    assert _certificates(await _evidence("large@dns.example.org", resolver)) == set(LARGE)


@pytest.mark.parametrize("address", ["nobody@dns.example.org", "broken@dns.example.org"])
async def test_domain_in_dns_when_the_address_has_none(
    address: str, resolver: tuple[str, int]
) -> None:
    evidence = await _evidence(address, resolver)
    assert _certificates(evidence) == {DOMAIN}
    assert evidence.found[0].level is Level.DNS_DOMAIN


async def test_all_entries_of_an_address_in_ldap(resolver: tuple[str, int]) -> None:
    evidence = await _evidence("nurse@ldap.example.org", resolver)
    assert _certificates(evidence) == {NURSE, SECOND}
    assert [(step.level, step.outcome.partition(":")[0]) for step in evidence.steps] == [
        (Level.DNS_ADDRESS, "empty"),
        (Level.DNS_DOMAIN, "empty"),
        (Level.LDAP_ADDRESS, "found"),  # the servers
        (Level.LDAP_ADDRESS, "failed"),  # no such host
        (Level.LDAP_ADDRESS, "failed"),  # connection refused
        (Level.LDAP_ADDRESS, "empty"),  # CD-043: no entry here, the next is asked
        (Level.LDAP_ADDRESS, "found"),
    ]


@pytest.mark.parametrize("address", ["nobody@ldap.example.org", "empty@ldap.example.org"])
async def test_domain_in_ldap_comes_last(address: str, resolver: tuple[str, int]) -> None:
    evidence = await _evidence(address, resolver)
    assert _certificates(evidence) == {ORGANISATION}
    assert evidence.found[0].level is Level.LDAP_DOMAIN


async def test_filter_is_escaped(resolver: tuple[str, int]) -> None:
    """CD-048: the star of an address is no wildcard over "nurse"."""
    assert _certificates(await _evidence("n*e@ldap.example.org", resolver)) == {STAR}


async def test_strangers_records_do_not_lead_into_our_own_network(
    resolver: tuple[str, int],
) -> None:
    """T-43: the same SRV records, without leave to connect to loopback."""
    evidence = await _evidence("nurse@ldap.example.org", resolver, private=False)
    assert evidence.found == ()
    assert evidence.failure is None


async def test_resolver_that_does_not_answer_is_a_failure() -> None:
    silent = ("127.0.0.1", free_port())
    async with open_directory(resolver=silent, dns_lifetime_s=0.2) as directory:
        evidence = await directory.evidence_for(parse_address("drjones@dns.example.org"))
    assert evidence.failure is Reason.DIRECTORY_UNAVAILABLE
