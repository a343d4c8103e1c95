"""The order in which an address's certificates are looked for, as a machine without I/O.

Pure. Ask `next_query`, put the question to a DNS or LDAP server, tell `answered`, and so on until
there is no next query. What was found is not judged here: the first level that yields any
certificate ends the search, even when none of them turns out usable (CD-003).

Standards:
    CD  Certificate Discovery for Direct v4.1, section 2
    AS  Applicability Statement for Secure Health Transport v1.3, section 5.3
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import dns.name
from cryptography import x509

from certs.address import DirectAddress
from certs.dns_cert import address_name, domain_name
from certs.errors import Reason
from certs.evidence import Evidence, Found, Level, Step
from certs.ldap_cert import Server, service_name

__all__ = [
    "Answer",
    "CertQuery",
    "Discovery",
    "LdapQuery",
    "Query",
    "ServersQuery",
]


@dataclass(frozen=True, slots=True)
class CertQuery:
    """Ask the DNS for CERT records at a name."""

    level: Level
    name: dns.name.Name

    def __str__(self) -> str:
        return f"CERT {self.name}"


@dataclass(frozen=True, slots=True)
class ServersQuery:
    """Ask the DNS which LDAP servers the domain has."""

    level: Level
    name: dns.name.Name

    def __str__(self) -> str:
        return f"SRV {self.name}"


@dataclass(frozen=True, slots=True)
class LdapQuery:
    """Ask one LDAP server for entries whose `mail` is the address or the bare domain."""

    level: Level
    server: Server
    mail: str

    def __str__(self) -> str:
        return f"ldap://{self.server} mail={self.mail}"


Query = CertQuery | ServersQuery | LdapQuery


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a query.

    `failure` None means that it was answered, if only with nothing. `transient` says that a failure
    may pass: time-out, SERVFAIL, connection refused (CD-006). `ttl_s` is in seconds, None where
    the source says nothing of it; `took_ms` is in milliseconds.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    servers: tuple[Server, ...] = ()
    failure: str | None = None
    transient: bool = True
    asked: str = ""
    ttl_s: int | None = None
    took_ms: float = 0.0


@dataclass(slots=True)
class Discovery:
    """One search for the certificates of one address."""

    address: DirectAddress
    found: tuple[Found, ...] = ()
    steps: list[Step] = field(default_factory=list)
    ttl_s: int | None = None
    _failed: bool = False
    _servers: tuple[Server, ...] = ()
    _dead: set[Server] = field(default_factory=set)
    _queries: Iterator[Query] = field(init=False)

    def __post_init__(self) -> None:
        self._queries = self._in_order()

    def next_query(self) -> Query | None:
        """Return the next question, or None where the search is over."""
        return None if self.found else next(self._queries, None)

    def answered(self, query: Query, answer: Answer) -> None:
        """Take the answer to the query that `next_query` returned last."""
        self.found = tuple(Found(cert, query.level) for cert in answer.certificates)
        if answer.failure is not None:
            self._failed = self._failed or answer.transient
            if isinstance(query, LdapQuery):
                self._dead.add(query.server)
        elif isinstance(query, ServersQuery):
            self._servers = answer.servers
        self._take_ttl(answer)
        self._record(query, answer)

    def gave_up(self) -> None:
        """Take that there was no time for the rest."""
        self._failed = True

    def evidence(self) -> Evidence:
        """Return what was learnt so far."""
        # CD-006: nothing found and somebody did not answer is not the same as nothing there.
        unsure = self._failed and not self.found
        failure = Reason.DIRECTORY_UNAVAILABLE if unsure else None
        return Evidence(self.address, self.found, tuple(self.steps), failure=failure)

    def _take_ttl(self, answer: Answer) -> None:
        # What was found holds as long as its set; that nothing is there, as the briefest "no".
        if answer.certificates or self.ttl_s is None:
            self.ttl_s = answer.ttl_s
        elif answer.ttl_s is not None:
            self.ttl_s = min(self.ttl_s, answer.ttl_s)

    def _in_order(self) -> Iterator[Query]:
        # CD-002: address in DNS, domain in DNS, address in LDAP, domain in LDAP.
        name = address_name(self.address)
        if name is None:
            self._skip(Level.DNS_ADDRESS, str(self.address), "address is no DNS name")
        else:
            yield CertQuery(Level.DNS_ADDRESS, name)
        yield CertQuery(Level.DNS_DOMAIN, domain_name(self.address))
        service = service_name(self.address)
        if service is None:
            self._skip(Level.LDAP_ADDRESS, self.address.domain, "domain is too long for a service")
            return
        yield ServersQuery(Level.LDAP_ADDRESS, service)
        yield from self._ask_servers(Level.LDAP_ADDRESS, str(self.address))
        yield from self._ask_servers(Level.LDAP_DOMAIN, self.address.domain)

    def _ask_servers(self, level: Level, mail: str) -> Iterator[Query]:
        # CD-043: a server without an entry does not end the level, only a certificate does.
        for server in self._servers:
            query = LdapQuery(level, server, mail)
            if server in self._dead:
                self._skip(level, str(query), "server failed before", str(server))
            else:
                yield query

    def _skip(self, level: Level, query: str, why: str, server: str = "") -> None:
        self.steps.append(Step(level, query, server, f"skipped: {why}", 0, 0.0))

    def _record(self, query: Query, answer: Answer) -> None:
        if answer.failure is not None:
            outcome = f"failed: {answer.failure}"
        else:
            outcome = "found" if answer.certificates or answer.servers else "empty"
        count = len(answer.certificates)
        step = Step(query.level, str(query), answer.asked, outcome, count, answer.took_ms)
        self.steps.append(step)
