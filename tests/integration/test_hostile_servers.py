"""Servers that strangers run: what they answer is refused in time, and never an error of ours."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from certs.address import parse_address
from certs.cache import CachingDirectory
from certs.directory import open_directory
from certs.dns_client import DnsClient
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Found, Level
from certs.http_client import HttpClient
from certs.issue import Locations
from certs.policy import CertificatePolicy
from gateway.dns_responder import DnsResponder
from tests.helpers.pki import NOW, Ca
from tests.helpers.servers import SUFFIX, Entry, knot, slapd
from tests.helpers.web import Exchange, Handler, web
from tests.helpers.zones import cert_record, srv_record, zone_of, zone_text
from trust_bundles.decision import decide
from trust_bundles.policy import Purpose

ADDRESS = parse_address("drjones@direct.example.org")
ROOT = Ca.create("Root")
BOUND = ROOT.issue(address=str(ADDRESS)).certificate


class Lying(DnsResponder):
    """As a resolver it refuses CERT; as the authority that is asked next, it answers `lie`."""

    def __init__(self, lie: Callable[[dns.message.Message], None] | None) -> None:
        super().__init__(zone_of(ADDRESS.domain, [cert_record("drjones", BOUND)]))
        self._lie = lie

    def answer(self, wire: bytes, *, limit_octets: int) -> bytes | None:
        query = dns.message.from_wire(wire)
        if query.question[0].rdtype is not dns.rdatatype.CERT:
            return super().answer(wire, limit_octets=limit_octets)
        response = dns.message.make_response(query)
        if self._lie is None or query.flags & dns.flags.RD:
            response.set_rcode(dns.rcode.REFUSED)
        else:
            self._lie(response)
        return response.to_wire(max_size=65535)


def circle(response: dns.message.Message) -> None:
    name = response.question[0].name
    for owner, target in ((name, "x.example.org."), ("x.example.org.", name)):
        response.answer.append(dns.rrset.from_text(owner, 60, "IN", "CNAME", str(target)))


def answer_of_what_is_not_there(response: dns.message.Message) -> None:
    name = response.question[0].name
    response.answer.append(dns.rrset.from_text(name, 60, "IN", "CERT", "PKIX 0 0 AAAA"))
    response.set_rcode(dns.rcode.NXDOMAIN)


def another_question(response: dns.message.Message) -> None:
    response.question = []


@pytest.mark.parametrize("lie", [None, circle, answer_of_what_is_not_there, another_question])
async def test_authority_that_lies_is_a_failure(
    lie: Callable[[dns.message.Message], None] | None,
) -> None:
    """CD-006, CD-027."""
    responder = Lying(lie)
    where = await responder.start()
    async with open_directory(
        resolver=where, allow_private=True, authority_port=where[1], deadline_s=10
    ) as directory:
        evidence = await directory.evidence_for(ADDRESS)
    await responder.stop()
    assert (evidence.found, evidence.failure) == ((), Reason.DIRECTORY_UNAVAILABLE)


async def test_domain_too_long_for_a_service_has_none() -> None:
    """CD-040; 248 octets, so that "_ldap._tcp." does not fit before it."""
    domain = ".".join(["a" * 60] * 4 + ["abcd"])
    responder = DnsResponder(zone_of("abcd", []))
    where = await responder.start()
    async with open_directory(resolver=where, allow_private=True) as directory:
        evidence = await directory.evidence_for(parse_address(f"u@{domain}"))
    await responder.stop()
    assert evidence.failure is None
    assert evidence.steps[-1].outcome == "skipped: domain is too long for a service"


@pytest.mark.parametrize("location", ["http://[x", "http://a:b/", "//", "ldap://x/", "file:///x"])
async def test_redirect_to_no_url_is_a_failure(location: str) -> None:
    async def sent_on(exchange: Exchange) -> None:
        await exchange.answer(b"", status="302 Found", headers=f"Location: {location}\r\n")

    async with web() as site:
        site.handlers["/"] = sent_on
        client = HttpClient(resolver=DnsClient(resolver=("127.0.0.1", 1), allow_private=True))
        with pytest.raises(DirectError) as caught:
            await client.get(site.url("/"))
        await client.aclose()
    assert caught.value.reason is Reason.DIRECTORY_UNAVAILABLE


@pytest.mark.parametrize(
    "url", ["ldap://127.0.0.1:{}/x", "file:///etc/passwd", "ftp://127.0.0.1:{}/"]
)
async def test_places_that_are_not_on_the_web_are_never_gone_to(url: str) -> None:
    """T-43: in CRL distribution points, in authorityInfoAccess."""
    knocks: list[object] = []
    door = await asyncio.start_server(lambda _, writer: knocks.append(writer), "127.0.0.1", 0)
    where = url.format(door.sockets[0].getsockname()[1])
    everywhere = Locations(crls=(where,), ocsp=(where,), issuers=(where,))
    middle = Ca.create("Middle", parent=ROOT)
    leaves = [ca.issue(address=str(ADDRESS), locations=everywhere) for ca in (ROOT, middle)]
    found = tuple(Found(leaf.certificate, Level.DNS_ADDRESS) for leaf in leaves)
    async with door, open_directory(resolver=("127.0.0.1", 1), allow_private=True) as directory:
        evidence = await directory.complete(
            Evidence(ADDRESS, found), [ROOT.certificate], now=NOW, policy=CertificatePolicy()
        )
    assert knocks == []
    assert evidence.revocation.crls == ()


async def test_referral_is_not_followed_and_many_certificates_are_cut_short(
    tmp_path: Path,
) -> None:
    """CD-050, with a real slapd: it refers to a place where nobody may be sent."""
    knocks: list[object] = []
    door = await asyncio.start_server(lambda _, writer: knocks.append(writer), "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    referral = (
        f"dn: ou=elsewhere,{SUFFIX}\nobjectClass: referral\nobjectClass: extensibleObject\n"
        f"ou: elsewhere\nref: ldap://127.0.0.1:{port}/{SUFFIX}\n"
    )
    many = [ROOT.issue(address=str(ADDRESS)).certificate for _ in range(60)]
    with ExitStack() as servers:
        entries = [Entry("jones", str(ADDRESS), many)]
        _, at = servers.enter_context(slapd(tmp_path / "slapd", entries, ldif=referral))
        records = [srv_record("ldap", at), "ldap IN A 127.0.0.1"]
        zones = {ADDRESS.domain: zone_text(ADDRESS.domain, records)}
        resolver = servers.enter_context(knot(tmp_path / "knot", zones))
        async with door, open_directory(resolver=resolver, allow_private=True) as directory:
            evidence = await directory.evidence_for(ADDRESS)
            nobody = await directory.evidence_for(parse_address(f"nobody@{ADDRESS.domain}"))
    assert knocks == []
    assert len(evidence.found) == 50
    assert (nobody.found, nobody.failure) == ((), None)


async def test_answer_about_one_address_is_never_anothers() -> None:
    """Cache poisoning: a level's answer is kept under the address that was asked for alone."""
    zone = zone_of(ADDRESS.domain, [cert_record("drjones", BOUND)])
    responder = DnsResponder(zone)
    where = await responder.start()
    async with open_directory(resolver=where, allow_private=True) as live:
        directory = CachingDirectory(live=live, clock=lambda: NOW, database=None)
        mine = await directory.evidence_for(ADDRESS)
        others = [
            await directory.evidence_for(parse_address(text))
            for text in (f"jones@{ADDRESS.domain}", f"drjones@x.{ADDRESS.domain}")
        ]
    await responder.stop()
    assert len(mine.found) == 1
    assert [evidence.found for evidence in others] == [(), ()]


