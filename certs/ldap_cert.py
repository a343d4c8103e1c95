"""Certificates in LDAP: which servers to ask, in which order, and for what.

Pure.

Standards:
    CD      Certificate Discovery for Direct v4.1, section 2
    RFC2782 (SRV)
    RFC2798 section 9.1.2 (mail, userCertificate), RFC4523 section 2.1
    RFC4515 section 3 (filters)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import dns.name
from dns.rdata import Rdata
from dns.rdtypes.IN.SRV import SRV

from certs.address import DirectAddress

__all__ = ["ATTRIBUTES", "Server", "filter_for", "servers_in_order", "service_name"]

# CD-047: the bare name is what old servers hold the binary value under.
ATTRIBUTES: Final = ("userCertificate;binary", "userCertificate")
SERVERS: Final = 8  # asked at most, of one domain


@dataclass(frozen=True, slots=True)
class Server:
    """An LDAP server that a domain names."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def service_name(address: DirectAddress) -> dns.name.Name | None:
    """Return the name of the SRV record set (CD-040), None where it would be too long for one."""
    try:
        return dns.name.from_text(f"_ldap._tcp.{address.domain}")
    except dns.name.NameTooLong:
        return None


def servers_in_order(rdatas: Iterable[Rdata]) -> tuple[Server, ...]:
    """Return the servers to ask, first things first.

    RFC2782 draws among the servers of one priority at random, by weight. We always take the
    heaviest first, as both official test tools demand (CD-041, K-02). The target "." says that
    the domain has no such service.
    """
    records = [rdata for rdata in rdatas if isinstance(rdata, SRV)]
    records.sort(key=lambda srv: (srv.priority, -srv.weight, srv.target, srv.port))
    servers = (
        Server(srv.target.to_text(omit_final_dot=True).lower(), srv.port)
        for srv in records
        if srv.target != dns.name.root and srv.port
    )
    return tuple(dict.fromkeys(servers))[:SERVERS]


def filter_for(mail: str) -> str:
    """Return the search filter for an address, or a bare domain, in `mail` (CD-047)."""
    return f"(mail={''.join(_ESCAPES.get(character, character) for character in mail)})"


# RFC4515 3: what has a meaning in a filter is written as its octet (CD-048).
_ESCAPES: Final = {"*": r"\2a", "(": r"\28", ")": r"\29", "\\": r"\5c", "\0": r"\00"}
