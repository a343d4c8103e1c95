from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import BinaryIO
from uuid import UUID

import pytest
from prometheus_client import generate_latest
from sqlalchemy import Connection

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.evidence import Evidence
from gateway.metrics import Metrics
from gateway.ports import Attempt, Delivery, Envelope, Role, Session
from gateway.queue import Job, JobState
from gateway.results import Done, Failed, Result, Retry
from tests.helpers.memory_reception import MemoryReception, MemorySink
from tests.helpers.pki import NOW

JONES = parse_address("drjones@b.example")
NOBODY = parse_address("nobody@b.example")
SESSION = Session(Role.BACKBONE, "192.0.2.1", "mx.a.example", None, None)
ENVELOPE = Envelope(None, (JONES,))


def lines(metrics: Metrics) -> dict[str, float]:
    """What a scrape shows, without comments and histograms' buckets."""
    found = {}
    for line in generate_latest(metrics.registry).decode().splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#") and "_bucket" not in name and "_created" not in name:
            found[name.removeprefix("direct_gateway_")] = float(value)
    return found


async def test_what_listeners_answer_is_counted() -> None:
    metrics, inner = Metrics(), MemoryReception()
    reception = metrics.reception(inner)
    assert isinstance(reception.sink(), MemorySink)
    await reception.check_sender(SESSION, None)
    await reception.check_recipient(SESSION, JONES)
    with pytest.raises(DirectError):
        await reception.check_recipient(SESSION, NOBODY)
    assert await reception.accept(SESSION, ENVELOPE, MemorySink()) == UUID(int=1)
    for failure in (DirectError(Reason.MESSAGE_MALFORMED, ""), RuntimeError()):
        inner.failure = failure
        with pytest.raises(type(failure)):
            await reception.accept(SESSION, ENVELOPE, MemorySink())
    seen = lines(metrics)
    assert seen['smtp_recipients_total{outcome="ok",role="backbone"}'] == 1
    assert seen['smtp_recipients_total{outcome="recipient-unknown",role="backbone"}'] == 1
    assert seen['smtp_messages_total{outcome="ok",role="backbone"}'] == 1
    assert seen['smtp_messages_total{outcome="message-malformed",role="backbone"}'] == 1
    assert seen['smtp_messages_total{outcome="internal",role="backbone"}'] == 1
    assert seen['accept_seconds_count{role="backbone"}'] == 3


async def test_authentications_are_counted() -> None:
    metrics = Metrics()
    reception = metrics.reception(MemoryReception())
    assert await reception.authenticate("ehr", "secret")
    assert not await reception.authenticate("ehr", "guess")
    seen = lines(metrics)
    assert seen['smtp_authentications_total{outcome="ok"}'] == 1
    assert seen['smtp_authentications_total{outcome="refused"}'] == 1


class Deliveries:
    """A sender whose peer takes one recipient and refuses the other."""

    async def send(
        self,
        *,
        domain: str,
        sender: DirectAddress | None,
        recipients: Sequence[DirectAddress],
        message: BinaryIO,
        size: int,
    ) -> Delivery:
        attempts = (
            Attempt(JONES, None, "2.0.0", "250 OK"),
            Attempt(NOBODY, Reason.BACKBONE_REFUSED, "5.1.1", "550 No"),
        )
        return Delivery(attempts, "mx", "TLSv1.3 TLS_AES_256_GCM_SHA384", True, "dane")


async def test_delivery_attempts_are_counted_by_recipient() -> None:
    metrics = Metrics()
    sender = metrics.sender(Deliveries(), "backbone")
    await sender.send(
        domain="b.example", sender=None, recipients=[JONES, NOBODY], message=BytesIO(), size=0
    )
    seen = lines(metrics)
    labels = 'tls="TLSv1.3",tls_policy="dane",way="backbone"'
    assert seen[f'delivery_attempts_total{{outcome="ok",{labels}}}'] == 1
    assert seen[f'delivery_attempts_total{{outcome="backbone-refused",{labels}}}'] == 1
    assert seen['delivery_seconds_count{way="backbone"}'] == 1


class Answers:
    """A directory that gives one answer."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    async def evidence_for(self, address: DirectAddress) -> Evidence:
        return self._evidence


@pytest.mark.parametrize(
    ("evidence", "outcome"),
    [
        (Evidence(JONES, ()), "nothing"),
        (Evidence(JONES, (), failure=Reason.DIRECTORY_UNAVAILABLE), "directory-unavailable"),
    ],
)
async def test_look_ups_are_timed(evidence: Evidence, outcome: str) -> None:
    metrics = Metrics()
    assert await metrics.directory(Answers(evidence)).evidence_for(JONES) is evidence
    assert lines(metrics)[f'lookup_seconds_count{{outcome="{outcome}"}}'] == 1


def nothing(_: Connection) -> None:
    pass


def job() -> Job:
    return Job(
        id=UUID(int=1),
        kind="deliver",
        destination="b.example",
        key=None,
        state=JobState.READY,
        due_at=NOW,
        created_at=NOW,
        attempts=1,
        lease_until=None,
        token=None,
        reason=None,
        detail=None,
        payload={},
    )


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (Done(), "ok"),
        (Retry(NOW, Reason.BACKBONE_UNAVAILABLE, "", nothing), "retry"),
        (Failed(Reason.INTERNAL, "", nothing), "failed"),
    ],
)
async def test_jobs_are_counted_and_timed(result: Result, outcome: str) -> None:
    async def handle(_: Job) -> Result:
        return result

    metrics = Metrics()
    assert await metrics.handlers({"deliver": handle})["deliver"](job()) is result
    assert lines(metrics)[f'jobs_total{{kind="deliver",outcome="{outcome}"}}'] == 1
    assert lines(metrics)['job_seconds_count{kind="deliver"}'] == 1


async def test_a_job_that_breaks_is_counted_and_breaks() -> None:
    async def handle(_: Job) -> Result:
        raise RuntimeError

    metrics = Metrics()
    with pytest.raises(RuntimeError):
        await metrics.handlers({"deliver": handle})["deliver"](job())
    assert lines(metrics)['jobs_total{kind="deliver",outcome="internal"}'] == 1
