"""Everything that can be learnt about an address's certificates, from DNS, LDAP and the web.

Talks to DNS, LDAP and HTTP servers through its clients. It gathers evidence and judges nothing:
the order of questions is `certs.discovery`'s, the judgement is the trust decision's.

Standards:
    CD  Certificate Discovery for Direct v4.1
    AS  Applicability Statement for Secure Health Transport v1.3, chapters 4 and 5
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from time import monotonic
from typing import Final

from cryptography import x509
from dns.rdatatype import RdataType

from certs.address import DirectAddress
from certs.cert_files import certificates_in
from certs.chains import DEADLINE_S as CHAINS_S
from certs.chains import Chains
from certs.discovery import Answer, CertQuery, Discovery, LdapQuery, Query, ServersQuery
from certs.dns_cert import certificates_from, read_records
from certs.dns_client import DNS_PORT, LIFETIME_S, DnsClient
from certs.errors import DirectError
from certs.evidence import Evidence
from certs.http_client import HttpClient
from certs.issuer_source import IssuerSource
from certs.ldap_cert import servers_in_order
from certs.ldap_client import LdapClient
from certs.policy import CertificatePolicy
from certs.ports import Archive
from certs.revocation_source import RevocationSource

__all__ = ["LiveDirectory", "open_directory"]

DEADLINE_S: Final = 30.0  # CD-009: for one address, whatever its servers do
URLS: Final = 4  # IPKIX records followed in one set
CERTIFICATES: Final = 50  # looked at, of one server's
CERTIFICATE_OCTETS: Final = 64 * 1024


class LiveDirectory:
    """Implements `gateway.ports.Directory` by asking anew each time; `certs.cache` remembers."""

    def __init__(
        self,
        *,
        dns: DnsClient,
        ldap: LdapClient,
        http: HttpClient,
        archive: Archive | None = None,
        deadline_s: float = DEADLINE_S,
        chains_s: float = CHAINS_S,
    ) -> None:
        self._deadline_s = deadline_s
        self._dns = dns
        self._ldap = ldap
        self._http = http
        self._revocation = RevocationSource(http=http, archive=archive)
        issuers = IssuerSource(http=http, archive=archive)
        self._chains = Chains(issuers=issuers, revocation=self._revocation, deadline_s=chains_s)

    async def evidence_for(self, address: DirectAddress) -> Evidence:
        """Return all that can be learnt about `address`; a failed look-up is evidence too."""
        evidence, _ = await self.look_up(address)
        return evidence

    async def look_up(self, address: DirectAddress) -> tuple[Evidence, int | None]:
        """Return the evidence, and for how many seconds its source says that it holds."""
        search = Discovery(address)
        try:
            async with asyncio.timeout(self._deadline_s):
                while query := search.next_query():
                    search.answered(query, await self._ask(query))
        except TimeoutError:
            search.gave_up()
        return search.evidence(), search.ttl_s

    async def complete(
        self,
        evidence: Evidence,
        anchors: Sequence[x509.Certificate],
        *,
        now: datetime,
        policy: CertificatePolicy,
    ) -> Evidence:
        """Return `evidence` with what the trust decision needs: intermediates and revocation.

        For certificates that were found and for those a message carried, alike.
        """
        return await self._chains.complete(evidence, anchors, now=now, policy=policy)

    async def fetch_ahead(self, now: datetime) -> None:
        """Fetch anew the revocation lists that are in use and about to run out."""
        await self._revocation.fetch_ahead(now)

    def forget(self) -> None:
        """Forget chains and revocation answers; the archive is another's to empty."""
        self._chains.forget()
        self._revocation.forget()

    async def _ask(self, query: Query) -> Answer:
        start = monotonic()
        try:
            match query:
                case CertQuery():
                    answer = await self._ask_dns(query)
                case ServersQuery():
                    answer = await self._ask_servers(query)
                case LdapQuery():
                    answer = await self._ask_ldap(query)
        except DirectError as error:
            answer = Answer(failure=error.detail)
        return replace(answer, took_ms=(monotonic() - start) * 1000)

    async def _ask_dns(self, query: CertQuery) -> Answer:
        answer = await self._dns.records(query.name, RdataType.CERT)
        records = read_records(answer.records)
        fetched = await asyncio.gather(*map(self._fetch, records.urls[:URLS]))
        certificates = records.certificates + tuple(itertools.chain(*fetched))
        return Answer(certificates, asked=answer.server, ttl_s=answer.ttl_s)

    async def _ask_servers(self, query: ServersQuery) -> Answer:
        answer = await self._dns.records(query.name, RdataType.SRV)
        servers = servers_in_order(answer.records)
        return Answer(servers=servers, asked=answer.server, ttl_s=answer.ttl_s)

    async def _ask_ldap(self, query: LdapQuery) -> Answer:
        # CD-042: every address of a server is tried, the next where one cannot be reached.
        failure = None
        for address in await self._dns.addresses(query.server.host):
            try:
                values = await self._ldap.certificates(address, query.server.port, query.mail)
                found = certificates_from(values[:CERTIFICATES])
                return Answer(tuple(found), asked=f"{address}:{query.server.port}")
            except DirectError as error:
                failure = error
        if failure is not None:
            raise failure
        # A name without an address will have none at the next attempt either (CD-006).
        return Answer(failure="no address that may be connected to", transient=False)

    async def _fetch(self, url: str) -> tuple[x509.Certificate, ...]:
        # CD-024: where an IPKIX record leads nowhere, the other records still count.
        try:
            return certificates_in(await self._http.get(url, limit_octets=CERTIFICATE_OCTETS))
        except DirectError:
            return ()


@asynccontextmanager
async def open_directory(
    *,
    resolver: tuple[str, int] | None = None,
    allow_private: bool = False,
    dns_lifetime_s: float = LIFETIME_S,
    authority_port: int = DNS_PORT,
    archive: Archive | None = None,
    deadline_s: float = DEADLINE_S,
    chains_s: float = CHAINS_S,
) -> AsyncIterator[LiveDirectory]:
    """Open a directory that asks `resolver` (address and port), or the system's where None.

    `allow_private` lets strangers' records lead into loopback and private networks, as they do in
    a sandbox or an isolated network. `archive` keeps CRLs, OCSP answers and
    issuers across restarts.
    `deadline_s` is in seconds, for everything that is asked about one address; `chains_s` for what
    its certificates name: issuers, lists and responders.
    """
    dns = DnsClient(
        resolver=resolver,
        allow_private=allow_private,
        lifetime_s=dns_lifetime_s,
        authority_port=authority_port,
    )
    ldap, http = LdapClient(), HttpClient(resolver=dns)
    try:
        yield LiveDirectory(
            dns=dns,
            ldap=ldap,
            http=http,
            archive=archive,
            deadline_s=deadline_s,
            chains_s=chains_s,
        )
    finally:
        await http.aclose()
        ldap.close()
