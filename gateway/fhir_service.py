"""The FHIR API of one gateway: what it is handed, where it listens, who tells subscribers.

Talks to everything through what it makes; `gateway.app` runs it. It is made before the worker,
which runs its jobs, and is told afterwards how to wake it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from importlib.metadata import version
from socket import socket
from typing import Final

from fhir_bridge.access import AccessLog
from fhir_bridge.api import create_app
from fhir_bridge.hooks import Hooks, SystemResolver
from fhir_bridge.mail_channel import MailChannel
from fhir_bridge.notifier import Notifier
from fhir_bridge.schedule import Schedule
from fhir_bridge.sending import Dispatcher
from fhir_bridge.terms import Terms
from fhir_bridge.tidying import Tidying
from gateway.access_trail import AccessTrail
from gateway.agent import Agent
from gateway.background import in_background
from gateway.clock import utc_now
from gateway.config import Config
from gateway.database import SqlDatabase
from gateway.fhir_ports import FhirBodies, FhirOutbox
from gateway.listeners import HttpListener
from gateway.metrics import Metrics
from gateway.mta_sts import Mode, StsPolicy
from gateway.operations import with_operations
from gateway.spool import SpoolBodies
from gateway.subscriber_jobs import SUBSCRIBER, SubscriberJobs, subscriber_handler
from gateway.worker import Handler

__all__ = ["FhirService"]

# RFC8461 3.2 advises weeks; a week lets a mistake pass in one.
STS_MAX_AGE_S: Final = 7 * 86_400


class FhirService:
    """Serves the FHIR API and what operators ask, and notifies subscribers.

    `handlers` are by kind of job. What must be closed is put on `stack`.
    """

    def __init__(
        self,
        stack: AsyncExitStack,
        config: Config,
        *,
        database: SqlDatabase,
        bodies: SpoolBodies,
        shared: socket | None = None,
    ) -> None:
        self._stack = stack
        self._config = config
        self._database = database
        self._bodies = FhirBodies(bodies=bodies, clock=utc_now)
        self._listener = HttpListener(stack, config, shared)
        self._jobs = SubscriberJobs(self._wake)
        self._outbox = FhirOutbox(
            database=database,
            clock=utc_now,
            wake=self._wake,
            windows=config.windows,
            peers=config.known_peers,
        )
        self._trail = AccessTrail(database)
        self._log = AccessLog(self._trail)
        self._notifier = self._make_notifier()
        self._wake_worker: Callable[[], None] = _nobody

    @property
    def handlers(self) -> dict[str, Handler]:
        """What runs the jobs of subscribers."""
        return {SUBSCRIBER: subscriber_handler(self._notifier)}

    async def start(
        self, agent: Agent, metrics: Metrics, wake: Callable[[], None]
    ) -> tuple[str, int] | None:
        """Serve; return where, None where the listener is switched off. `wake` is the worker's."""
        self._wake_worker = wake
        fhir = self._config.fhir
        app = create_app(
            database=self._database,
            bodies=self._bodies,
            outbox=self._outbox,
            preflight=agent.preflight,
            clock=utc_now,
            base_url=self._listener.base_url,
            decision_wait_s=fhir.decision_wait_s,
            hook_hosts=fhir.hook_hosts,
            deliveries=self._jobs,
            trail=self._trail,
            log=self._log,
            requests_per_minute=fhir.requests_per_minute,
            origins=fhir.origins,
            require_if_match=fhir.require_if_match,
            envelopes=fhir.fhir_envelope,
            software=version("direct-gateway"),
        )
        await self._listener.serve(
            with_operations(
                app,
                database=self._database,
                registry=metrics.exposed(),
                clock=utc_now,
                metrics_to=self._config.gateway.metrics_to,
                sts=_own_policy(self._config),
            )
        )
        if self._listener.bound is not None:
            await self._stack.enter_async_context(in_background(self._log.run()))
            await self._stack.enter_async_context(in_background(self._make_schedule().run()))
            await self._stack.enter_async_context(in_background(self._make_tidying().run()))
            await self._stack.enter_async_context(in_background(self._notifier.run()))
        return self._listener.bound

    def _make_tidying(self) -> Tidying:
        return Tidying(
            database=self._database,
            bodies=self._bodies,
            clock=utc_now,
            drafts_kept=timedelta(days=self._config.gateway.keep_record_days),
        )

    def _make_schedule(self) -> Schedule:
        terms = Terms()
        dispatcher = Dispatcher(
            database=self._database,
            bodies=self._bodies,
            outbox=self._outbox,
            clock=utc_now,
            base_url=self._listener.base_url,
            terms=terms,
            envelopes=self._config.fhir.fhir_envelope,
        )
        return Schedule(database=self._database, dispatcher=dispatcher, clock=utc_now, terms=terms)

    def _make_notifier(self) -> Notifier:
        fhir = self._config.fhir
        resolver = SystemResolver(allow_private=fhir.hook_private_addresses)
        hooks = Hooks(hosts=fhir.hook_hosts, resolver=resolver)
        self._stack.push_async_callback(hooks.aclose)
        base_url = self._listener.base_url
        return Notifier(
            database=self._database,
            deliveries=self._jobs,
            hooks=hooks,
            mail=MailChannel(bodies=self._bodies, outbox=self._outbox, base_url=base_url),
            clock=utc_now,
            log=self._log,
        )

    def _wake(self) -> None:
        self._wake_worker()


def _own_policy(config: Config) -> StsPolicy | None:
    """Return the MTA-STS policy of the domains we serve, where one is switched on."""
    mode = config.gateway.mta_sts
    hosts = (config.gateway.hostname.lower(),)
    return None if mode is Mode.NONE else StsPolicy(mode, hosts, STS_MAX_AGE_S)


def _nobody() -> None:
    """Wake nobody: the worker is not there yet, and will look by itself."""