async def dribble(exchange: Exchange) -> None:
    """An answer of an octet now and then, for as long as anybody listens."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not exchange.writer.is_closing():
        exchange.writer.write(b"\x30")
        await exchange.writer.drain()
        await asyncio.sleep(0.01)


async def flood(exchange: Exchange) -> None:
    """An answer without end."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not exchange.writer.is_closing():
        exchange.writer.write(b"\x30" * 65536)
        await exchange.writer.drain()


async def run_round(exchange: Exchange) -> None:
    """A redirect to itself."""
    location = f"Location: {exchange.path}\r\n"
    await exchange.answer(b"", status="302 Found", headers=location)


async def rubbish(exchange: Exchange) -> None:
    await exchange.answer(b"<html>" * 1000)


@pytest.mark.parametrize("handler", [dribble, flood, run_round, rubbish])
async def test_lists_responders_and_issuers_hold_nobody_up(handler: Handler) -> None:
    """T-25: ten leaves name them all; soft-fail decides in time, without an answer."""
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with web() as site:
        site.handlers.update(dict.fromkeys(("/crl", "/ocsp", "/issuer"), handler))
        where = Locations(
            crls=(site.url("/crl"),), ocsp=(site.url("/ocsp"),), issuers=(site.url("/issuer"),)
        )
        middle = Ca.create("Missing", parent=ROOT)
        leaves = [
            ca.issue(address=str(ADDRESS), locations=where).certificate
            for ca in (ROOT, middle)
            for _ in range(5)
        ]
        evidence = Evidence(ADDRESS, tuple(Found(leaf, Level.DNS_ADDRESS) for leaf in leaves))
        async with open_directory(
            resolver=("127.0.0.1", 1), allow_private=True, chains_s=0.5
        ) as directory:
            complete = await directory.complete(
                evidence, [ROOT.certificate], now=NOW, policy=CertificatePolicy()
            )
        assert time.monotonic() - started < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 1024  # KiB; a list may be 64 MiB
    assert complete.revocation.crls == ()
    assert complete.revocation.unreachable != ()
    verdicts = decide(
        ADDRESS, complete, [ROOT.certificate], purpose=Purpose.ENCRYPT, now=NOW
    ).verdicts
    assert [verdict.reason for verdict in verdicts] == [None] * 5 + [Reason.NOT_TRUSTED] * 5
