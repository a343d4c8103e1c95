"""The agent of one gateway: who finds certificates, decides, secures, delivers, and with what.

Talks to everything through what it makes; `gateway.app` runs it.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from certs.dns_client import DnsClient
from certs.errors import DirectError, Reason
from certs.http_client import HttpClient
from certs.stored_keys import StoredKeys
from fhir_bridge.inbound import Reading
from fhir_bridge.terms import Terms
from gateway import retry
from gateway.background import in_background
from gateway.clock import utc_now
from gateway.config import Config
from gateway.dane_client import DaneClient
from gateway.database import SqlDatabase
from gateway.edge_delivery import EdgeDelivery
from gateway.edge_out import MailboxSender
from gateway.finder import open_finder, resolver_of
from gateway.inbox import Inbox
from gateway.key_access import key_access
from gateway.metrics import Metrics
from gateway.mx import MxResolver
from gateway.notices import Notices
from gateway.pipeline import Pipeline
from gateway.places import StoredPlaces, mail_server
from gateway.policies import default_policy
from gateway.ports import Directory
from gateway.preflight import Preflight
from gateway.revocation_watch import RevocationWatch
from gateway.sealer import Sealer
from gateway.smtp_out import SmtpSender
from gateway.spool import SpoolBodies
from gateway.sts_policies import StsPolicies
from gateway.tls_policies import PublishedPolicies
from gateway.transmission import Transmission
from gateway.trust import Trust
from gateway.upkeep import keep_up
from gateway.worker import Handler
from trust_bundles.verdicts import VerdictCache

__all__ = ["Agent", "make_agent"]


@dataclass(frozen=True, slots=True)
class Agent:
    """What does the work. `handlers` are by kind of job, counted by the metrics."""

    handlers: dict[str, Handler]
    transmission: Transmission
    preflight: Preflight


async def make_agent(
    stack: AsyncExitStack,
    config: Config,
    *,
    database: SqlDatabase,
    bodies: SpoolBodies,
    metrics: Metrics,
) -> Agent:
    """Return the agent; what must be closed after it is put on `stack`.

    Raises:
        DirectError: CONFIGURATION_INVALID; the key file or a password file cannot be read.
    """
    finder = await stack.enter_async_context(open_finder(config, database, utc_now))
    await stack.enter_async_context(in_background(keep_up(finder, database, utc_now)))
    directory = metrics.directory(finder)
    trust = Trust(
        database=database,
        completion=finder,
        policy=default_policy(config.trust),
        cache=VerdictCache(),
        watch=RevocationWatch(metrics.revocation_not_learnt),
    )
    transmission = Transmission(
        database=database,
        bodies=bodies,
        sender=metrics.sender(
            _sender(stack, config, database, DnsClient(resolver=resolver_of(config))), "backbone"
        ),
        observer=metrics,
        clock=utc_now,
        retry_at=_retry_at,
    )
    handlers = _handlers(stack, config, database, bodies, directory, trust, metrics)
    return Agent(
        handlers=metrics.handlers({**handlers, "deliver": transmission.deliver}),
        transmission=transmission,
        preflight=Preflight(directory=directory, trust=trust, clock=utc_now),
    )


def _handlers(
    stack: AsyncExitStack,
    config: Config,
    database: SqlDatabase,
    bodies: SpoolBodies,
    directory: Directory,
    trust: Trust,
    metrics: Metrics,
) -> dict[str, Handler]:
    """Return the handlers of the jobs that judge, secure and hand over messages."""
    hostname = config.gateway.hostname
    configured = {name: mail_server(box) for name, box in config.mailboxes.items()}
    places = StoredPlaces(database=database, configured=configured)
    mailboxes = MailboxSender(hostname=hostname, servers=places)
    stack.push_async_callback(mailboxes.close)
    inbox = Inbox(
        places=places,
        terms=Terms(),
        reading=Reading(
            status=config.fhir.inbound_status,
            envelopes=config.fhir.fhir_envelope,
            base_url=config.fhir.base_url.rstrip("/"),
        ),
        shows_notices=config.fhir.show_notices,
    )
    notices = Notices(bodies=bodies, hostname=hostname)
    pipeline = Pipeline(
        database=database,
        bodies=bodies,
        directory=directory,
        keys=_keys(stack, config, database),
        trust=trust,
        sealer=Sealer(
            database=database, bodies=bodies, hostname=hostname, peers=config.known_peers
        ),
        inbox=inbox,
        notices=notices,
        observer=metrics,
        clock=utc_now,
        retry_at=_retry_at,
    )
    edge = EdgeDelivery(
        database=database,
        bodies=bodies,
        sender=metrics.sender(mailboxes, "mailbox"),
        inbox=inbox,
        notices=notices,
        clock=utc_now,
        retry_at=_retry_at,
        answer_by=partial(_retry_at, patience=timedelta(seconds=config.tracking.relay_s)),
    )
    return {
        "outgoing": pipeline.outgoing,
        "incoming": pipeline.incoming,
        "report": edge.report,
        "delayed": edge.delayed,
        "confirm": edge.confirm,
        "relay": edge.relay,
    }


def _keys(stack: AsyncExitStack, config: Config, database: SqlDatabase) -> StoredKeys:
    """Return our identities, the key-encryption key having been read once."""
    access = stack.enter_context(key_access(config))
    access.kek()
    kept = timedelta(days=config.keys.old_keys_days)
    return StoredKeys(
        database=database,
        keks=access.keks,
        token_key=access.token_key if access.has_token else None,
        opens_since=lambda: utc_now() - kept,
    )


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
        policies=PublishedPolicies(configured=config.tls, sts=sts, dane=_dane(config)),
    )
    stack.push_async_callback(sender.close)
    return sender


def _dane(config: Config) -> DaneClient | None:
    """Return what looks DANE up, where that is switched on.

    Raises:
        DirectError: CONFIGURATION_INVALID; the resolver is not on this machine, or not named.
    """
    if not config.discovery.dane:
        return None
    resolver = resolver_of(config)
    if resolver is None:
        raise DirectError(Reason.CONFIGURATION_INVALID, "discovery.dane needs discovery.resolver")
    return DaneClient(resolver=resolver)


def _retry_at(
    attempts: int,
    accepted_at: datetime,
    now: datetime,
    patience: timedelta = retry.GIVE_UP_AFTER,
) -> datetime | None:
    jitter = random.SystemRandom().random()
    return retry.next_attempt(attempts, accepted_at, now, jitter, patience)
