"""Looks TLSA records up, and believes them only where DNSSEC vouches for every step.

Talks to a validating resolver on this machine: its AD flag is the proof, and between it and us
nobody must be able to set it.

Standards:
    RFC7672 sections 2.1.2 (failures) and 2.2 (the MX must be secure as well)
    RFC4035 section 3.2.3 (AD) · RFC6698 section 3 (owner name)
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.resolver
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.TLSA import TLSA

from certs.errors import DirectError, Reason
from gateway.dane import Tlsa

__all__ = ["DaneClient"]

LIFETIME_S: Final = 8.0
EDNS_OCTETS: Final = 1232
RECORDS: Final = 20


class DaneClient:
    """Asks the validating resolver at `resolver`, an address of this machine, and its port."""

    def __init__(self, *, resolver: tuple[str, int]) -> None:
        if not _is_loopback(resolver[0]):
            detail = "DANE needs a validating resolver on a loopback address"
            raise DirectError(Reason.CONFIGURATION_INVALID, detail)
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers = [resolver[0]]
        self._resolver.port = resolver[1]
        self._resolver.lifetime = LIFETIME_S
        self._resolver.use_edns(0, dns.flags.DO, EDNS_OCTETS)
        self._resolver.flags = dns.flags.RD | dns.flags.AD

    async def associations(self, domain: str, host: str, port: int) -> Sequence[Tlsa]:
        """Return the TLSA records of a host, none where any step to them is not secure.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE; the zones are signed, or may be, and there is no
                trustworthy answer.
        """
        if not await self._is_secure(domain, RdataType.MX):
            return ()
        # RFC7672 2.2.2: a host in an unsigned zone can have no secure TLSA records.
        if not await self._is_secure(host, RdataType.A):
            return ()
        answer = await self._ask(f"_{port}._tcp.{host}", RdataType.TLSA)
        if answer is None or not answer.response.flags & dns.flags.AD:
            return ()
        return [
            Tlsa(record.usage, record.selector, record.mtype, record.cert)
            for record in answer
            if isinstance(record, TLSA)
        ][:RECORDS]

    async def _is_secure(self, name: str, kind: RdataType) -> bool:
        answer = await self._ask(name, kind)
        return answer is not None and bool(answer.response.flags & dns.flags.AD)

    async def _ask(self, name: str, kind: RdataType) -> dns.resolver.Answer | None:
        try:
            return await self._resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return None
        except dns.exception.DNSException as error:
            # RFC7672 2.1.2: a bogus answer, or none, is a reason to wait, not to go on without.
            detail = f"{kind.name} {name}: {type(error).__name__}"
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, detail) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
