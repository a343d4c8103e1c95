"""How fast are certificates found and judged? Rows for `direct-gateway bench`.

Talks DNS to itself, on a free port of loopback.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dns.name
import dns.zone
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import DirectAddress, parse_address
from certs.cache import CachingDirectory
from certs.crl import read_crl
from certs.directory import LiveDirectory, open_directory
from certs.evidence import Evidence, Found, Level
from certs.issue import (
    Issuer,
    KeyKind,
    Validity,
    ca_certificate,
    end_entity_certificate,
    generate_key,
)
from gateway.bench_crl import FIRST_SERIAL, large_crl
from gateway.dns_responder import DnsResponder
from trust_bundles.anchors import Anchors
from trust_bundles.decision import decide
from trust_bundles.policy import Purpose
from trust_bundles.verdicts import VerdictCache

__all__ = ["DiscoveryRow", "measure_discovery"]

DOMAIN: Final = "direct.lakeview.example"
ADDRESSES: Final = 1000
AT_ONCE: Final = 100
REPEATS: Final = 200
REVOKED: Final = 200_000
LISTS: Final = 5
ROUNDS: Final = 5
_NOW: Final = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
_VALIDITY: Final = Validity(_NOW - timedelta(days=30), _NOW + timedelta(days=365))


@dataclass(frozen=True, slots=True)
class DiscoveryRow:
    """One figure. `each_us` is in microseconds of CPU or, for look-ups, of elapsed time."""

    what: str
    each_us: float
    per_second: float
    budget_us: float | None  # design 6


async def measure_discovery(
    addresses: int = ADDRESSES, revoked: int = REVOKED
) -> Sequence[DiscoveryRow]:
    """Look up different addresses, 100 in flight; judge a certificate, and ask a large CRL."""
    root, middle = _authorities()
    address = parse_address(f"u0@{DOMAIN}")
    key = generate_key(KeyKind.RSA_2048)
    leaf = end_entity_certificate(key.public_key(), address, issuer=middle, validity=_VALIDITY)
    evidence = Evidence(
        address, (Found(leaf, Level.DNS_ADDRESS),), intermediates=(middle.certificate,)
    )
    responder = DnsResponder(_zone(leaf, addresses))
    resolver = await responder.start()
    async with open_directory(resolver=resolver, allow_private=True) as live:
        rows = [await _uncached(live, addresses), await _cached(live, address)]
    await responder.stop()
    return [*rows, *_verdicts(evidence, Anchors([root.certificate])), *_lists(root, revoked)]


async def _uncached(live: LiveDirectory, addresses: int) -> DiscoveryRow:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await live.evidence_for(parse_address(f"u{number}@{DOMAIN}"))

    start = time.perf_counter()
    await asyncio.gather(*map(one, range(addresses)))
    each_us = (time.perf_counter() - start) / addresses * 1e6
    return _row("discovery in DNS, 100 in flight", each_us, None)


async def _cached(live: LiveDirectory, address: DirectAddress) -> DiscoveryRow:
    cached = CachingDirectory(live=live, clock=lambda: _NOW, database=None)
    each_us = await _each(lambda: cached.evidence_for(address))
    return _row("discovery from the cache", each_us, 50)


def _verdicts(evidence: Evidence, anchors: Anchors) -> Sequence[DiscoveryRow]:
    def judge(cache: VerdictCache | None) -> object:
        return decide(
            evidence.address, evidence, anchors, purpose=Purpose.ENCRYPT, now=_NOW, cache=cache
        )

    def best_us(cache: VerdictCache | None) -> float:
        # Whatever else the machine does comes on top: the best of a few rounds is the work itself.
        return min(_cpu_us(lambda: judge(cache), REPEATS) for _ in range(ROUNDS))

    cache = VerdictCache()
    judge(cache)
    first, again = best_us(None), best_us(cache)
    return [_row("path verdict, first", first, 5000), _row("path verdict, cached", again, 20)]


def _lists(ca: Issuer, revoked: int) -> Sequence[DiscoveryRow]:
    encoded = large_crl(ca, revoked, now=_NOW)
    first_us = _cpu_us(lambda: read_crl(encoded).signed_by(ca.certificate), LISTS)
    crl = read_crl(encoded)
    crl.signed_by(ca.certificate)  # Verified once, for all who ask.
    again_us = _cpu_us(lambda: crl.signed_by(ca.certificate) and crl.revokes(FIRST_SERIAL), REPEATS)
    return [
        _row(f"CRL of {revoked} entries, read and verified", first_us, 200_000),
        _row("the same CRL, asked again", again_us, 20),
    ]


def _cpu_us(work: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times * 1e6


async def _each(work: Callable[[], Awaitable[object]]) -> float:
    await work()
    start = time.process_time()
    for _ in range(REPEATS):
        await work()
    return (time.process_time() - start) / REPEATS * 1e6


def _row(what: str, each_us: float, budget_us: float | None) -> DiscoveryRow:
    return DiscoveryRow(what, round(each_us, 1), round(1e6 / each_us, 1), budget_us)


def _authorities() -> tuple[Issuer, Issuer]:
    key = generate_key(KeyKind.RSA_2048)
    root = Issuer(ca_certificate(key, name="Bench root", validity=_VALIDITY), key)
    key = generate_key(KeyKind.RSA_2048)
    certificate = ca_certificate(key, name="Bench CA", validity=_VALIDITY, issuer=root)
    return root, Issuer(certificate, key)


def _zone(leaf: x509.Certificate, addresses: int) -> dict[dns.name.Name, dns.zone.Zone]:
    encoded = base64.b64encode(leaf.public_bytes(Encoding.DER)).decode("ascii")
    lines = ["$TTL 300", "@ IN SOA ns1 hostmaster 1 3600 600 86400 60", "@ IN NS ns1"]
    lines += [f"u{number} IN CERT PKIX 0 0 {encoded}" for number in range(addresses)]
    zone = dns.zone.from_text("\n".join(lines) + "\n", origin=f"{DOMAIN}.", relativize=False)
    return {dns.name.from_text(DOMAIN): zone}
