"""Deliveries to subscribers as jobs of the gateway's queue.

Talks to the database through the connection it is handed; implements
`fhir_bridge.ports.Deliveries`. There is one job for each subscription that is owed something: so
an administrator sees it in `queue list`, can hold it, and deliveries keep their order.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from certs.errors import Reason
from fhir_bridge.notifier import Notifier
from gateway import queue
from gateway.queue import Job, NewJob
from gateway.results import Done, Result, Retry
from gateway.worker import Handler

__all__ = ["SUBSCRIBER", "SubscriberJobs", "subscriber_handler"]

SUBSCRIBER: Final = "subscriber"
# All are one destination, of which the worker runs so many at a time: slow hooks hold up other
# hooks, and never a message. No domain has this name.
DESTINATION: Final = "subscribers"


class SubscriberJobs:
    """Puts jobs; `wake` is the worker's."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def put(self, connection: Connection, subscription: UUID, now: datetime) -> None:
        """Have `subscription` delivered to; nothing changes where that is waiting already."""
        queue.put(
            connection,
            NewJob(
                kind=SUBSCRIBER,
                payload={"subscription": str(subscription)},
                due_at=now,
                destination=DESTINATION,
                key=f"{SUBSCRIBER} {subscription}",
            ),
            now,
        )

    def wake(self) -> None:
        """Look for deliveries now: some were committed."""
        self._wake()


def subscriber_handler(notifier: Notifier) -> Handler:
    """Return what runs a job of this kind."""

    async def handle(job: Job) -> Result:
        attempt = await notifier.deliver(UUID(job.payload["subscription"]))
        if attempt.retry_at is None:
            return Done(attempt.record)
        reason = Reason.SUBSCRIBER_UNAVAILABLE
        return Retry(attempt.retry_at, reason, attempt.error, attempt.record)

    return handle
