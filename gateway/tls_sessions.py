"""TLS sessions that are resumed: a second connection to the same host is cheaper to secure.

Talks to nobody; a monotonic clock comes in. asyncio has no parameter for a session (CPython issue
79152), but asks the context for each connection, and the contexts here answer with one.

A resumed session repeats neither the certificate nor its judgement. So a session is offered to the
same host only, under the very same policy with the same pinned data, and at most an hour after its
certificate was judged. It is that of the whole handshake each time: Python copies a session as
often as it is touched, which costs as much as half a handshake (measured). RFC8446 C.4 advises a
ticket for each connection, against being recognised; a mail server is known by its address.

Standards:
    RFC8446 section 2.2 (resumption) and 4.6.1 (tickets come after the handshake) · RFC5077
    RFC9325 section 3.4 (lifetime)
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, Self
from weakref import WeakSet

from gateway.tls_policy import TlsPolicy

__all__ = ["Resuming", "TlsSessions"]

LIFETIME_S: Final = 3600.0
DESTINATIONS: Final = 500  # some 14 KiB each


class _Kept(NamedTuple):
    session: ssl.SSLSession
    until_s: float


class Resuming(ssl.SSLContext):
    """A client's context for one host under one policy: all is `inner`'s, but for the session."""

    _inner: ssl.SSLContext
    _clock: Callable[[], float]
    _lifetime_s: float
    _kept: _Kept | None
    _made: WeakSet[ssl.SSLObject]

    def __new__(cls, inner: ssl.SSLContext, clock: Callable[[], float], lifetime_s: float) -> Self:
        """Return a context that, by itself, trusts nobody."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context._inner, context._clock, context._lifetime_s = inner, clock, lifetime_s
        context._kept, context._made = None, WeakSet()
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection; asyncio calls this, and names no session."""
        kept = self._kept
        if kept is not None and kept.until_s <= self._clock():
            kept = self._kept = None
        tunnel = self._inner.wrap_bio(
            incoming, outgoing, server_side, server_hostname, kept.session if kept else session
        )
        self._made.add(tunnel)
        return tunnel

    def keep(self, tunnel: ssl.SSLObject) -> None:
        """Keep the session of a connection of ours that the policy is content with.

        With TLS 1.3 it is there once something was read.
        """
        if tunnel.session_reused or tunnel not in self._made:
            return
        session = tunnel.session
        if session is not None:
            self._kept = _Kept(session, self._clock() + self._lifetime_s)

    def forget(self) -> bool:
        """Offer the session no more; say whether there was one."""
        had_one, self._kept = self._kept is not None, None
        return had_one


class TlsSessions:
    """The contexts by host and policy; the `limit` that were used last."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        lifetime_s: float = LIFETIME_S,
        limit: int = DESTINATIONS,
    ) -> None:
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._limit = limit
        self._contexts: OrderedDict[tuple[str, int, TlsPolicy], Resuming] = OrderedDict()

    def context(self, host: str, port: int, policy: TlsPolicy, inner: ssl.SSLContext) -> Resuming:
        """Return the context for connections to `host`; `inner` is what `policy` demands."""
        key = (host, port, policy)
        context = self._contexts.pop(key, None) or self._new(inner)
        self._contexts[key] = context
        if len(self._contexts) > self._limit:
            self._contexts.popitem(last=False)
        return context

    def _new(self, inner: ssl.SSLContext) -> Resuming:
        return Resuming(inner, self._clock, self._lifetime_s)
