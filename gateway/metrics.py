"""What the gateway counts and times, for Prometheus.

Talks to nobody: `Metrics` wraps the ports of the gateway, each in an object that does the same and
counts. There is no address, name or content in any label, only closed sets of words.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import BinaryIO, Final
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.evidence import Evidence
from gateway.ports import BodySink, Delivery, Directory, Envelope, Reception, Sender, Session
from gateway.queue import Job
from gateway.results import Done, Result, Retry
from gateway.revocation_watch import Alert
from gateway.worker import Handler

__all__ = ["Metrics"]

# From a cached answer to the patience of a slow peer.
SECONDS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600)
# From a peer next door to the patience of our queue.
MESSAGE_SECONDS: Final = (0.5, 2, 10, 60, 300, 900, 3600, 14_400, 86_400)
OK: Final = "ok"


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._accepted = self._counter(
            "smtp_messages", "Messages at the end of DATA, by what was answered", "role", "outcome"
        )
        self._recipients = self._counter(
            "smtp_recipients", "RCPT commands, by what was answered", "role", "outcome"
        )
        self._authentications = self._counter(
            "smtp_authentications", "Authentications at the edge", "outcome"
        )
        self._attempts = self._counter(
            "delivery_attempts",
            "Recipients in delivery attempts, by what became of them",
            *("way", "outcome", "tls", "tls_policy"),
        )
        self._jobs = self._counter(
            "jobs", "Jobs that were worked on, by kind and end", "kind", "outcome"
        )
        self._bundles = self._counter(
            "bundle_refreshes", "Refreshes of trust bundles, by what became of them", "outcome"
        )
        self._decided = self._counter(
            "decisions", "Recipients decided on, by what was decided", "direction", "outcome"
        )
        self._revocation = self._counter(
            "revocation_not_learnt",
            "Judgements of certificates without a fresh answer about revocation",
            "outcome",
        )
        self._expiring = Gauge(
            "direct_gateway_certificates_expiring",
            "Our certificates in use that expire within so many days with none to replace them",
            ["within_days"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        heard = "From the acceptance of a message to what was heard of a recipient"
        self._message_s = self._histogram("message", heard, "event", MESSAGE_SECONDS)
        self._crypto_s = self._histogram("crypto", "Sealing or opening one message", "step")
        self._accept_s = self._histogram("accept", "From the end of DATA to the commit", "role")
        self._delivery_s = self._histogram("delivery", "One delivery attempt", "way")
        self._lookup_s = self._histogram("lookup", "Discovery of one address", "outcome")
        self._job_s = self._histogram("job", "One job", "kind")

    def exposed(self) -> CollectorRegistry:
        """Return what is told when asked: of all processes, where several serve together.

        They count in files in the folder that the environment names (`gateway.processes`).
        """
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    def reception(self, reception: Reception) -> Reception:
        """Return `reception`, counted."""
        return _Reception(reception, self)

    def sender(self, sender: Sender, way: str) -> Sender:
        """Return `sender`, counted; `way` is "backbone" or "mailbox"."""
        return _Sender(sender, self, way)

    def directory(self, directory: Directory) -> Directory:
        """Return `directory`, timed."""
        return _Directory(directory, self)

    def handlers(self, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
        """Return the handlers by kind of job, counted and timed."""
        return {kind: self._handler(kind, handle) for kind, handle in handlers.items()}

    def decided(self, direction: str, reasons: Iterable[Reason | None]) -> None:
        """Count the recipients of a message by what was decided of them."""
        for reason in reasons:
            self._decided.labels(direction, OK if reason is None else reason.code).inc()

    def heard(self, event: str, after: timedelta) -> None:
        """Count what was heard of a recipient, and how long after the message was accepted."""
        self._message_s.labels(event).observe(after.total_seconds())

    def timed(self, step: str) -> AbstractContextManager[object]:
        """Time the sealing or opening of a message."""
        return self._crypto_s.labels(step).time()

    def accepted(self, session: Session, outcome: str, seconds: float) -> None:
        """Count a message at the end of DATA."""
        self._accepted.labels(session.role.value, outcome).inc()
        self._accept_s.labels(session.role.value).observe(seconds)

    def asked_for(self, session: Session, outcome: str) -> None:
        """Count a RCPT command."""
        self._recipients.labels(session.role.value, outcome).inc()

    def authenticated(self, *, success: bool) -> None:
        """Count an authentication."""
        self._authentications.labels(OK if success else "refused").inc()

    def delivered(self, way: str, delivery: Delivery, seconds: float) -> None:
        """Count a delivery attempt."""
        tls = "none" if delivery.tls is None else delivery.tls.partition(" ")[0]
        for attempt in delivery.attempts:
            outcome = OK if attempt.reason is None else attempt.reason.code
            self._attempts.labels(way, outcome, tls, delivery.tls_policy).inc()
        self._delivery_s.labels(way).observe(seconds)

    def bundle_refreshed(self, outcome: str) -> None:
        """Count a refresh of a trust bundle on schedule."""
        self._bundles.labels(outcome).inc()

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Count a look-up."""
        self._lookup_s.labels(outcome).observe(seconds)

    def revocation_not_learnt(self, alert: Alert) -> None:
        """Count a judgement made without a fresh answer about revocation."""
        self._revocation.labels(alert.value).inc()

    def certificates_expire(self, counts: Mapping[int, int]) -> None:
        """Take note of how many certificates expire, by days; 0 have expired."""
        for days, count in counts.items():
            self._expiring.labels(str(days)).set(count)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"direct_gateway_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, label: str, buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        full = f"direct_gateway_{name}_seconds"
        return Histogram(full, text, [label], buckets=buckets, registry=self.registry)

    def _handler(self, kind: str, handle: Handler) -> Handler:
        async def counted(job: Job) -> Result:
            started_s = time.monotonic()
            outcome = Reason.INTERNAL.code
            try:
                result = await handle(job)
                outcome = _outcome_of(result)
            finally:
                self._jobs.labels(kind, outcome).inc()
                self._job_s.labels(kind).observe(time.monotonic() - started_s)
            return result

        return counted


