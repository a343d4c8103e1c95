"""What operators ask a running gateway: is it alive, is it ready, how is it doing.

Talks HTTP as a Starlette application that stands before the FHIR API, and to the database.

    /healthz   200 while the process serves requests
    /readyz    200 while the database answers in time, else 503
    /metrics   for Prometheus, to the networks it is configured for; others get 404

And what other mail systems ask: the MTA-STS policy of a domain of ours, which a web server on port
443 of mta-sts.<domain> passes on to us.

Standards:
    RFC8461 sections 3.2 and 3.3
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from certs.errors import DirectError
from certs.ports import Clock, Database
from certs.tables import own_identity
from gateway import domains
from gateway.mta_sts import StsPolicy, policy_text
from gateway.queue_control import Depth, depths
from gateway.smtp_proxy import Network, is_proxy

__all__ = ["with_operations"]

READY_S: Final = 2.0
_DAY_S: Final = 86_400


def with_operations(
    app: ASGIApp,
    *,
    database: Database,
    registry: CollectorRegistry,
    clock: Clock,
    metrics_to: Sequence[Network],
    sts: StsPolicy | None = None,
) -> Starlette:
    """Return `app` with the operators' paths before it; `sts` is the policy of our domains."""
    operations = _Operations(database, registry, clock, metrics_to, sts)
    return Starlette(
        routes=[
            Route("/healthz", operations.health),
            Route("/readyz", operations.ready),
            Route("/metrics", operations.metrics),
            Route("/.well-known/mta-sts.txt", operations.policy),
            Mount("/", app),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the database shows at one moment. `first_expiry`: of our certificates in use."""

    depths: Sequence[Depth]
    first_expiry: datetime | None


class _Operations:
    def __init__(
        self,
        database: Database,
        registry: CollectorRegistry,
        clock: Clock,
        metrics_to: Sequence[Network],
        sts: StsPolicy | None,
    ) -> None:
        self._database = database
        self._registry = registry
        self._clock = clock
        self._metrics_to = metrics_to
        self._sts = sts

    async def health(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        try:
            async with asyncio.timeout(READY_S):
                await self._database.read(lambda c: c.execute(sa.select(1)).scalar())
        except (DirectError, sa.exc.SQLAlchemyError, OSError) as error:  # TimeoutError is one
            return PlainTextResponse(f"database: {type(error).__name__}\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def policy(self, request: Request) -> Response:
        """RFC8461 3.3: at the policy host of a domain of ours, and at no other name."""
        host, _, domain = (request.url.hostname or "").lower().partition(".")
        if self._sts is None or host != "mta-sts" or not await self._serves(domain):
            return PlainTextResponse("not found\n", status_code=404)
        return PlainTextResponse(policy_text(self._sts))

    async def _serves(self, domain: str) -> bool:
        return await self._database.read(lambda c: domains.is_local_domain(c, domain))

    async def metrics(self, request: Request) -> Response:
        peer = request.client.host if request.client is not None else "unknown"
        if not is_proxy(peer, self._metrics_to):
            return PlainTextResponse("not found\n", status_code=404)
        now = self._clock()
        seen = await self._database.read(lambda c: _seen(c, now))
        text = generate_latest(self._registry) + generate_latest(_gauges(seen, now))
        return Response(text, media_type=CONTENT_TYPE_LATEST)


class _Gauges:
    """A registry of what was seen at one moment."""

    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def _gauges(seen: _Seen, now: datetime) -> CollectorRegistry:
    jobs = GaugeMetricFamily(
        "direct_gateway_queue_jobs", "Jobs in the queue", labels=["kind", "state"]
    )
    overdue = GaugeMetricFamily(
        "direct_gateway_queue_overdue_seconds",
        "How long the first job has been due; below zero where it is not yet",
        labels=["kind", "state"],
    )
    for depth in seen.depths:
        labels = [depth.kind, depth.state.value]
        jobs.add_metric(labels, depth.count)
        overdue.add_metric(labels, (now - depth.oldest_due_at).total_seconds())
    expiry = GaugeMetricFamily(
        "direct_gateway_certificate_first_expiry_days",
        "Days until the first of our certificates in use expires",
    )
    if seen.first_expiry is not None:
        expiry.add_metric([], (seen.first_expiry - now).total_seconds() / _DAY_S)
    registry = CollectorRegistry()
    registry.register(_Gauges([jobs, overdue, expiry]))
    return registry


def _seen(connection: sa.Connection, now: datetime) -> _Seen:
    retired_at = own_identity.c.retired_at
    in_use = sa.select(sa.func.min(own_identity.c.not_after)).where(
        sa.or_(retired_at.is_(None), retired_at > now)
    )
    return _Seen(depths(connection), connection.execute(in_use).scalar())
