"""Several processes that serve one gateway on one machine: made, watched, replaced, stopped.

Talks to the kernel and, before there are any processes, to the database. The parent serves nothing:
it has bound the addresses, which all share, and holds the data folder's lock. Work is shared by the
leases in the queue: what a process that was killed had begun, its successor or another does at
once, since the parent takes back its leases, by the first octets of their tokens, and no others.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from socket import socket
from typing import Final, NoReturn

import structlog

from certs.errors import DirectError, Reason
from gateway import queue
from gateway.clock import utc_now
from gateway.config import Config
from gateway.database import SqlDatabase
from gateway.host_port import HostPort
from gateway.share import HOLDER_OCTETS, Share, Sockets
from gateway.sole import sole_process

__all__ = ["serve_together"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
# So many may end within a minute; with more, something is wrong that a new process does not mend.
_ENDS: Final = 5
_MINUTE_S: Final = 60.0
# A process stops in ten seconds (gateway.listeners); what has not by then never will.
_STOP_S: Final = 12.0
_REFUSED: Final = 2  # the exit status of a process that cannot serve as it is configured

_log = structlog.get_logger(__name__)


def serve_together(config: Config, count: int) -> None:
    """Serve with `count` processes until SIGTERM or SIGINT.

    Raises:
        DirectError: CONFIGURATION_INVALID; an address or the data folder cannot be had. INTERNAL;
            the database cannot be opened, or processes end as fast as they are made.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _empty_folder(config)
    with ExitStack() as stack:
        # Blocked, so that none comes between two looks for them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        asyncio.run(_migrate(config))
        if config.on_sqlite:
            stack.enter_context(sole_process(config.gateway.data))
            asyncio.run(_take_back(config, b""))
        sockets = stack.enter_context(_listening(config))
        _Family(config, count, sockets).serve()


class _Family:
    """The processes. Each place has a bell, by which the others wake who is in it."""

    def __init__(self, config: Config, count: int, sockets: Sockets) -> None:
        self._config = config
        self._sockets = sockets
        self._bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        # Nobody ever writes to it: it is closed for reading when the parent is no more.
        self._alive, self._life = os.pipe()
        self._places: dict[int, tuple[int, bytes]] = {}
        self._ends: deque[float] = deque(maxlen=_ENDS)

    def serve(self) -> None:
        """Keep every place taken until a signal says stop, then stop all."""
        # Imported once, and shared by all as long as nobody writes to it.
        importlib.import_module("gateway.app")
        gc.collect()
        gc.freeze()
        try:
            for place in range(len(self._bells)):
                self._fork(place)
            while signal.sigwaitinfo(_SIGNALS).si_signo == signal.SIGCHLD:
                self._replace()
        finally:
            self._stop()

    def _fork(self, place: int) -> None:
        holder = os.urandom(HOLDER_OCTETS)
        process = os.fork()
        if process == 0:
            others = tuple(bell for n, bell in enumerate(self._bells) if n != place)
            os.close(self._life)
            _stay_on(place)
            share = Share(
                holder=holder,
                first=place == 0,
                sockets=self._sockets,
                bell=self._bells[place],
                bells=others,
                parent=self._alive,
            )
            _run(self._config, share)
        self._places[process] = place, holder

    def _replace(self) -> None:
        """Put another process into the place of each that has ended."""
        for process, status in self._ended():
            place, holder = self._places.pop(process)
            _log.error("a process ended", process=process, status=status)
            _forget_gauges(process)
            _free(self._config, holder)
            if status == _REFUSED:
                raise DirectError(Reason.CONFIGURATION_INVALID, "a process cannot serve")
            now_s = time.monotonic()
            if len(self._ends) == _ENDS and now_s - self._ends[0] < _MINUTE_S:
                raise DirectError(Reason.INTERNAL, "processes end as fast as they are made")
            self._ends.append(now_s)
            self._fork(place)

    def _ended(self) -> Iterator[tuple[int, int]]:
        while self._places:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            if process in self._places:
                yield process, os.waitstatus_to_exitcode(status)

    def _stop(self) -> None:
        """Let all stop at once, and kill what does not."""
        for shared in (self._sockets.backbone, self._sockets.edge, self._sockets.fhir):
            if shared is not None:
                shared.close()
        self._signal(signal.SIGTERM)
        end_s = time.monotonic() + _STOP_S
        while self._places:
            # First those whose signal came before: several that end at once have one.
            for process, _ in self._ended():
                _, holder = self._places.pop(process)
                _free(self._config, holder)
            left_s = end_s - time.monotonic()
            if self._places and not signal.sigtimedwait((signal.SIGCHLD,), max(left_s, 0)):
                self._signal(signal.SIGKILL)
                end_s = time.monotonic() + _STOP_S

    def _signal(self, number: signal.Signals) -> None:
        for process in self._places:
            os.kill(process, number)


def _stay_on(place: int) -> None:
    """Keep this process to one processor, each place to another as far as there are any.

    Threads on several wait for Python's lock in the kernel at nearly every statement to SQLite:
    a message costs a fifth more CPU then, and no more messages pass (measured, bench/README.md).
    """
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[place % len(processors)]})


def _run(config: Config, share: Share) -> NoReturn:
    """Serve in this process, which is a new one, and end it with nothing of the parent's."""
    from gateway.app import serve

    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        serve(config, share)
        status = 0
    except DirectError as error:
        sys.stderr.write(f"error: {error}\n")
        status = _REFUSED if error.reason is Reason.CONFIGURATION_INVALID else 1
    finally:
        sys.stderr.flush()
        os._exit(status)


def _free(config: Config, holder: bytes) -> None:
    """Take back what a process had begun; where that fails, its leases run out by themselves."""
    try:
        asyncio.run(_take_back(config, holder))
    except DirectError as error:
        _log.error("leases not taken back", reason=error.reason.code, detail=error.detail)


async def _take_back(config: Config, holder: bytes) -> None:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(SqlDatabase.open(config.database_url))
        await database.write(lambda c: queue.break_leases(c, utc_now(), holder))


async def _migrate(config: Config) -> None:
    async with SqlDatabase.open(config.database_url) as database:
        await database.migrate()


@contextmanager
def _listening(config: Config) -> Iterator[Sockets]:
    """Take every address that is configured."""
    # Imported here: it brings the whole of HTTP.
    from gateway.http_server import listening_socket

    with ExitStack() as stack:

        def bind(address: HostPort | None) -> socket | None:
            if address is None:
                return None
            return stack.enter_context(listening_socket(address.host, address.port))

        yield Sockets(
            backbone=bind(config.backbone.listen),
            edge=bind(config.edge.listen),
            fhir=bind(config.fhir.listen),
        )


def _empty_folder(config: Config) -> str:
    """Return where the processes count, together, what the metrics tell."""
    folder = config.gateway.data / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    return str(folder)


def _forget_gauges(process: int) -> None:
    """Let what an ended process measured last, as against counted, be told no more."""
    # Imported here, for it looks for the folder as it is imported.
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(process)  # type: ignore[no-untyped-call]
