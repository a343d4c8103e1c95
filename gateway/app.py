"""The composition root: what is made of what, in the order it starts. Read it as a deployment.

Talks to everything through what it makes; it alone hands out the clock.
"""

from __future__ import annotations

import asyncio
import random
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from certs.cache import CachingDirectory
from certs.directory import open_directory
from certs.dns_client import DnsClient
from certs.errors import DirectError
from certs.http_client import HttpClient
from certs.keys import StoredKeys, read_kek
from certs.policy import CertificatePolicy
from fhir_bridge.api import create_app
from fhir_bridge.terms import Terms
from gateway import queue, retry
from gateway.acceptance import SmtpReception
from gateway.clock import utc_now
from gateway.config import Config, Fhir, Mailbox, Smtp, read_password
from gateway.database import SqlDatabase
from gateway.edge_delivery import EdgeDelivery
from gateway.edge_out import MailboxSender, MailServer
from gateway.fhir_ports import FhirBodies, FhirOutbox
from gateway.http_server import HttpServer
from gateway.inbox import Inbox
from gateway.mx import MxResolver
from gateway.notices import Notices
from gateway.pipeline import Pipeline
from gateway.ports import Directory, Reception, Role
from gateway.preflight import Preflight
from gateway.retention import Retention, forget
from gateway.sealer import Sealer
from gateway.smtp_auth import Credentials
from gateway.smtp_in import Limits, Listener
from gateway.smtp_out import SmtpSender
from gateway.sole import sole_process
from gateway.spool import SpoolBodies
from gateway.sts_policies import StsPolicies
from gateway.tls import server_context
from gateway.tls_policies import PublishedPolicies
from gateway.transmission import Transmission
from gateway.trust import Trust
from gateway.worker import Handler, Worker
from trust_bundles.verdicts import VerdictCache

__all__ = ["Listening", "running", "serve"]

LEASE_S: Final = 60.0
POLL_S: Final = 1.0
GRACE_S: Final = 10.0
LATE_POLL_S: Final = 5.0
RETENTION_POLL_S: Final = 3600.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running gateway listens; None where a listener is switched off."""

    backbone: tuple[str, int] | None
    edge: tuple[str, int] | None
    fhir: tuple[str, int] | None
    database: SqlDatabase


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Listening]:
    """Run a whole gateway for as long as the context lasts; leaving it is a graceful stop.

    Raises:
        DirectError: CONFIGURATION_INVALID; a file or address in it cannot be used. INTERNAL; the
            database cannot be opened.
    """
    async with AsyncExitStack() as stack:
        database = await _database(stack, config)
        bodies = SpoolBodies(database=database, folder=config.gateway.data / "spool", clock=utc_now)
        resolver = _resolver(config)
        live = await stack.enter_async_context(
            open_directory(resolver=resolver, allow_private=config.discovery.private_addresses)
        )
        directory = (
            CachingDirectory(live=live, clock=utc_now, database=database)
            if config.discovery.cache
            else live
        )
        trust = Trust(
            database=database,
            completion=directory,
            policy=_policy(config),
            cache=VerdictCache(),
        )
        sender = _sender(stack, config, database, DnsClient(resolver=resolver))
        transmission = Transmission(
            database=database,
            bodies=bodies,
            sender=sender,
            clock=utc_now,
            retry_at=_retry_at,
            window=timedelta(seconds=config.tracking.window_s),
        )
        worker = Worker(
            database=database,
            handlers={
                **_agent(stack, config, database, bodies, directory, trust),
                "deliver": transmission.deliver,
            },
            clock=utc_now,
            concurrency=config.gateway.workers,
            lease_s=LEASE_S,
            poll_s=POLL_S,
            grace_s=GRACE_S,
        )
        await stack.enter_async_context(_working(worker))
        await stack.enter_async_context(_in_background(transmission.watch(LATE_POLL_S)))
        await stack.enter_async_context(_in_background(_forget(config, database, bodies)))
        reception = SmtpReception(database=database, bodies=bodies, clock=utc_now, wake=worker.wake)
        outbox = FhirOutbox(database=database, clock=utc_now, wake=worker.wake)
        yield Listening(
            backbone=await _listen(stack, config, config.backbone, Role.BACKBONE, reception),
            edge=await _listen(stack, config, config.edge, Role.EDGE, reception),
            fhir=await _serve_fhir(
                stack,
                config,
                database,
                bodies,
                outbox,
                Preflight(directory=directory, trust=trust, clock=utc_now),
            ),
            database=database,
        )


async def serve(config: Config) -> None:
    """Run the gateway until SIGTERM or SIGINT, then stop it gracefully."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running(config):
        await stopped.wait()


def _policy(config: Config) -> CertificatePolicy:
    trust = config.trust
    return CertificatePolicy(
        profile=trust.profile,
        revocation=trust.revocation,
        accept_unwrapped=trust.accept_unwrapped,
    )


def _retry_at(attempts: int, accepted_at: datetime, now: datetime) -> datetime | None:
    return retry.next_attempt(attempts, accepted_at, now, random.SystemRandom().random())


def _resolver(config: Config) -> tuple[str, int] | None:
    resolver = config.discovery.resolver
    return (resolver.host, resolver.port) if resolver else None


