"""A small authoritative DNS server, for the sandbox and for tests on loopback.

Talks DNS over UDP and TCP. It serves dnspython zones from memory, knows no recursion and signs
nothing; a real domain is published with a real name server (`direct-gateway cert publish`).

Standards:
    RFC1034 section 4.3.2 (answering), RFC2308 (negative answers)
    RFC7766 (TCP), RFC6891 (EDNS)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.zone
from dns.rrset import RRset

__all__ = ["DnsResponder"]

CLASSIC_OCTETS: Final = 512
EDNS_OCTETS: Final = 1232
ALIASES: Final = 8
IDLE_S: Final = 10.0


class DnsResponder:
    """Serves `zones`, by their origin; the mapping may be changed while it runs.

    The zones hold absolute names: `dns.zone.from_text(..., relativize=False)`.
    """

    def __init__(self, zones: Mapping[dns.name.Name, dns.zone.Zone]) -> None:
        self._zones = zones
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen on UDP and TCP of one port; 0 takes a free one. Return where."""
        self._tcp = await asyncio.start_server(self._serve_tcp, host, port)
        bound: int = self._tcp.sockets[0].getsockname()[1]
        self._udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Udp(self), (host, bound)
        )
        return host, bound

    async def stop(self) -> None:
        """Stop listening."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
            await self._tcp.wait_closed()

    def answer(self, wire: bytes, *, limit_octets: int) -> bytes | None:
        """Return the answer to one message, truncated to fit; None where it is no query."""
        try:
            query = dns.message.from_wire(wire)
            response = dns.message.make_response(query)
        except (dns.exception.DNSException, ValueError):
            return None
        self._fill(query, response)
        limit = limit_octets
        if limit == CLASSIC_OCTETS and query.edns >= 0:
            limit = max(CLASSIC_OCTETS, min(query.payload, EDNS_OCTETS))
        try:
            return response.to_wire(max_size=limit)
        except dns.exception.TooBig:
            # RFC2181 9: an answer that does not fit is asked for again over TCP.
            empty = dns.message.make_response(query)
            empty.flags |= dns.flags.TC | dns.flags.AA
            return empty.to_wire()

    def _fill(self, query: dns.message.Message, response: dns.message.Message) -> None:
        name, kind = query.question[0].name, query.question[0].rdtype
        zone = self._zone_of(name)
        if zone is None:
            response.set_rcode(dns.rcode.REFUSED)
            return
        response.flags |= dns.flags.AA
        for _ in range(ALIASES):
            found = _rrset(zone, name, kind)
            alias = _rrset(zone, name, dns.rdatatype.CNAME)
            if found is not None or alias is None:
                break
            response.answer.append(alias)
            name = alias[0].target
        if found is not None:
            response.answer.append(found)
        else:
            self._deny(zone, name, response)

    def _deny(
        self, zone: dns.zone.Zone, name: dns.name.Name, response: dns.message.Message
    ) -> None:
        # RFC8020: a name with names below it exists, if only as an empty one.
        if not any(owner.is_subdomain(name) for owner in _owners(zone)):
            response.set_rcode(dns.rcode.NXDOMAIN)
        soa = _rrset(zone, cast(dns.name.Name, zone.origin), dns.rdatatype.SOA)
        if soa is not None:
            response.authority.append(soa)

    def _zone_of(self, name: dns.name.Name) -> dns.zone.Zone | None:
        while name != dns.name.root:
            if name in self._zones:
                return self._zones[name]
            name = name.parent()
        return None

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(IDLE_S):
                while True:
                    length = int.from_bytes(await reader.readexactly(2))
                    answer = self.answer(await reader.readexactly(length), limit_octets=65535)
                    if answer is None:
                        break
                    writer.write(len(answer).to_bytes(2) + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            return
        finally:
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, responder: DnsResponder) -> None:
        self._responder = responder

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._responder.answer(data, limit_octets=CLASSIC_OCTETS)
        if answer is not None:
            self._transport.sendto(answer, addr)


def _rrset(zone: dns.zone.Zone, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> RRset | None:
    try:
        return zone.get_rrset(name, kind)
    except KeyError:
        return None


def _owners(zone: dns.zone.Zone) -> list[dns.name.Name]:
    origin = cast(dns.name.Name, zone.origin)
    return [owner.derelativize(origin) for owner in zone.nodes]
