"""Subscribers' websockets: bind them, and send them what their subscriptions are owed.

Talks to the database and to websockets. What is owed lies in the database, so that any process may
hold the socket. At each event the gateway asks again whether the client is still allowed, whether
the subscription is still served, and whether the resource is still the client's to see.

Standards:
    FHIR    R4 subscription.html 2.46.7.2
    RFC6455 section 7.4 (close codes)
    fhir.md section 1.8
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from starlette.websockets import WebSocket, WebSocketState

from certs.errors import DirectError
from certs.ports import Clock, Database
from fhir_bridge.auth import caller
from fhir_bridge.clients import Client
from fhir_bridge.hook_calls import Event
from fhir_bridge.matching import SOCKET_KEPT
from fhir_bridge.resources import dump
from fhir_bridge.socket_news import Seen, Subscriber, Wanted, bindable, news_of
from fhir_bridge.socket_protocol import (
    Bind,
    BindById,
    Ping,
    Unbind,
    event_bundle,
    handshake_bundle,
    spoken,
)

__all__ = ["SOCKET_PATH", "Sockets"]

# Where Medplum's client looks for it, whatever it is told (fhir.md 1.8).
SOCKET_PATH: Final = "/ws/subscriptions-r4"
SOCKETS_MAX: Final = 1000
CLIENT_SOCKETS_MAX: Final = 100  # so that one client leaves room for the others
BINDINGS_MAX: Final = 100  # of one socket
WAITING_MAX: Final = 256  # messages that a slow reader may be behind
NEWS_WAITING_MAX: Final = 200  # of which news; what is more waits in the database
MESSAGE_CHARACTERS: Final = 4096
REFUSALS_MAX: Final = 5
UNBOUND_S: Final = 60.0  # how long a socket may stay open for nothing
SEND_S: Final = 20.0
POLL_S: Final = 0.25
# A change may be committed a little after one with a later time.
LATE: Final = timedelta(seconds=10)
# A reader so far behind would soon miss what is forgotten: it is let go, and knows.
OVERDUE: Final = SOCKET_KEPT - timedelta(minutes=1)
_POLICY: Final = 1008
_TOO_BIG: Final = 1009
_TRY_LATER: Final = 1013

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Binding:
    """One subscription of one socket. `token` is None in R4's own dialect."""

    key: Subscriber
    token: str | None
    since: datetime
    told: dict[UUID, datetime] = field(default_factory=dict)  # what is older than `since` is not
    count: int = 0

    @property
    def subscription(self) -> UUID:
        return self.key.subscription


@dataclass(slots=True, eq=False)
class _Socket:
    """One connection. `client` opened it with a bearer token, where it did."""

    client: Client | None
    bindings: dict[UUID, _Binding] = field(default_factory=dict)
    waiting: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(WAITING_MAX))
    refusals: int = 0
    behind: bool = False

    @property
    def clients(self) -> set[UUID]:
        """Whose it is: who opened it, and whose subscriptions it is bound to."""
        opened = {self.client.id} if self.client is not None else set()
        return opened | {binding.key.client for binding in self.bindings.values()}

    @property
    def has_room(self) -> bool:
        """Say whether news may be added; some room is left for answers."""
        return self.waiting.qsize() < NEWS_WAITING_MAX

    def say(self, text: str) -> None:
        """Send `text` when the reader is ready; one that does not read is let go."""
        if self.waiting.full():
            self.behind = True
        else:
            self.waiting.put_nowait(text)


