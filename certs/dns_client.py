"""DNS look-ups: one record set each.

Talks to a recursive resolver by UDP, and by TCP where the answer does not fit.

Standards:
    RFC1035, RFC6891 (EDNS), RFC7766 (TCP)
    AS  Applicability Statement for Secure Health Transport v1.3, section 5.4 (TCP)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver
from dns.rdata import Rdata
from dns.rdatatype import RdataType

from certs.errors import DirectError, Reason
from certs.targets import may_connect

__all__ = ["DnsAnswer", "DnsClient"]

ATTEMPT_S: Final = 3.0
LIFETIME_S: Final = 8.0
EDNS_OCTETS: Final = 1232  # What crosses every path unfragmented (CD-026).
NEGATIVE_TTL_S: Final = 300
SMTP_PORT: Final = 25


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """A record set, empty where the name or the type does not exist. `ttl_s` is in seconds."""

    records: tuple[Rdata, ...]
    ttl_s: int
    server: str


class DnsClient:
    """Asks `resolver` (address and port), or the system's resolvers where None.

    `lifetime_s` is in seconds, for one record set with all repetitions.
    """

    def __init__(
        self,
        *,
        resolver: tuple[str, int] | None = None,
        allow_private: bool = False,
        lifetime_s: float = LIFETIME_S,
    ) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=resolver is None)
        if resolver is not None:
            self._resolver.nameservers = [resolver[0]]
            self._resolver.port = resolver[1]
        self._resolver.timeout = min(ATTEMPT_S, lifetime_s)
        self._resolver.lifetime = lifetime_s
        self._resolver.use_edns(0, 0, EDNS_OCTETS)
        self._allow_private = allow_private

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
            return await self._resolve(name, kind, tcp=False)
        except dns.resolver.NoNameservers as error:
            # T-28: some answers break on their way by UDP in other ways than the TC bit.
            if not any(isinstance(entry[3], Exception) for entry in error.kwargs["errors"]):
                raise _unavailable(name, kind, error) from None
            return await self._by_tcp(name, kind)
        except dns.exception.DNSException as error:
            raise _unavailable(name, kind, error) from None

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

    async def mx(self, domain: str) -> Sequence[tuple[str, int]]:
        """Return the mail exchangers of a domain, best first, each with its port.

        A domain without MX records is its own exchanger (RFC5321 5.1); one with the null MX takes
        no mail (RFC7505) and has none.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE.
        """
        answer = await self.records(dns.name.from_text(domain), RdataType.MX)
        ranked = sorted(
            (getattr(record, "preference", 0), record.exchange)  # type: ignore[attr-defined]
            for record in answer.records
        )
        if not ranked:
            return [(domain, SMTP_PORT)]
        return [
            (exchange.to_text(omit_final_dot=True), SMTP_PORT)
            for _, exchange in ranked
            if exchange != dns.name.root
        ]

    async def _by_tcp(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        try:
            return await self._resolve(name, kind, tcp=True)
        except dns.exception.DNSException as error:
            raise _unavailable(name, kind, error) from None

    async def _resolve(self, name: dns.name.Name, kind: RdataType, *, tcp: bool) -> DnsAnswer:
        try:
            answer = await self._resolver.resolve(
                name, kind, tcp=tcp, raise_on_no_answer=False, search=False
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.YXDOMAIN):
            return DnsAnswer((), NEGATIVE_TTL_S, self.server)
        asked = f"{answer.nameserver}:{answer.port}"
        if answer.rrset is None:
            return DnsAnswer((), NEGATIVE_TTL_S, asked)
        return DnsAnswer(tuple(answer.rrset), answer.chaining_result.minimum_ttl, asked)


def _unavailable(
    name: dns.name.Name, kind: RdataType, error: dns.exception.DNSException
) -> DirectError:
    return DirectError(Reason.DIRECTORY_UNAVAILABLE, f"{kind.name} {name}: {_said(error)}")


def _said(error: dns.exception.DNSException) -> str:
    if isinstance(error, dns.exception.Timeout):
        return "timed out"
    if isinstance(error, dns.resolver.NoNameservers):
        return "; ".join(str(entry[3]) for entry in error.kwargs["errors"][-2:]) or "no answer"
    return type(error).__name__
