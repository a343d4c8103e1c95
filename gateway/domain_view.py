"""What the world sees of one domain: its records, its directory, its mail hosts, its policies.

Talks to DNS, LDAP, SMTP and HTTPS servers, as any other HISP would. It gathers and judges nothing:
`gateway.domain_check` does.

Standards:
    CD      Certificate Discovery for Direct v4.1, section 2
    RFC3207 (STARTTLS), RFC8461 (MTA-STS), RFC8460 section 3 (TLS-RPT)
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import dns.name
from cryptography import x509
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.TXT import TXT

from certs.address import parse_address
from certs.dns_cert import address_name, certificates_from, read_records
from certs.dns_client import DnsAnswer, DnsClient
from certs.errors import DirectError
from certs.issuers import sha256_of
from certs.ldap_cert import Server, servers_in_order
from certs.ldap_client import LdapClient
from certs.profile import extensions_of
from gateway.domain_check import Seen, Sts, Tls, View, Wanted
from gateway.mta_sts import parse_policy, policy_id
from gateway.mx import MxResolver
from gateway.smtp_client import BrokenError, PeerError, SmtpClient, Timeouts
from gateway.sts_policies import StsFetch, fetch_policy
from gateway.tls import unverified_context

__all__ = ["PublicView"]

T = TypeVar("T")

AT_ONCE: Final = 20
FETCH_S: Final = 15.0
TIMEOUTS: Final = Timeouts(connect_s=10.0, handshake_s=10.0, command_s=15.0)


class PublicView:
    """Looks at a domain from outside. `hostname` is what we call ourselves in EHLO.

    `mail` finds the mail hosts and their addresses; `verifying` is the context that tells whether
    a host's certificate is by a public CA.
    """

    def __init__(
        self,
        *,
        dns: DnsClient,
        ldap: LdapClient,
        http: StsFetch,
        mail: MxResolver,
        hostname: str,
        verifying: ssl.SSLContext,
    ) -> None:
        self._dns = dns
        self._ldap = ldap
        self._http = http
        self._mail = mail
        self._hostname = hostname
        self._verifying = verifying
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def of(self, wanted: Wanted) -> View:
        """Return what is seen; what cannot be seen is a failure in it."""
        subjects = list(wanted.certificates)
        certificates, by_tcp, (ldap, entries), (hosts, tls), sts, report = await asyncio.gather(
            self._each(subjects, self._certificates),
            self._each(subjects, self._at_authorities),
            self._directory(wanted.domain, subjects),
            self._hosts(wanted.domain),
            self._sts(wanted.domain),
            self._texts(f"_smtp._tls.{wanted.domain}"),
        )
        reports = tuple(text for text in report.values if text.startswith("v=TLSRPTv1"))
        return View(
            certificates=certificates,
            by_tcp={
                (subject, server): seen
                for subject, servers in by_tcp.items()
                for server, seen in servers.items()
            },
            mail_hosts=hosts,
            tls=tls,
            ldap=ldap,
            entries=entries,
            sts=sts,
            tls_report=Seen(reports, report.failure),
        )

    async def _each(
        self, subjects: Iterable[str], look: Callable[[dns.name.Name], Awaitable[T]]
    ) -> Mapping[str, T]:
        names = {subject: _name(subject) for subject in subjects}
        # CD-021: an address that is no DNS name is for LDAP only.
        known = [(subject, name) for subject, name in names.items() if name is not None]

        async def one(name: dns.name.Name) -> T:
            async with self._gate:
                return await look(name)

        answers = await asyncio.gather(*(one(name) for _, name in known))
        return {subject: answer for (subject, _), answer in zip(known, answers, strict=True)}

    async def _certificates(self, name: dns.name.Name) -> Seen:
        try:
            return _digests(await self._dns.records(name, RdataType.CERT))
        except DirectError as error:
            return Seen(failure=error.detail)

    async def _at_authorities(self, name: dns.name.Name) -> Mapping[str, Seen]:
        try:
            answers = await self._dns.at_authorities(name, RdataType.CERT)
        except DirectError as error:
            return {"the name servers": Seen(failure=error.detail)}
        return {
            server: Seen(failure=heard.detail)
            if isinstance(heard, DirectError)
            else _digests(heard)
            for server, heard in answers
        }

    async def _directory(
        self, domain: str, subjects: Sequence[str]
    ) -> tuple[Seen, Mapping[tuple[str, str], Seen]]:
        try:
            name = dns.name.from_text(f"_ldap._tcp.{domain}")
            answer = await self._dns.records(name, RdataType.SRV)
        except (DirectError, dns.name.NameTooLong) as error:
            return Seen(failure=str(error)), {}
        servers = servers_in_order(answer.records)
        pairs = [(subject, server) for server in servers for subject in subjects]
        entries = await asyncio.gather(*(self._entry(*pair) for pair in pairs))
        by_pair = {(s, str(server)): e for (s, server), e in zip(pairs, entries, strict=True)}
        return Seen(tuple(map(str, servers))), by_pair

    async def _entry(self, subject: str, server: Server) -> Seen:
        async with self._gate:
            try:
                addresses = await self._dns.addresses(server.host)
                if not addresses:
                    return Seen(failure="no address that may be connected to")
                values = await self._ldap.certificates(addresses[0], server.port, subject)
            except DirectError as error:
                return Seen(failure=error.detail)
        return Seen(tuple(sha256_of(cert).hex() for cert in certificates_from(values)))

    async def _hosts(self, domain: str) -> tuple[Seen, Mapping[str, Sequence[Tls]]]:
        try:
            found = await self._mail.mx(domain)
        except DirectError as error:
            return Seen(failure=error.detail), {}
        servers = await asyncio.gather(*(self._servers(host, port) for host, port in found))
        hosts = tuple(host for host, _ in found)
        return Seen(hosts), dict(zip(hosts, servers, strict=True))

    async def _servers(self, host: str, port: int) -> Sequence[Tls]:
        try:
            addresses = await self._mail.addresses(host)
        except DirectError as error:
            return [Tls(host, failure=error.detail)]
        return await asyncio.gather(*(self._server(host, one, port) for one in addresses))

    async def _server(self, host: str, address: str, port: int) -> Tls:
        try:
            try:
                return await self._handshake(host, address, port, self._verifying)
            except ssl.SSLError:
                return await self._handshake(host, address, port, unverified_context())
        except (BrokenError, PeerError, ssl.SSLError) as error:
            return Tls(address, failure=str(error))

    async def _handshake(self, host: str, address: str, port: int, context: ssl.SSLContext) -> Tls:
        client = await SmtpClient.connect(address, port, hostname=self._hostname, timeouts=TIMEOUTS)
        try:
            if "starttls" not in client.offers:
                return Tls(address)
            await client.start_tls(context, host)
            verified = context.verify_mode is ssl.CERT_REQUIRED
            return _shown(address, client.tls, client.peer_certificate, verified=verified)
        finally:
            await client.quit()

    async def _sts(self, domain: str) -> Sts:
        texts = await self._texts(f"_mta-sts.{domain}")
        if texts.failure is not None:
            return Sts(failure=texts.failure)
        announced = any(text.startswith("v=STSv1") for text in texts.values)
        if policy_id(texts.values) is None:
            return Sts(announced, failure="TXT record is not valid" if announced else None)
        try:
            text = await fetch_policy(self._http, domain, deadline_s=FETCH_S)
            return Sts(announced, parse_policy(text))
        except DirectError as error:
            return Sts(announced, failure=error.detail)

    async def _texts(self, name: str) -> Seen:
        try:
            answer = await self._dns.records(dns.name.from_text(name), RdataType.TXT)
        except (DirectError, dns.name.NameTooLong) as error:
            return Seen(failure=str(error))
        return Seen(tuple(_text(record) for record in answer.records if isinstance(record, TXT)))


def _name(subject: str) -> dns.name.Name | None:
    if "@" in subject:
        return address_name(parse_address(subject))
    return dns.name.from_text(subject)


def _digests(answer: DnsAnswer) -> Seen:
    found = read_records(answer.records).certificates
    return Seen(tuple(sha256_of(cert).hex() for cert in found))


def _text(record: TXT) -> str:
    return b"".join(record.strings).decode("ascii", "replace")


def _shown(address: str, version: str | None, encoded: bytes, *, verified: bool) -> Tls:
    try:
        cert = x509.load_der_x509_certificate(encoded)
        found = extensions_of(cert).get_extension_for_class(x509.SubjectAlternativeName)
        names, expires = found.value.get_values_for_type(x509.DNSName), cert.not_valid_after_utc
    except (DirectError, ValueError, x509.ExtensionNotFound):
        return Tls(address, version, verified=verified)
    return Tls(address, version, tuple(names), expires, verified)