def _sender(
    stack: AsyncExitStack, config: Config, database: SqlDatabase, dns: DnsClient
) -> SmtpSender:
    """Return what delivers to other HISPs."""
    http = HttpClient(resolver=dns)
    stack.push_async_callback(http.aclose)
    sts = StsPolicies(dns=dns, http=http, clock=utc_now, database=database)
    sender = SmtpSender(
        hostname=config.gateway.hostname,
        routes={name: (to.host, to.port) for name, to in config.routes.items()},
        resolver=MxResolver(dns=dns),
        policies=PublishedPolicies(configured=config.tls, sts=sts),
    )
    stack.push_async_callback(sender.close)
    return sender


def _mailboxes(stack: AsyncExitStack, config: Config) -> MailboxSender:
    """Return what delivers to our users' own mail servers."""
    sender = MailboxSender(
        hostname=config.gateway.hostname,
        servers={name: _mail_server(box) for name, box in config.mailboxes.items()},
    )
    stack.push_async_callback(sender.close)
    return sender


def _mail_server(box: Mailbox) -> MailServer:
    login = None
    if box.password_file is not None:
        login = Credentials(box.user, read_password(box.password_file))
    return MailServer(box.server.host, box.server.port, box.lmtp, box.tls, login)


async def _database(stack: AsyncExitStack, config: Config) -> SqlDatabase:
    """Open the database at the present schema; on SQLite it is this process's alone."""
    database = await stack.enter_async_context(SqlDatabase.open(config.database_url))
    await database.migrate()
    if config.on_sqlite:
        stack.enter_context(sole_process(config.gateway.data))
        await database.write(queue.break_leases)
    return database


def _agent(
    stack: AsyncExitStack,
    config: Config,
    database: SqlDatabase,
    bodies: SpoolBodies,
    directory: Directory,
    trust: Trust,
) -> dict[str, Handler]:
    """Return the handlers of the jobs that judge, secure and hand over messages."""
    hostname = config.gateway.hostname
    policy = _policy(config)
    mailboxes = _mailboxes(stack, config)
    inbox = Inbox(
        has_mail_server=lambda mailbox: mailboxes.server_of(mailbox) is not None, terms=Terms()
    )
    notices = Notices(bodies=bodies, hostname=hostname)
    pipeline = Pipeline(
        database=database,
        bodies=bodies,
        directory=directory,
        keys=StoredKeys(database=database, kek=read_kek(config.gateway.data / "kek")),
        trust=trust,
        sealer=Sealer(bodies=bodies, hostname=hostname),
        inbox=inbox,
        notices=notices,
        clock=utc_now,
        retry_at=_retry_at,
        policy=policy,
        window=timedelta(seconds=config.tracking.window_s),
    )
    edge = EdgeDelivery(
        database=database,
        bodies=bodies,
        sender=mailboxes,
        inbox=inbox,
        notices=notices,
        clock=utc_now,
        retry_at=_retry_at,
    )
    return {
        "outgoing": pipeline.outgoing,
        "incoming": pipeline.incoming,
        "report": edge.report,
        "relay": edge.relay,
    }


async def _listen(
    stack: AsyncExitStack, config: Config, smtp: Smtp, role: Role, reception: Reception
) -> tuple[str, int] | None:
    if smtp.listen is None:
        return None
    listener = Listener(
        role=role,
        reception=reception,
        hostname=config.gateway.hostname,
        tls=_tls(config, smtp),
        limits=Limits(size_octets=smtp.size_octets),
        proxies=smtp.proxies,
    )
    bound = await listener.start(smtp.listen.host, smtp.listen.port)
    stack.push_async_callback(listener.stop, GRACE_S)
    return bound


async def _serve_fhir(
    stack: AsyncExitStack,
    config: Config,
    database: SqlDatabase,
    bodies: SpoolBodies,
    outbox: FhirOutbox,
    preflight: Preflight,
) -> tuple[str, int] | None:
    fhir = config.fhir
    if fhir.listen is None:
        return None
    server = HttpServer(tls=_tls(config, fhir) if fhir.tls_certificate else None)
    bound = server.bind(fhir.listen.host, fhir.listen.port)
    scheme = "https" if fhir.tls_certificate else "http"
    app = create_app(
        database=database,
        bodies=FhirBodies(bodies=bodies, clock=utc_now),
        outbox=outbox,
        preflight=preflight,
        clock=utc_now,
        base_url=fhir.base_url.rstrip("/") or f"{scheme}://{bound[0]}:{bound[1]}/fhir/R4",
        decision_wait_s=fhir.decision_wait_s,
    )
    await server.start(app)
    stack.push_async_callback(server.stop, GRACE_S)
    return bound


def _tls(config: Config, section: Smtp | Fhir) -> ssl.SSLContext:
    data = config.gateway.data
    return server_context(
        section.tls_certificate or data / "tls.crt", section.tls_key or data / "tls.key"
    )


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


@asynccontextmanager
async def _working(worker: Worker) -> AsyncIterator[None]:
    running = asyncio.create_task(worker.run(), name="worker")
    try:
        yield
    finally:
        worker.stop()
        await running


@asynccontextmanager
async def _in_background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
