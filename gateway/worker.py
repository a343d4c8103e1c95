"""Take due jobs, run their handlers, record the outcomes, wait.

Talks to the database. The outcome of a job and the end of its lease are one transaction, so an
outcome is recorded once or not at all. A handler may run again after a crash: what it does outside
the database must bear that.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection

from certs.errors import DirectError, Reason
from certs.ports import Clock, Database
from gateway import queue
from gateway.begun import begun
from gateway.destinations import Destinations, Rooms
from gateway.queue import Job, LeaseLostError, NewJob
from gateway.results import Done, Failed, Next, Result, Retry
from gateway.settlement import Broken, hand_back, settle

__all__ = [
    "ERRORS",
    "Abandon",
    "Handler",
    "Worker",
]

T = TypeVar("T")

# After an error that no handler foresaw: one minute, doubled at each attempt up to an hour.
_BACK_OFF: Final = timedelta(minutes=1)
_BACK_OFF_LIMIT: Final = timedelta(hours=1)
# So many are looked for where more are begun than found: room for what comes meanwhile.
_FEW: Final = 2
# So many in a row, over some four hours, and the job is a dead letter.
ERRORS: Final = 10
_RECORD_TRIES: Final = 5

# For these reasons a destination is left alone for a while.
_SILENT: Final = frozenset({Reason.BACKBONE_UNAVAILABLE})

_log = structlog.get_logger(__name__)

Handler: TypeAlias = Callable[[Job], Coroutine[Any, Any, Result]]
Abandon: TypeAlias = Callable[[Connection, Job, datetime], object]


def _nobody(_connection: Connection, _job: Job, _now: datetime) -> None:
    """Tell nobody."""


def _alone() -> None:
    """There are no others."""


class Worker:
    """Runs up to `concurrency` jobs at a time, of these `per_destination` to one destination.

    A lease lasts `lease_s` seconds and is renewed at half of that while its handler runs. Jobs are
    looked for every `poll_s` seconds and after each `wake`. When stopped, handlers have `grace_s`
    seconds to end; what is left then is cancelled and handed back. `abandon` is called as a job
    that broke too often becomes a dead letter. `holder` begins its lease tokens; where it has no
    room for what it is woken for, it lets `others` know.

    It is a `gateway.begun.Taker` too: while none wait that were due before, who commits a job may
    have it begun at once, without a look at the queue and without asking for what it just wrote.
    """

    def __init__(
        self,
        *,
        database: Database,
        handlers: Mapping[str, Handler],
        clock: Clock,
        concurrency: int,
        lease_s: float,
        poll_s: float,
        grace_s: float = 10.0,
        per_destination: int = 20,
        abandon: Abandon = _nobody,
        holder: bytes = b"",
        others: Callable[[], None] = _alone,
    ) -> None:
        self._database = database
        self._handlers = dict(handlers)
        self._clock = clock
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._destinations = Destinations(limit=per_destination)
        self._abandon = abandon
        self._holder = holder
        self._others = others
        self._running: set[asyncio.Task[None]] = set()
        self._begun = 0  # jobs that wait for their commit
        self._sought = 0  # the room kept for those that are being looked for
        self._more = True  # are there perhaps others that are due?
        self._waiting: set[str] = set()  # destinations to which some wait for room
        self._leases: dict[UUID, tuple[Job, asyncio.Task[None]]] = {}
        self._event = asyncio.Event()
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """Look for jobs now: one was committed. Call it from the event loop's thread."""
        self._event.set()
        if len(self._running) >= self._concurrency:
            self._others()

    def help_out(self) -> None:
        """Look for jobs now: another process has more than it can do."""
        self._event.set()

    def begin(self, new: NewJob) -> Job | None:
        """Return `new` under a lease, where there is room for it; end it by `start` or `leave`."""
        if self._more:
            return None
        job = self._begin(new, self._free())
        # What is put now is to be found before others are begun.
        self._more = job is None
        return job

    def start(self, job: Job, known: object) -> None:
        """Do a job of `begin`, now that it is committed."""
        self._begun -= 1
        self._start(replace(job, known=known))

    def leave(self, job: Job) -> None:
        """Forget a job of `begin` that was not committed, or was put to wait."""
        self._begun -= 1
        self._destinations.left(job.destination)
        self._event.set()

    def stop(self) -> None:
        """Make `run` take no more jobs, end within its grace period and return."""
        self._stopping.set()
        self._event.set()

    async def run(self) -> None:
        """Run jobs until `stop`."""
        renewal = asyncio.create_task(self._renew())
        try:
            while not self._stopping.is_set():
                self._event.clear()
                if not await self._start_due():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._event.wait(), self._poll_s)
            await self._end()
        finally:
            for task in (renewal, *self._running):
                task.cancel()

    async def _start_due(self) -> bool:
        """Start what is due and fits; say whether there may be more."""
        free = self._free() if self._more else min(self._free(), _FEW)
        if free <= 0:
            return False
        now = self._clock()
        rooms = self._destinations.rooms(now)
        self._sought = free
        try:
            claimed, jobs, back = await self._database.write(
                lambda c: self._claim(c, free, rooms, now)
            )
        except DirectError as error:
            _log.error("jobs cannot be claimed", reason=error.reason.code, detail=error.detail)
            return False
        finally:
            self._sought = 0
        for job in jobs:
            self._destinations.begun(job.destination)
            self._start(job)
        self._more = claimed == free
        # Others were due before those that still wait for a room there was.
        self._waiting &= rooms.closed | back
        return self._more

    def _free(self) -> int:
        return self._concurrency - len(self._running) - self._begun - self._sought

    def _begin(self, new: NewJob, free: int) -> Job | None:
        now = self._clock()
        if free <= 0 or new.key is not None or new.due_at > now or self._stopping.is_set():
            return None
        if new.destination in self._waiting or not self._destinations.has_room(
            new.destination, now
        ):
            self._waiting.add(new.destination)
            return None
        self._begun += 1
        self._destinations.begun(new.destination)
        return begun(new, now=now, lease_s=self._lease_s, holder=self._holder)

    def _start(self, job: Job) -> None:
        task = asyncio.create_task(self._do(job), name=f"job {job.id}")
        self._running.add(task)
        self._leases[job.id] = job, task
        task.add_done_callback(partial(self._ended, job))

    def _claim(
        self, connection: Connection, limit: int, rooms: Rooms, now: datetime
    ) -> tuple[int, Sequence[Job], set[str]]:
        """Claim jobs; return how many, those with room at their destination, and where is none."""
        claimed = queue.claim(
            connection,
            now=now,
            lease_s=self._lease_s,
            limit=limit,
            kinds=tuple(self._handlers),
            not_to=rooms.closed,
            holder=self._holder,
        )
        jobs, back = [], set()
        for job in claimed:
            if rooms.take(job.destination):
                jobs.append(job)
            else:
                queue.hand_back(connection, job)
                back.add(job.destination)
        return len(claimed), jobs, back

    def _ended(self, job: Job, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._event.set()  # there is room for another job
        if not task.cancelled() and (error := task.exception()) is not None:
            self._leases.pop(job.id, None)  # nobody renews it: the job comes back when it ends
            _log.error("outcome lost", job=str(job.id), kind=job.kind, error=_place(error))

    async def _do(self, job: Job) -> None:
        """Run the handler of `job` and record what came of it."""
        answered = True
        outcome: Result | Broken
        try:
            if job.errors >= ERRORS:
                outcome = self._dead(job, Reason.INTERNAL, "its process died too often")
            else:
                came_of_it = await _outcome(self._handlers[job.kind](job))
                if isinstance(came_of_it, BaseException):
                    outcome = self._unforeseen(job, came_of_it)
                else:
                    outcome = came_of_it
            if isinstance(outcome, Retry):
                answered = outcome.answered or outcome.reason not in _SILENT
        finally:
            self._destinations.ended(job.destination, self._clock(), answered=answered)
        error = await _outcome(self._record(job, outcome))
        if error is None:
            _log.info("job done", message=job.payload.get("message"), **_told(job, outcome))
        else:
            await self._record_broken(job, self._unforeseen(job, error))

    def _unforeseen(self, job: Job, error: BaseException) -> Broken | Failed:
        """Return what to do where a handler raised instead of returning a result."""
        if isinstance(error, DirectError):
            reason, detail = error.reason, error.detail
        else:
            reason, detail = Reason.INTERNAL, _place(error)
            _log.error("job failed", job=str(job.id), kind=job.kind, error=detail)
        if job.errors + 1 >= ERRORS:
            return self._dead(job, reason, detail)
        wait = min(_BACK_OFF * 2**job.errors, _BACK_OFF_LIMIT)
        return Broken(self._clock() + wait, reason, detail)

    def _dead(self, job: Job, reason: Reason, detail: str) -> Failed:
        """Return the end of a job that broke too often; whom it concerns is told."""
        about = job.payload.get("message")
        _log.error("dead letter", job=str(job.id), kind=job.kind, message=about, detail=detail)
        return Failed(reason, detail, lambda c: self._abandon(c, job, self._clock()))

    async def _record_broken(self, job: Job, outcome: Broken | Failed) -> None:
        """Record the end of a broken job, also where telling of it breaks as well."""
        error = await _outcome(self._record(job, outcome))
        if isinstance(error, DirectError) or (error and isinstance(outcome, Broken)):
            raise error
        if error is not None:
            await self._record(job, Failed(outcome.reason, outcome.detail))

    async def _record(self, job: Job, result: Result | Broken) -> None:
        """Commit the outcome, with some patience for a database that fails just now.

        The work is done and may have left the machine: forgetting it would do it twice.
        """
        following = [] if isinstance(result, Broken | Failed) else self._following(result.then)
        under_way: Collection[UUID] = ()
        try:
            for tries_left in reversed(range(_RECORD_TRIES)):
                try:
                    under_way = await self._database.write(
                        lambda c: settle(c, job, result, following, self._clock())
                    )
                    break
                except LeaseLostError:
                    _log.warning("done after its lease", job=str(job.id), kind=job.kind)
                    break
                except DirectError as error:
                    _log.error("outcome not recorded", job=str(job.id), detail=error.detail)
                    if not tries_left:
                        raise
                await asyncio.sleep(self._poll_s)
        finally:
            self._go_on(following, under_way)
        self._leases.pop(job.id, None)

    def _following(self, then: Sequence[Next]) -> list[tuple[Next, Job | None]]:
        """Return what follows, each as a job where it can begin: one in the room of the first."""
        return [
            (one, self._begin(one.job, 1 if number == 0 else self._free()))
            for number, one in enumerate(then)
        ]

    def _go_on(
        self, following: Iterable[tuple[Next, Job | None]], committed: Collection[UUID]
    ) -> None:
        for one, job in following:
            if job is None:
                continue
            if job.id in committed:
                self.start(job, one.known)
            else:
                self.leave(job)

    async def _renew(self) -> None:
        """Keep the leases of what runs; cancel what was lost to another worker."""
        while True:
            await asyncio.sleep(self._lease_s / 2)
            await self._renew_once()

    async def _renew_once(self) -> None:
        jobs = [job for job, _ in self._leases.values()]
        if not jobs:
            return
        try:
            lost = await self._database.write(
                lambda c: queue.renew(c, jobs, self._clock(), self._lease_s)
            )
        except DirectError as error:
            _log.error("leases not renewed", reason=error.reason.code, detail=error.detail)
            return
        for job in lost:
            _, task = self._leases.pop(job.id, (job, None))
            if task is not None:  # not settled meanwhile
                _log.warning("lease lost", job=str(job.id), kind=job.kind)
                task.cancel()

    async def _end(self) -> None:
        """Give what runs its grace period, then cancel it and hand it back."""
        if self._running:
            await asyncio.wait(self._running, timeout=self._grace_s)
        left = tuple(self._running)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        jobs = [job for job, _ in self._leases.values()]
        if not jobs:
            return
        try:
            await self._database.write(lambda c: hand_back(c, jobs))
        except DirectError as error:  # their leases will end by themselves
            _log.error("jobs not handed back", reason=error.reason.code, detail=error.detail)


async def _outcome(work: Coroutine[Any, Any, T]) -> T | BaseException:
    """Return what `work` returns, or what it raises: here nothing may end the worker."""
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return error  # the work's own
    except Exception as error:  # noqa: BLE001 - the top of every job
        return error


def _told(job: Job, outcome: Result | Broken) -> dict[str, object]:
    """Return what the log says of a job that has come to an end."""
    reason = None if isinstance(outcome, Done) else outcome.reason.code
    ended = type(outcome).__name__.strip("_").lower()
    return {"job": str(job.id), "kind": job.kind, "ended": ended, "reason": reason}


def _place(error: BaseException) -> str:
    """Return the kind of `error` and where it was raised; its text may quote a message."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {Path(frame[0].filename).name}:{frame[0].lineno}" if frame else ""
    return f"{type(error).__name__}{where}"