class _Reception:
    def __init__(self, reception: Reception, metrics: Metrics) -> None:
        self._reception = reception
        self._metrics = metrics
        self.sink = reception.sink
        self.check_sender = reception.check_sender

    async def authenticate(self, user: str, password: str) -> bool:
        success = await self._reception.authenticate(user, password)
        self._metrics.authenticated(success=success)
        return success

    async def check_recipient(self, session: Session, recipient: DirectAddress) -> None:
        outcome = OK
        try:
            await self._reception.check_recipient(session, recipient)
        except DirectError as error:
            outcome = error.reason.code
            raise
        finally:
            self._metrics.asked_for(session, outcome)

    async def accept(self, session: Session, envelope: Envelope, content: BodySink) -> UUID:
        started_s = time.monotonic()
        outcome = Reason.INTERNAL.code
        try:
            identity = await self._reception.accept(session, envelope, content)
            outcome = OK
        except DirectError as error:
            outcome = error.reason.code
            raise
        finally:
            self._metrics.accepted(session, outcome, time.monotonic() - started_s)
        return identity


class _Sender:
    def __init__(self, sender: Sender, metrics: Metrics, way: str) -> None:
        self._sender = sender
        self._metrics = metrics
        self._way = way

    async def send(
        self,
        *,
        domain: str,
        sender: DirectAddress | None,
        recipients: Sequence[DirectAddress],
        message: BinaryIO,
        size: int,
    ) -> Delivery:
        started_s = time.monotonic()
        delivery = await self._sender.send(
            domain=domain, sender=sender, recipients=recipients, message=message, size=size
        )
        self._metrics.delivered(self._way, delivery, time.monotonic() - started_s)
        return delivery


class _Directory:
    def __init__(self, directory: Directory, metrics: Metrics) -> None:
        self._directory = directory
        self._metrics = metrics

    async def evidence_for(self, address: DirectAddress) -> Evidence:
        started_s = time.monotonic()
        evidence = await self._directory.evidence_for(address)
        if evidence.failure is not None:
            outcome = evidence.failure.code
        else:
            outcome = "found" if evidence.found else "nothing"
        self._metrics.looked_up(outcome, time.monotonic() - started_s)
        return evidence


def _outcome_of(result: Result) -> str:
    if isinstance(result, Done):
        return OK
    return "retry" if isinstance(result, Retry) else "failed"
