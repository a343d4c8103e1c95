"""Which hosts take mail for a domain, in the order to try them, and at what addresses.

Talks to DNS. The order is made by a pure function.

Standards:
    RFC5321 section 5.1 (MX, preference, fallback to the domain itself)
    RFC7505 (null MX)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import dns.name
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.MX import MX

from certs.dns_client import DnsAnswer
from certs.errors import DirectError, Reason

__all__ = ["MxResolver", "NoMailError", "Records", "preferred"]

SMTP_PORT: Final = 25
# A domain may publish more hosts, and a host more addresses, than a queue has patience for.
HOSTS: Final = 10
ADDRESSES: Final = 5


class Records(Protocol):
    """DNS, as `certs.dns_client.DnsClient` gives it."""

    async def records(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        """Return a record set, empty where there is none."""
        ...

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a host that we may connect to."""
        ...


class NoMailError(DirectError):
    """The domain takes no mail, and will not; `status` is the enhanced code that says how."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(Reason.BACKBONE_REFUSED, detail)
        self.status = status


class MxResolver:
    """Mail routing by DNS."""

    def __init__(
        self,
        *,
        dns: Records,
        port: int = SMTP_PORT,
        shuffle: Callable[[list[str]], None] = random.shuffle,
    ) -> None:
        self._dns = dns
        self._port = port
        self._shuffle = shuffle

    async def mx(self, domain: str) -> Sequence[tuple[str, int]]:
        """Return the hosts to try for `domain`, in order, with their port.

        Raises:
            NoMailError: the domain says that it takes no mail (5.1.10).
            DirectError: DIRECTORY_UNAVAILABLE; DNS did not answer.
        """
        answer = await self._dns.records(dns.name.from_text(domain), RdataType.MX)
        records = [
            (record.preference, record.exchange.to_text(omit_final_dot=True))
            for record in answer.records
            if isinstance(record, MX)
        ]
        if not records:
            # RFC5321 5.1: without MX records the domain is its own mail host.
            return [(domain, self._port)]
        hosts = preferred(records, self._shuffle)
        if not hosts:
            raise NoMailError("5.1.10", f"{domain} has a null MX")  # RFC7505 3
        return [(host, self._port) for host in hosts]

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of `host` to try; empty where it has none.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE; DNS did not answer.
        """
        return (await self._dns.addresses(host))[:ADDRESSES]


def preferred(
    records: Iterable[tuple[int, str]], shuffle: Callable[[list[str]], None]
) -> Sequence[str]:
    """Return the hosts of (preference, host) in the order to try them, each once.

    RFC5321 5.1: lowest preference first; those of equal preference in random order. A null MX
    counts for nothing beside others (RFC7505 3), and alone leaves no host.
    """
    by_preference: dict[int, list[str]] = {}
    for preference, host in records:
        if host not in (".", ""):
            by_preference.setdefault(preference, []).append(host.lower())
    ordered: list[str] = []
    for preference in sorted(by_preference):
        hosts = by_preference[preference]
        shuffle(hosts)
        ordered += hosts
    return list(dict.fromkeys(ordered))[:HOSTS]
