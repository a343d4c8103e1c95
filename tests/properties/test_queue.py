"""gateway.queue under any interleaving of workers, crashes and retries.

A job is finished at most once, and every job that is not finished can still be claimed: nothing
is done twice on the record, nothing is lost.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from certs.errors import DirectError, Reason
from gateway import queue, queue_control
from gateway.queue import Job, JobState, LeaseLostError, NewJob
from gateway.tables import job, paused_destination

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LEASE_S = 60.0


class Interleaving(RuleBasedStateMachine):
    """Some workers, of which any may be slow, crash, or come back after its lease ended."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.put_in: set[UUID] = set()
        self.finished: list[UUID] = []
        self.dead: set[UUID] = set()
        self.engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        for table in (job, paused_destination):
            table.create(self.engine)

    def teardown(self) -> None:
        self.drain()
        self.engine.dispose()

    @rule(delay=st.sampled_from([0, 30, 3600]))
    def put(self, delay: int) -> None:
        new = NewJob("deliver", {}, self.now + timedelta(seconds=delay))
        with self.engine.begin() as connection:
            self.put_in.add(queue.put(connection, new, self.now))

    @rule(target=claims, limit=st.integers(1, 5))
    def claim(self, limit: int) -> object:
        with self.engine.begin() as connection:
            claimed = queue.claim(connection, now=self.now, lease_s=LEASE_S, limit=limit)
        assert len(claimed) <= limit
        assert all(one.due_at <= self.now for one in claimed)
        return multiple(*claimed)

    @rule(seconds=st.sampled_from([1, 29, 61, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(claimed=consumes(claims))
    def crash(self, claimed: Job) -> None:
        """Whoever held this claim is heard of no more."""

    @rule(claimed=claims)
    def finish(self, claimed: Job) -> None:
        with self.engine.begin() as connection:
            try:
                queue.finish(connection, claimed)
            except LeaseLostError:
                return
        self.finished.append(claimed.id)

    @rule(claimed=claims, delay=st.sampled_from([0, 100]))
    def retry(self, claimed: Job, delay: int) -> None:
        due_at = self.now + timedelta(seconds=delay)
        with self.engine.begin() as connection:
            try:
                queue.retry(connection, claimed, due_at, Reason.INTERNAL, "again")
            except LeaseLostError:
                return

    @rule(claimed=claims)
    def fail(self, claimed: Job) -> None:
        with self.engine.begin() as connection:
            try:
                queue.fail(connection, claimed, Reason.INTERNAL, "never")
            except LeaseLostError:
                return
        self.dead.add(claimed.id)

    @rule(claimed=claims)
    def hand_back(self, claimed: Job) -> None:
        with self.engine.begin() as connection:
            try:
                queue.hand_back(connection, claimed)
            except LeaseLostError:
                return

    @rule(claimed=claims)
    def renew(self, claimed: Job) -> None:
        with self.engine.begin() as connection:
            queue.renew(connection, [claimed], self.now, LEASE_S)

    @rule(claimed=claims, held=st.booleans())
    def hold_or_release(self, claimed: Job, held: bool) -> None:
        verb = queue_control.hold if held else queue_control.release
        # It may be finished, or a dead letter.
        with self.engine.begin() as connection, suppress(DirectError):
            verb(connection, claimed.id)

    @rule(claimed=claims)
    def an_administrator_retries_it(self, claimed: Job) -> None:
        with self.engine.begin() as connection, suppress(DirectError):
            queue_control.retry_now(connection, claimed.id, self.now)
            self.dead.discard(claimed.id)

    @invariant()
    def every_job_is_in_the_queue_or_finished_once(self) -> None:
        with self.engine.begin() as connection:
            there = {one.id for one in queue.list_jobs(connection, limit=10_000)}
        assert len(self.finished) == len(set(self.finished))
        assert there | set(self.finished) == self.put_in
        assert not there & set(self.finished)

    def drain(self) -> None:
        """Whatever happened, one worker that does not crash finishes all but the dead letters."""
        self.now += timedelta(days=1)
        with self.engine.begin() as connection:
            for held in queue.list_jobs(connection, limit=10_000, state=JobState.HELD):
                queue_control.release(connection, held.id)
            rest = queue.claim(connection, now=self.now, lease_s=LEASE_S, limit=10_000)
            for one in rest:
                queue.finish(connection, one)
        finished = [*self.finished, *(one.id for one in rest)]
        assert len(finished) == len(set(finished))
        assert set(finished) | self.dead == self.put_in


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
