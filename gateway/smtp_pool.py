"""Connections to SMTP servers: made, secured as a policy demands, and kept for the next message.

Talks to SMTP servers up to the point where a message can be sent.

Standards:
    RFC3207 · RFC7435 (without a policy, TLS that fails is done without) · RFC7672 section 3
    RFC8461 section 4.2 (with one, nothing goes in clear)
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary

import structlog

from gateway.dane import named_anchor, satisfied
from gateway.smtp_auth import Credentials
from gateway.smtp_client import BrokenError, PeerError, SmtpClient, Timeouts
from gateway.tls import anchored_context, unverified_context, verifying_context
from gateway.tls_policy import Demand, TlsPolicy
from gateway.tls_sessions import TlsSessions

__all__ = ["Connections", "Target", "UnreachableError"]

_log = structlog.get_logger(__name__)

# How long a connection is kept for the next message, and how many to one target.
IDLE_S: Final = 15.0
IDLE_CONNECTIONS: Final = 20
# What was learnt of a host when it was connected to (address, TLS, policy) is believed so long.
REUSE_S: Final = 300.0
REUSE_MESSAGES: Final = 100


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one host, what is demanded of a connection to it, and who we are there."""

    host: str
    address: str
    port: int
    policy: TlsPolicy
    lmtp: bool = False
    login: Credentials | None = None


class UnreachableError(Exception):
    """There is no usable connection to a target; its text is for our log and the attempt."""


class Connections:
    """Makes connections and keeps those that are given back."""

    def __init__(
        self,
        *,
        hostname: str,
        timeouts: Timeouts,
        anchors: Path | None = None,
        idle_s: float = IDLE_S,
        reuse_s: float = REUSE_S,
    ) -> None:
        self._hostname = hostname
        self._timeouts = timeouts
        self._unverified = unverified_context()
        self._verifying = verifying_context(anchors)
        self._sessions = TlsSessions(clock=monotonic)
        self._idle_s = idle_s
        self._reuse_s = reuse_s
        # When each was made, and how many messages it has served.
        self._served: WeakKeyDictionary[SmtpClient, tuple[float, int]] = WeakKeyDictionary()
        # Those that wait for their next message, each with what will end its waiting.
        self._kept: dict[Target, dict[SmtpClient, asyncio.TimerHandle]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def kept(self, target: Target) -> SmtpClient | None:
        """Return a connection that served before; the server may have tired of it."""
        waiting = self._kept.get(target, {})
        while waiting:
            client, timer = waiting.popitem()
            timer.cancel()
            if client.alive:
                return client
        self._kept.pop(target, None)
        return None

    async def new(self, target: Target) -> SmtpClient:
        """Return a new connection that satisfies the target's policy.

        Raises:
            UnreachableError: there is none to be had.
        """
        try:
            client = await self._open(target)
            if target.login is not None:
                await _log_in(client, target.login)
        except PeerError as error:
            raise UnreachableError(f"refused by {target.host}: {error}") from error
        except BrokenError as error:
            raise UnreachableError(f"no connection to {target.host}: {error}") from error
        self._served[client] = asyncio.get_running_loop().time(), 0
        return client

    def keep(self, target: Target, client: SmtpClient) -> None:
        """Take a connection back for the next message to `target`, or let it go.

        RFC7435: one in clear, where the server offers TLS, was for one message. The next has
        another chance.
        """
        loop = asyncio.get_running_loop()
        made_s, messages = self._served[client]
        self._served[client] = made_s, messages + 1
        worn = messages + 1 >= REUSE_MESSAGES or loop.time() >= made_s + self._reuse_s
        if worn or client.tls_failure is not None:
            self._leave(client)
            return
        waiting = self._kept.setdefault(target, {})
        if len(waiting) == IDLE_CONNECTIONS:
            self._retire(target, next(iter(waiting)))
        waiting[client] = loop.call_later(self._idle_s, self._retire, target, client)

    async def close(self) -> None:
        """Say QUIT on every connection that is kept."""
        for target, waiting in self._kept.items():
            for client in list(waiting):
                self._retire(target, client)
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _open(self, target: Target) -> SmtpClient:
        client = await self._connect(target)
        if target.policy.demand is Demand.NONE:
            return client
        if "starttls" in client.offers:
            return await self._secure(target, client)
        if target.policy.required:
            self._leave(client)
            raise _demanded(target, "it offers none")
        return client

    async def _connect(self, target: Target) -> SmtpClient:
        return await SmtpClient.connect(
            target.address,
            target.port,
            hostname=self._hostname,
            timeouts=self._timeouts,
            lmtp=target.lmtp,
        )

    async def _secure(
        self, target: Target, client: SmtpClient, *, again: bool = True
    ) -> SmtpClient:
        verify = target.policy.demand is Demand.VERIFY
        inner = self._verifying if verify else self._unverified
        context = self._sessions.context(target.host, target.port, target.policy, inner)
        try:
            await client.start_tls(context, target.host)
            client.verified = verify
            if target.policy.demand is Demand.DANE:
                client = await self._match_tlsa(target, client)
            if client.tunnel is not None:
                context.keep(client.tunnel)
        except (ssl.SSLError, PeerError, BrokenError, UnreachableError) as error:
            client.abort()
            if context.forget() and again:
                # Perhaps it is only the session that it cannot resume.
                return await self._secure(target, await self._connect(target), again=False)
            if target.policy.required:
                raise _demanded(target, str(error)) from error
            # RFC7435: a peer whose TLS is broken is no worse off than one without.
            _log.info("smtp tls failed, going on in clear", host=target.host, error=str(error))
            client = await self._connect(target)
            client.tls_failure = str(error)
        return client

    async def _match_tlsa(self, target: Target, client: SmtpClient) -> SmtpClient:
        """Return a connection to the server that the TLSA records name, or whose CA they name.

        Raises:
            UnreachableError: they name neither.
        """
        records, chain = target.policy.tlsa, client.peer_chain
        client.verified = bool(chain) and satisfied(records, chain[0])
        if client.verified:
            return client
        anchor = named_anchor(records, chain)
        if anchor is None:
            raise UnreachableError("no TLSA record matches its certificate")
        # Once more, now believing that CA: the TLS library judges chain, name and dates.
        client.abort()
        again = await self._connect(target)
        try:
            await again.start_tls(anchored_context(anchor), target.host)
        except BaseException:
            again.abort()
            raise
        again.verified = True
        return again

    def _retire(self, target: Target, client: SmtpClient) -> None:
        self._kept[target].pop(client).cancel()
        self._leave(client)

    def _leave(self, client: SmtpClient) -> None:
        task = asyncio.get_running_loop().create_task(client.quit())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def _log_in(client: SmtpClient, login: Credentials) -> None:
    if client.tls is None:
        client.abort()
        raise UnreachableError("there is no TLS to send a password under")
    try:
        await client.authenticate(login.user, login.password)
    except (PeerError, BrokenError):
        client.abort()
        raise


def _demanded(target: Target, problem: str) -> UnreachableError:
    return UnreachableError(
        f"{target.policy.source.value} demands TLS of {target.host}, but {problem}"
    )
