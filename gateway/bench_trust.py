"""How long do refresh, comparison and explanation take with many anchors? Rows for `bench`.

Talks to a database in a temporary folder; the bundles come from memory, so no network is timed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from cryptography import x509

from certs import path as paths
from certs.address import DirectAddress, parse_address
from certs.evidence import Evidence, Found, Level, Revocation
from certs.issue import (
    Issuer,
    KeyKind,
    Validity,
    ca_certificate,
    end_entity_certificate,
    generate_key,
)
from certs.policy import CertificatePolicy
from gateway import domains
from gateway.database import SqlDatabase
from gateway.explanation import explain
from gateway.policies import DomainPolicies
from trust_bundles.anchors import Anchors, difference
from trust_bundles.bundle_writer import write_p7b
from trust_bundles.bundles import Settings, add_bundle, attach
from trust_bundles.outcome import Fetched, Outcome, Validators
from trust_bundles.policy import Direction
from trust_bundles.refresh import Refresher
from trust_bundles.sets import AnchorSets

__all__ = ["TrustRow", "measure_trust"]

BUNDLES: Final = 50
ANCHORS: Final = 2000
BUDGET_MS: Final = 1000.0  # for each verb, with as many
_NOW: Final = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
_VALIDITY: Final = Validity(_NOW - timedelta(days=30), _NOW + timedelta(days=365))
_OURS: Final = parse_address("dr.rivera@direct.hillside.example")
_OTHER: Final = parse_address("dr.chen@direct.lakeview.example")


@dataclass(frozen=True, slots=True)
class TrustRow:
    """One figure, in milliseconds; `cpu_ms` is of this process with all its threads."""

    what: str
    ms: float
    cpu_ms: float
    budget_ms: float


class _Publisher:
    """Bundles in memory; nobody is revoked, and nobody has an issuer elsewhere."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    async def fetch(self, url: str, known: Validators, tls_ca: str | None) -> Fetched:
        return Fetched(self.content[url], Validators())

    async def answers_for(self, path: paths.Path, *, now: datetime) -> Revocation:
        return Revocation()

    async def named_by(self, cert: x509.Certificate, now: datetime) -> Sequence[x509.Certificate]:
        return ()


class _Finder:
    """Knows the certificate of one address."""

    def __init__(self, leaf: x509.Certificate) -> None:
        self._leaf = leaf

    async def evidence_for(self, address: DirectAddress) -> Evidence:
        return Evidence(address, (Found(self._leaf, Level.DNS_ADDRESS),))

    async def complete(
        self, evidence: Evidence, anchors: Anchors, *, now: datetime, policy: CertificatePolicy
    ) -> Evidence:
        return evidence


async def measure_trust(bundles: int = BUNDLES, anchors: int = ANCHORS) -> list[TrustRow]:
    """Return the figures for that many bundles, which have that many anchors together."""
    key = generate_key(KeyKind.P256)
    made = [ca_certificate(key, name=f"CA {n}", validity=_VALIDITY) for n in range(anchors)]
    leaf = end_entity_certificate(
        key.public_key(), _OTHER, issuer=Issuer(made[-1], key), validity=_VALIDITY
    )
    with tempfile.TemporaryDirectory(prefix="direct-gateway-bench-") as folder:
        url = f"sqlite:///{Path(folder) / 'trust.sqlite3'}"
        async with SqlDatabase.open(url) as database:
            await database.migrate()
            bench = _Bench(database, _Publisher(), made, leaf)
            return await bench.rows(bundles)


@dataclass(frozen=True, slots=True)
class _Bench:
    database: SqlDatabase
    publisher: _Publisher
    anchors: Sequence[x509.Certificate]
    leaf: x509.Certificate

    async def rows(self, bundles: int) -> list[TrustRow]:
        each = len(self.anchors) // bundles
        names = [f"bundle-{number}" for number in range(bundles)]
        for number, name in enumerate(names):
            content = write_p7b(self.anchors[number * each : (number + 1) * each])
            await self._add(name, content, attached=True)
        await self._add("all", write_p7b(self.anchors), attached=False)
        await self.database.write(lambda c: domains.add_domain(c, _OURS.domain, _NOW))
        many = f"{bundles} bundles, {len(self.anchors)} anchors"
        return [
            await _timed(f"refresh of {many}, all new", lambda: self._refresh(names)),
            await _timed(f"refresh of {many}, unchanged", lambda: self._refresh(names)),
            await _timed(
                f"refresh of one with {len(self.anchors)}, new", lambda: self._refresh(["all"])
            ),
            await _timed(f"diff of {len(self.anchors)}", self._difference),
            await _timed("first message after a change: its set", self._set),
            await _timed(f"trust explain, {many}", self._explain),
        ]

    async def _add(self, name: str, content: bytes, *, attached: bool) -> None:
        url = f"https://bundles.example/{name}"
        self.publisher.content[url] = content

        def write(c: sa.Connection) -> None:
            add_bundle(c, name, Settings(url=url), _NOW)
            if attached:
                attach(c, name, _OURS.domain, list(Direction), _NOW)

        await self.database.write(write)

    async def _refresh(self, names: Sequence[str]) -> None:
        refresher = Refresher(
            database=self.database,
            source=self.publisher,
            revocations=self.publisher,
            issuers=self.publisher,
            policy=CertificatePolicy(),
            clock=lambda: _NOW,
            random=lambda: 0.5,
            tell=_nobody,
            actor="bench",
        )
        for name in names:
            await refresher.refresh(name)

    async def _difference(self) -> None:
        old, new = Anchors(self.anchors[10:]), Anchors(self.anchors)
        difference(old, new, now=_NOW, warn_before=timedelta(days=60))

    async def _set(self) -> None:
        await self.database.read(
            lambda c: AnchorSets().anchors_for(c, _OURS, Direction.OUTGOING, _NOW)
        )

    async def _explain(self) -> None:
        await explain(
            self.database,
            _Finder(self.leaf),
            DomainPolicies(CertificatePolicy()),
            sender=_OURS,
            recipient=_OTHER,
            direction=None,
            now=_NOW,
        )


async def _timed(what: str, work: Callable[[], Awaitable[None]]) -> TrustRow:
    started_s, cpu_s = time.perf_counter(), time.process_time()
    await work()
    ms, cpu_ms = (time.perf_counter() - started_s) * 1000, (time.process_time() - cpu_s) * 1000
    return TrustRow(what, round(ms, 1), round(cpu_ms, 1), BUDGET_MS)


def _nobody(_: sa.Connection, __: Outcome, ___: datetime) -> None:
    """Tell nobody: nothing but the refresh is measured."""