class Sockets:
    """Holds the websockets of one process."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        base_url: str,
        per_client: int = CLIENT_SOCKETS_MAX,
    ) -> None:
        self._database = database
        self._per_client = per_client
        self._clock = clock
        self._base_url = base_url
        self._sockets: dict[_Socket, None] = {}  # in the order in which they came
        self._pump: asyncio.Task[None] | None = None

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection until either side ends it."""
        if len(self._sockets) >= SOCKETS_MAX and not self._let_go():
            await websocket.close(_TRY_LATER)
            return
        try:
            opened = "authorization" in websocket.headers
            client = await caller(websocket, self._database, self._clock()) if opened else None
        except DirectError:
            await websocket.close(_POLICY)
            return
        if client is not None and self._held(client.id) >= self._per_client:
            await websocket.close(_TRY_LATER)
            return
        socket = _Socket(client)
        self._sockets[socket] = None
        if self._pump is None:
            self._pump = asyncio.create_task(self._tell(), name="websockets")
        sender: asyncio.Task[None] | None = None
        try:
            await websocket.accept()
            sender = asyncio.create_task(_send(websocket, socket))
            code = await self._listen(websocket, socket, sender)
        finally:
            if sender is not None:
                sender.cancel()
            self._sockets.pop(socket, None)
            if not self._sockets and self._pump is not None:
                self._pump.cancel()
                self._pump = None
        if code is not None and websocket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(RuntimeError):  # it went away at the same moment
                await websocket.close(code)

    def _held(self, client: UUID) -> int:
        """Return how many sockets `client` opened, or is bound by."""
        return sum(client in socket.clients for socket in self._sockets)

    def _let_go(self) -> bool:
        """Make room: let go of the oldest socket that is bound to nothing, if there is one."""
        idle = next((s for s in self._sockets if not s.bindings and not s.behind), None)
        if idle is None:
            return False
        idle.behind = True
        idle.say("")
        return True

    async def _listen(
        self, websocket: WebSocket, socket: _Socket, sender: asyncio.Task[None]
    ) -> int | None:
        """Answer what is said; return the code to close with, None where it is closed."""
        while True:
            receiving = asyncio.create_task(websocket.receive())
            done, _ = await asyncio.wait(
                {receiving, sender}, timeout=UNBOUND_S, return_when=asyncio.FIRST_COMPLETED
            )
            if receiving not in done:
                receiving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await receiving
                if sender in done or not socket.bindings:
                    return _TRY_LATER if sender in done else _POLICY
                continue
            message = receiving.result()
            if message["type"] != "websocket.receive":
                return None
            text = message.get("text")
            if text is None or len(text) > MESSAGE_CHARACTERS:
                return _TOO_BIG
            await self._answer(socket, text)
            if socket.refusals >= REFUSALS_MAX:
                return _POLICY

    async def _answer(self, socket: _Socket, text: str) -> None:
        match spoken(text):
            case Ping():
                socket.say('{"type":"pong"}')
            case Bind(token):
                await self._bind(socket, token, None)
            case BindById(subscription):
                await self._bind(socket, None, subscription)
            case Unbind(token):
                for identity, binding in list(socket.bindings.items()):
                    if binding.token == token:
                        del socket.bindings[identity]
            case None:
                _refuse(socket)

    async def _bind(self, socket: _Socket, token: str | None, subscription: UUID | None) -> None:
        now = self._clock()
        found = await self._database.read(
            lambda c: bindable(c, token, subscription, socket.client, now)
        )
        if found is None or len(socket.bindings) >= BINDINGS_MAX:
            _refuse(socket)
            return
        binding = _Binding(found.subscriber, token, found.since)
        client = binding.key.client
        if client not in socket.clients and self._held(client) >= self._per_client:
            _refuse(socket)
            return
        socket.bindings[binding.subscription] = binding
        if token is None:
            socket.say(f"bound {binding.subscription}")
        else:
            bundle = handshake_bundle(binding.subscription, "active", now)
            socket.say(dump(bundle).decode())

    async def _tell(self) -> None:
        """Look for news until there is no socket left."""
        while True:
            try:
                await self._tell_once()
            except DirectError as error:
                _log.error("websockets not served", reason=error.reason.code, detail=error.detail)
            await asyncio.sleep(POLL_S)

    async def _tell_once(self) -> None:
        # Who is bound while this looks is told at the next look.
        bound = [(s, binding) for s in self._sockets for binding in s.bindings.values()]
        if not bound:
            return
        now = self._clock()
        # A reader that is behind keeps nobody else waiting: it is not looked for until it has room.
        full = {socket for socket in self._sockets if not socket.has_room}
        wanted = _wanted(binding for socket, binding in bound if socket not in full)
        for socket, binding in bound:
            if socket in full:
                socket.behind = socket.behind or now - binding.since > OVERDUE
                wanted.setdefault(binding.key, Wanted(now))
        found = await self._database.read(lambda c: news_of(c, wanted, now))
        for socket, binding in bound:
            if socket.bindings.get(binding.subscription) is not binding:
                continue
            seen = found.get(binding.key)
            if seen is None:  # not served any more, or not theirs
                del socket.bindings[binding.subscription]
            elif socket not in full:
                self._tell_binding(socket, binding, seen, now)
                if seen.news:
                    await asyncio.sleep(0)  # others have their turn

    def _tell_binding(self, socket: _Socket, binding: _Binding, seen: Seen, now: datetime) -> None:
        through = seen.through
        for news in seen.news:
            if news.created_at < binding.since or news.id in binding.told:
                continue
            if not socket.has_room:
                through = news.created_at
                break
            binding.told[news.id] = news.created_at
            if news.event is not None:
                binding.count += 1
                socket.say(self._said(binding, news.event, now))
        # Also where nothing came: what is looked through again is short.
        binding.since = max(binding.since, min(through, now) - LATE)
        binding.told = {i: at for i, at in binding.told.items() if at >= binding.since}

    def _said(self, binding: _Binding, event: Event, now: datetime) -> str:
        if binding.token is None:
            return f"ping {binding.subscription}"
        bundle = event_bundle(
            binding.subscription, "active", event, binding.count, self._base_url, now
        )
        return dump(bundle).decode()


def _wanted(bindings: Iterable[_Binding]) -> dict[Subscriber, Wanted]:
    """Return for each subscription what one of its bindings at least was not told."""
    found: dict[Subscriber, Wanted] = {}
    for binding in bindings:
        other = found.get(binding.key)
        told: Set[UUID] = binding.told.keys()
        if other is None:
            found[binding.key] = Wanted(binding.since, told)
        else:
            since = min(other.since, binding.since)
            found[binding.key] = Wanted(since, other.told & told)
    return found


async def _send(websocket: WebSocket, socket: _Socket) -> None:
    """Send what is waiting; return where the reader is too slow or gone."""
    while True:
        text = await socket.waiting.get()
        if socket.behind:
            return
        try:
            async with asyncio.timeout(SEND_S):
                await websocket.send_text(text)
        except (TimeoutError, RuntimeError, OSError):
            return


def _refuse(socket: _Socket) -> None:
    socket.refusals += 1
    socket.say('{"type":"error","payload":{"text":"This is not understood, or not allowed."}}')
