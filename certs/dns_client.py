"""DNS look-ups: one record set each.

Talks to a recursive resolver by UDP, and by TCP where the answer does not fit.

Standards:
    RFC1035, RFC6891 (EDNS), RFC7766 (TCP)
    AS  Applicability Statement for Secure Health Transport v1.3, section 5.4 (TCP)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.resolver
from dns.rcode import Rcode
from dns.rdata import Rdata
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.NS import NS

from certs.errors import DirectError, Reason
from certs.targets import may_connect

__all__ = ["DnsAnswer", "DnsClient"]

ATTEMPT_S: Final = 3.0
LIFETIME_S: Final = 8.0
UDP_SHARE: Final = 0.6  # of the lifetime; the rest is for TCP
EDNS_OCTETS: Final = 1232  # What crosses every path unfragmented (CD-026).
NEGATIVE_TTL_S: Final = 300
AUTHORITIES: Final = 3  # name servers of a zone that are asked
AUTHORITY_ADDRESSES: Final = 6
DNS_PORT: Final = 53

# CD-027: intermediaries that do not know CERT say so in one of these ways.
_UNWILLING: Final = ("REFUSED", "NOTIMP")


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """A record set, empty where the name or the type does not exist. `ttl_s` is in seconds."""

    records: tuple[Rdata, ...]
    ttl_s: int
    server: str


class DnsClient:
    """Asks `resolver` (address and port), or the system's resolvers where None.

    `lifetime_s` is in seconds, for one record set with all repetitions. `authority_port` is where
    the name servers of a zone listen.
    """

    def __init__(
        self,
        *,
        resolver: tuple[str, int] | None = None,
        allow_private: bool = False,
        lifetime_s: float = LIFETIME_S,
        authority_port: int = DNS_PORT,
    ) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=resolver is None)
        if resolver is not None:
            self._resolver.nameservers = [resolver[0]]
            self._resolver.port = resolver[1]
        self._resolver.timeout = min(ATTEMPT_S, lifetime_s * UDP_SHARE / 2)
        self._lifetime_s = lifetime_s
        self._resolver.use_edns(0, 0, EDNS_OCTETS)
        self._allow_private = allow_private
        self._authority_port = authority_port

    @property
    def server(self) -> str:
        """The resolver that is asked first, with its port."""
        return f"{self._resolver.nameservers[0]}:{self._resolver.port}"

    async def records(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        """Return the record set; aliases are followed.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE; no answer in time, or one such as SERVFAIL.
        """
        try:
            return await self._resolve(name, kind)
        except dns.resolver.NoNameservers as error:
            said = [entry[3] for entry in error.kwargs["errors"]]
        except dns.exception.Timeout as error:
            said = [error]
        except dns.exception.DNSException as error:
            raise _unavailable(name, kind, _said(error)) from None
        if any(word in _UNWILLING for word in said):
            return await self._by_authority(name, kind)
        # T-28: some answers break or are lost by UDP in other ways than the TC bit tells.
        if any(isinstance(word, Exception) for word in said):
            return await self._by_tcp(name, kind)
        raise _unavailable(name, kind, str(said[-1]) if said else "no answer")

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the IP addresses of a host named by a stranger, those we may connect to.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE; its addresses cannot be learnt now.
        """
        if may_connect(host, allow_private=self._allow_private):
            return [host]
        try:
            name = dns.name.from_text(host)
        except dns.exception.DNSException:
            return []
        texts = [
            record.to_text()
            for kind in (RdataType.A, RdataType.AAAA)
            for record in (await self.records(name, kind)).records
        ]
        return [text for text in texts if may_connect(text, allow_private=self._allow_private)]

    async def at_authorities(
        self, name: dns.name.Name, kind: RdataType
    ) -> Sequence[tuple[str, DnsAnswer | DirectError]]:
        """Return what each name server of the zone says by TCP, or why it said nothing.

        This is what the world is told, whatever a resolver remembers.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE; which servers there are cannot be learnt now.
        """
        addresses = await self._authorities(name)
        answers = await asyncio.gather(
            *(self._ask_one(address, name, kind, tcp=True) for address in addresses),
            return_exceptions=True,
        )
        heard: list[tuple[str, DnsAnswer | DirectError]] = []
        for address, answer in zip(addresses, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, DirectError):
                raise answer
            heard.append((f"{address}:{self._authority_port}", answer))
        return heard

    async def _by_tcp(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        try:
            return await self._resolve(name, kind, tcp=True)
        except dns.exception.DNSException as error:
            raise _unavailable(name, kind, _said(error)) from None

    async def _by_authority(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        """Ask the name servers of the zone, past an intermediary that is not willing (CD-027)."""
        failure = _unavailable(name, kind, "refused")
        for address in await self._authorities(name):
            try:
                return await self._ask_one(address, name, kind)
            except DirectError as error:
                failure = error
        raise failure

    async def _ask_one(
        self, address: str, name: dns.name.Name, kind: RdataType, *, tcp: bool = False
    ) -> DnsAnswer:
        """Return what one name server says of its own zone.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE; nothing, or that it will not.
        """
        query = dns.message.make_query(name, kind, use_edns=0, payload=EDNS_OCTETS)
        query.flags &= ~dns.flags.RD
        try:
            if tcp:
                response = await dns.asyncquery.tcp(
                    query, address, timeout=ATTEMPT_S, port=self._authority_port
                )
            else:
                response, _ = await dns.asyncquery.udp_with_fallback(
                    query, address, timeout=ATTEMPT_S, port=self._authority_port
                )
            answered = response.rcode() in (Rcode.NOERROR, Rcode.NXDOMAIN)
            if not answered or not isinstance(response, dns.message.QueryMessage):
                raise _unavailable(name, kind, response.rcode().name)
            chain = response.resolve_chaining()
        except (dns.exception.DNSException, OSError) as error:
            raise _unavailable(name, kind, type(error).__name__) from None
        server = f"{address}:{self._authority_port}"
        return DnsAnswer(tuple(chain.answer or ()), chain.minimum_ttl, server)

    async def _authorities(self, name: dns.name.Name) -> Sequence[str]:
        """Return addresses of the name servers of the zone that `name` is in."""
        zone = name
        while zone != dns.name.root:
            try:
                found = (await self._resolve(zone, RdataType.NS)).records
            except dns.exception.DNSException:
                found = ()
            servers = [record.target for record in found if isinstance(record, NS)]
            if servers:
                hosts = [server.to_text(omit_final_dot=True) for server in servers[:AUTHORITIES]]
                addresses = [one for host in hosts for one in await self.addresses(host)]
                return addresses[:AUTHORITY_ADDRESSES]
            zone = zone.parent()
        return []

    async def _resolve(
        self, name: dns.name.Name, kind: RdataType, *, tcp: bool = False
    ) -> DnsAnswer:
        share = 1 - UDP_SHARE if tcp else UDP_SHARE
        try:
            answer = await self._resolver.resolve(
                name,
                kind,
                tcp=tcp,
                raise_on_no_answer=False,
                search=False,
                lifetime=self._lifetime_s * share,
            )
        except dns.resolver.NXDOMAIN as error:
            return DnsAnswer((), _negative_ttl_s(error), self.server)
        except dns.resolver.YXDOMAIN:
            return DnsAnswer((), NEGATIVE_TTL_S, self.server)
        records = tuple(answer.rrset or ())
        ttl_s = answer.chaining_result.minimum_ttl
        return DnsAnswer(records, ttl_s, f"{answer.nameserver}:{answer.port}")


def _negative_ttl_s(error: dns.resolver.NXDOMAIN) -> int:
    # RFC2308 5: as long as the zone's SOA record says.
    chains = [response.resolve_chaining() for response in error.kwargs["responses"].values()]
    return min([chain.minimum_ttl for chain in chains], default=NEGATIVE_TTL_S)


def _unavailable(name: dns.name.Name, kind: RdataType, detail: str) -> DirectError:
    return DirectError(Reason.DIRECTORY_UNAVAILABLE, f"{kind.name} {name}: {detail}")


def _said(error: dns.exception.DNSException) -> str:
    return "timed out" if isinstance(error, dns.exception.Timeout) else type(error).__name__
