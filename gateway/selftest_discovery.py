"""Discovery put to the test: the official cases and the hosting cases, on servers of our own.

Talks to itself: DNS, LDAP and HTTP on free ports of loopback. `direct-gateway selftest discovery`
runs it; the tests run the same cases against Knot and slapd.

Standards:
    DCDT    Direct Certificate Discovery Tool (ONC) 3.x, cases D1 to D18 and H1 to H4
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import dns.name
import dns.zone
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import parse_address
from certs.directory import LiveDirectory, open_directory
from certs.evidence import Found, Level
from certs.issue import (
    Issuer,
    KeyKind,
    Validity,
    ca_certificate,
    end_entity_certificate,
    generate_key,
)
from certs.policy import CertificatePolicy
from gateway.dcdt import SERVERS, Topology, build
from gateway.discovery_cases import run_cases
from gateway.dns_responder import DnsResponder
from gateway.ldap_responder import LdapResponder
from gateway.publish import LdapService, Publication, zone_text

__all__ = ["Row", "discovery_selftest"]

BASE: Final = "dcdt.example.org"
HOSTED: Final = "hosted-dns.example.org", "hosted-ldap.example.org"
LOOPBACK: Final = "127.0.0.1"
YEAR: Final = timedelta(days=365)
NOBODY: Final = "nobody"
REQUEST_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `chosen` and `expected` are names of certificates."""

    id: str
    why: str
    expected: str
    chosen: str
    reason: str
    passed: bool


async def discovery_selftest(now: datetime) -> Sequence[Row]:
    """Build the topology, run every case, and return the table.

    Making some thirty RSA keys takes seconds.
    """
    async with AsyncExitStack() as stack:
        servers = await _Servers.start(stack)
        topology = await asyncio.to_thread(
            build, BASE, now=now, ldap_ports=servers.ldap, web_port=servers.web, host=LOOPBACK
        )
        servers.serve_topology(topology)
        hosted = [_publication(domain, servers, now) for domain in HOSTED]
        servers.serve_hosted(*hosted)
        opening = open_directory(resolver=servers.resolver, allow_private=True)
        directory = await stack.enter_async_context(opening)
        rows = await _discovery_rows(topology, directory, now)
        return [*rows, *await _hosting_rows(hosted, directory)]


async def _discovery_rows(
    topology: Topology, directory: LiveDirectory, now: datetime
) -> Sequence[Row]:
    outcomes = await run_cases(topology, directory, now=now, policy=CertificatePolicy())
    return [
        Row(
            id=outcome.case.id,
            why=outcome.case.why,
            expected=outcome.case.expected or NOBODY,
            chosen=", ".join(outcome.chosen) or NOBODY,
            reason=outcome.decision.reason.code if outcome.decision.reason else "",
            passed=outcome.passed,
        )
        for outcome in outcomes
    ]


async def _hosting_rows(hosted: Sequence[Publication], directory: LiveDirectory) -> Sequence[Row]:
    """Look up what we publish ourselves, as the tool does."""
    rows = []
    for number, (level, why) in enumerate(_HOSTING.items(), 1):
        publication = hosted[0 if level in (Level.DNS_ADDRESS, Level.DNS_DOMAIN) else 1]
        by_address = level in (Level.DNS_ADDRESS, Level.LDAP_ADDRESS)
        _, certificate = publication.certificates[0 if by_address else 1]
        asked = parse_address(f"{'drjones' if by_address else 'nobody'}@{publication.domain}")
        evidence = await directory.evidence_for(asked)
        passed = evidence.found == (Found(certificate, level),)
        chosen = str(publication.domain if passed else NOBODY)
        rows.append(Row(f"H{number}", why, publication.domain, chosen, "", passed))
    return rows


def _publication(domain: str, servers: _Servers, now: datetime) -> Publication:
    """Return what a small domain publishes: one address's certificate and its own."""
    key = generate_key(KeyKind.P256)
    validity = Validity(now - YEAR, now + YEAR)
    ca = Issuer(ca_certificate(key, name=f"CA of {domain}", validity=validity), key)
    subjects = (parse_address(f"drjones@{domain}"), domain)
    certificates = [
        (
            subject,
            end_entity_certificate(key.public_key(), subject, issuer=ca, validity=validity),
        )
        for subject in subjects
    ]
    ldap = (LdapService(f"ldap.{BASE}", servers.ldap[SERVERS[0]]),)
    return Publication(domain, certificates, ldap=ldap)


@dataclass(slots=True)
class _Servers:
    """The running servers, and what they serve, which may change."""

    resolver: tuple[str, int]
    ldap: Mapping[str, int]
    web: int
    zones: dict[dns.name.Name, dns.zone.Zone]
    entries: Mapping[str, dict[str, list[bytes]]]
    files: dict[str, bytes]

    @classmethod
    async def start(cls, stack: AsyncExitStack) -> _Servers:
        zones: dict[dns.name.Name, dns.zone.Zone] = {}
        entries: dict[str, dict[str, list[bytes]]] = {server: {} for server in SERVERS}
        files: dict[str, bytes] = {}
        ports = {}
        for server in SERVERS:
            directory = LdapResponder(entries[server])
            _, ports[server] = await directory.start()
            stack.push_async_callback(directory.stop)
        responder = DnsResponder(zones)
        where = await responder.start()
        stack.push_async_callback(responder.stop)
        web = await stack.enter_async_context(_file_server(files))
        return cls(where, ports, web, zones, entries, files)

    def serve_topology(self, topology: Topology) -> None:
        self.files.update(topology.files)
        for origin, records in topology.zones.items():
            self._add_zone(origin, "\n".join(records))
        for server, entries in topology.entries.items():
            for entry in entries:
                self._add_entry(server, entry.mail, entry.certificate)

    def serve_hosted(self, in_dns: Publication, in_ldap: Publication) -> None:
        self._add_zone(in_dns.domain, zone_text(in_dns))
        self._add_zone(in_ldap.domain, zone_text(replace(in_ldap, certificates=())))
        for subject, certificate in in_ldap.certificates:
            self._add_entry(SERVERS[0], str(subject), certificate)

    def _add_zone(self, origin: str, records: str) -> None:
        head = "$TTL 300\n@ IN SOA ns1 hostmaster 1 3600 600 86400 60\n@ IN NS ns1\n"
        zone = dns.zone.from_text(head + records, origin=origin, relativize=False)
        self.zones[dns.name.from_text(origin)] = zone

    def _add_entry(self, server: str, mail: str, certificate: x509.Certificate) -> None:
        der = certificate.public_bytes(Encoding.DER)
        self.entries[server].setdefault(mail.lower(), []).append(der)


@asynccontextmanager
async def _file_server(files: Mapping[str, bytes]) -> AsyncIterator[int]:
    """Serve the files by their path over HTTP; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode("ascii", "replace")
            status, body = ("200 OK", files[path]) if path in files else ("404 Not Found", b"")
            answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(answer.encode("ascii") + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


_HOSTING: Final = {
    Level.DNS_ADDRESS: "our address-bound certificate is found in DNS",
    Level.DNS_DOMAIN: "our domain-bound certificate is found in DNS",
    Level.LDAP_ADDRESS: "our address-bound certificate is found in LDAP",
    Level.LDAP_DOMAIN: "our domain-bound certificate is found in LDAP",
}
