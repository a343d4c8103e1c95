"""The composition root: what runs, in the order it starts. Read it as a deployment diagram.

Talks to everything through what it makes; it alone hands out the clock.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

import structlog
import uvloop

from certs.errors import DirectError
from gateway import queue
from gateway.acceptance import SmtpReception
from gateway.agent import make_agent
from gateway.background import in_background
from gateway.bundle_refresh import keep_bundles_fresh
from gateway.clock import utc_now
from gateway.config import Config
from gateway.database import SqlDatabase
from gateway.dead_letters import abandon
from gateway.expiry_watch import watch_expiry
from gateway.fhir_service import FhirService
from gateway.listeners import listen_for_mail
from gateway.metrics import Metrics
from gateway.ports import Role
from gateway.retention import Retention, forget
from gateway.share import Share, Sockets
from gateway.sole import sole_process
from gateway.spool import SpoolBodies
from gateway.worker import Worker

__all__ = ["Listening", "running", "serve"]

WORK_GRACE_S: Final = 3.0
POLL_S: Final = 1.0
LATE_POLL_S: Final = 5.0
RETENTION_POLL_S: Final = 3600.0
BELIEVED: Final = timedelta(milliseconds=500)  # a change is in force within a second
COLLECT_AFTER: Final = 700  # objects made: Python's own default

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running gateway listens; None where a listener is switched off."""

    backbone: tuple[str, int] | None
    edge: tuple[str, int] | None
    fhir: tuple[str, int] | None
    database: SqlDatabase


@asynccontextmanager
async def running(config: Config, share: Share | None = None) -> AsyncIterator[Listening]:
    """Run a whole gateway for as long as the context lasts; leaving it is a graceful stop.

    `share` is this process's where several serve together.

    Raises:
        DirectError: CONFIGURATION_INVALID; a file or address in it cannot be used. INTERNAL; the
            database cannot be opened.
    """
    async with AsyncExitStack() as stack:
        database = await _database(stack, config, share)
        sockets = share.sockets if share is not None else Sockets()
        bodies = SpoolBodies(database=database, folder=config.gateway.data / "spool", clock=utc_now)
        metrics = Metrics()
        agent = await make_agent(stack, config, database=database, bodies=bodies, metrics=metrics)
        fhir = FhirService(stack, config, database=database, bodies=bodies, shared=sockets.fhir)
        worker = Worker(
            database=database,
            handlers={**agent.handlers, **metrics.handlers(fhir.handlers)},
            clock=utc_now,
            concurrency=config.gateway.workers,
            lease_s=config.gateway.lease_s,
            poll_s=POLL_S,
            grace_s=WORK_GRACE_S,
            abandon=abandon,
            **_with_others(share),
        )
        await stack.enter_async_context(_working(worker))
        if share is None or share.first:
            for work in (
                agent.transmission.watch(LATE_POLL_S),
                _forget(config, database, bodies),
                watch_expiry(database, metrics.certificates_expire, utc_now),
                keep_bundles_fresh(config, database, metrics, utc_now),
            ):
                await stack.enter_async_context(in_background(work))
        if share is not None:
            stack.enter_context(_answering(share.bell, worker))
        reception = metrics.reception(
            SmtpReception(
                database=database,
                bodies=bodies,
                clock=utc_now,
                wake=worker.wake,
                windows=config.windows,
                peers=config.known_peers,
                believed=BELIEVED,
                taker=worker,
            )
        )
        processes = share.processes if share is not None else 1
        listen = partial(listen_for_mail, stack, config, processes=processes)
        yield Listening(
            backbone=await listen(config.backbone, Role.BACKBONE, reception, sockets.backbone),
            edge=await listen(config.edge, Role.EDGE, reception, sockets.edge),
            fhir=await fhir.start(agent, metrics, worker.wake),
            database=database,
        )


def serve(config: Config, share: Share | None = None) -> None:
    """Run the gateway until SIGTERM or SIGINT, then stop it gracefully.

    A `share` of one also ends when its parent has.

    Raises:
        DirectError: as `running`.
    """
    uvloop.run(_serve(config, share))


async def _serve(config: Config, share: Share | None) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def orphaned(parent: int) -> None:
        loop.remove_reader(parent)
        stopped.set()

    if share is not None:
        loop.add_reader(share.parent, orphaned, share.parent)
    async with running(config, share):
        # What is there now stays: no search for garbage need look at it again.
        gc.collect()
        gc.freeze()
        # Large messages wait for what comes from here on, unlike what a verb makes as it starts.
        gc.set_threshold(COLLECT_AFTER)
        await stopped.wait()


async def _database(stack: AsyncExitStack, config: Config, share: Share | None) -> SqlDatabase:
    """Open the database at the present schema; on SQLite it is this process's alone.

    Where several processes serve together, their parent has seen to both.
    """
    database = await stack.enter_async_context(SqlDatabase.open(config.database_url))
    if share is not None:
        return database
    await database.migrate()
    if config.on_sqlite:
        stack.enter_context(sole_process(config.gateway.data))
        await database.write(lambda c: queue.break_leases(c, utc_now()))
    return database


async def _forget(config: Config, database: SqlDatabase, bodies: SpoolBodies) -> None:
    """Forget what has been kept for long enough, once an hour."""
    retention = Retention(
        content=timedelta(days=config.gateway.keep_content_days),
        record=timedelta(days=config.gateway.keep_record_days),
    )
    while True:
        try:
            await forget(database, bodies, retention, utc_now())
        except DirectError as error:
            _log.error("retention failed", reason=error.reason.code, detail=error.detail)
        await asyncio.sleep(RETENTION_POLL_S)


def _with_others(share: Share | None) -> dict[str, Any]:
    """Return what a worker is told of the other processes."""
    return {} if share is None else {"holder": share.holder, "others": share.ring}


@contextmanager
def _answering(bell: int, worker: Worker) -> Iterator[None]:
    """Wake `worker` whenever another process rings."""
    loop = asyncio.get_running_loop()

    def rung() -> None:
        with suppress(BlockingIOError):  # another ring was read with this one
            os.eventfd_read(bell)
        worker.help_out()

    loop.add_reader(bell, rung)
    try:
        yield
    finally:
        loop.remove_reader(bell)


@asynccontextmanager
async def _working(worker: Worker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run(), name="worker")
    try:
        yield
    finally:
        worker.stop()
        await task
