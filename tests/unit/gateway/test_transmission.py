from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

import pytest
import sqlalchemy as sa

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway import audit, progress, queue_control
from gateway.database import SqlDatabase
from gateway.mdn import Disposition
from gateway.messages import MessageState
from gateway.progress import Change
from gateway.recipients import recipients_of
from gateway.results import Retry
from gateway.timeline import timeline
from gateway.tracking import Event
from gateway.transmission import LATE_AT_A_TIME, Transmission
from tests.helpers.agent import (
    CHEN,
    DAY,
    GP,
    NURSE,
    RIVERA,
    WANTS_DISPATCHED,
    WINDOW,
    Agent,
    mail,
    retry_at,
)
from tests.helpers.pki import NOW

T = TypeVar("T")

BUSY = (Reason.BACKBONE_UNAVAILABLE, "4.3.2", "Try again later")
FULL = (Reason.BACKBONE_UNAVAILABLE, "4.2.2", "Mailbox full")
AWAY = (Reason.BACKBONE_UNAVAILABLE, "4.4.1", "No route")
UNKNOWN = (Reason.BACKBONE_REFUSED, "5.1.1", "No such user here")
ABOUT = "<1@hillside.example>"
FAILED = {"recipient": str(CHEN), "action": "failed", "original": None}


async def sealed(agent: Agent, *, more: str = "X-None: 1") -> UUID:
    """A message to Chen and a nurse at one peer, ready to be delivered."""
    message = await agent.submit(mail(RIVERA, CHEN, NURSE, more=[more]), CHEN, NURSE)
    await agent.run("outgoing")
    return message


async def failures(agent: Agent) -> list[dict[str, str]]:
    """What the author is about to be told, report by report."""
    reports = [job for job in await agent.jobs() if job.kind == "report"]
    return [failure for job in reports for failure in job.payload["outcomes"]]


async def test_accepted_recipients_are_relayed_and_the_window_goes_on(agent: Agent) -> None:
    message = await sealed(agent)
    await agent.run("deliver")
    rows = await agent.rows(message)
    assert {row.state for row in rows.values()} == {"relayed"}
    assert {row.due_at for row in rows.values()} == {NOW + WINDOW}
    assert await agent.jobs() == []


async def test_attempt_is_in_the_timeline(agent: Agent) -> None:
    message = await sealed(agent)
    await agent.run("deliver")
    events = await agent.database.read(partial(timeline, message_id=message))
    tried = [event for event in events if event.what == "delivery-attempted"]
    assert {(event.who, event.outcome) for event in tried} == {
        (str(CHEN), "delivered"),
        (str(NURSE), "delivered"),
    }
    assert "TLSv1.3" in tried[0].detail


async def test_notice_that_came_too_late_is_in_the_timeline_as_ignored(agent: Agent) -> None:
    message = await sealed(agent)
    await agent.run("deliver")
    agent.clock.now += WINDOW
    await agent.transmission.time_out()
    agent.clock.now += timedelta(minutes=5)
    await agent.mdn(Disposition.PROCESSED, "<1@hillside.example>")
    events = await agent.database.read(partial(timeline, message_id=message))
    [late] = [event for event in events if event.outcome == "ignored"]
    assert (late.what, late.who, late.detail) == ("mdn-processed", str(CHEN), "it was failed")
    assert late.at == agent.clock.now


@pytest.mark.parametrize(
    ("replies", "answered"),
    [
        pytest.param({CHEN: BUSY, NURSE: BUSY}, False, id="wants-nothing-now"),
        pytest.param({CHEN: FULL, NURSE: FULL}, True, id="mailboxes-full"),
        pytest.param({CHEN: UNKNOWN, NURSE: BUSY}, True, id="one-unknown"),
        pytest.param({NURSE: BUSY}, True, id="one-taken"),
        pytest.param({CHEN: AWAY, NURSE: AWAY}, False, id="away"),
    ],
)
async def test_a_peer_that_speaks_of_single_recipients_is_there(
    agent: Agent, replies: dict[DirectAddress, tuple[Reason, str, str]], *, answered: bool
) -> None:
    agent.peers.replies = dict(replies)
    await sealed(agent)
    [(_, result)] = await agent.run("deliver")
    assert isinstance(result, Retry)
    assert result.answered == answered


async def test_each_recipient_has_the_outcome_that_the_peer_gave_it(agent: Agent) -> None:
    agent.peers.replies = {CHEN: UNKNOWN, NURSE: BUSY}
    message = await sealed(agent)
    [(_, result)] = await agent.run("deliver")
    assert isinstance(result, Retry)
    assert (result.reason, result.due_at) == (Reason.BACKBONE_UNAVAILABLE, NOW + timedelta(0, 600))
    rows = await agent.rows(message)
    assert (rows[CHEN].state, rows[CHEN].reason, rows[CHEN].status) == (
        "failed",
        Reason.BACKBONE_REFUSED,
        "5.1.1",
    )
    assert rows[NURSE].state == "queued"
    assert await failures(agent) == [{**FAILED, "status": "5.1.1", "text": "No such user here"}]


async def test_later_attempt_goes_only_to_those_who_still_wait(agent: Agent) -> None:
    agent.peers.replies = {NURSE: BUSY}
    message = await sealed(agent)
    await agent.run("deliver")
    agent.peers.replies.clear()
    agent.clock.now += timedelta(minutes=10)
    await agent.run("deliver")
    assert [sent.recipients for sent in agent.peers.sent] == [(CHEN, NURSE), (NURSE,)]
    assert await agent.states(message) == {CHEN: "relayed", NURSE: "relayed"}


async def test_recipient_that_timed_out_is_not_delivered_to_any_more(agent: Agent) -> None:
    agent.peers.replies = {CHEN: BUSY, NURSE: BUSY}
    message = await sealed(agent)
    await agent.run("deliver")
    agent.clock.now += WINDOW
    assert await agent.transmission.time_out() == 2
    await agent.run("deliver")
    assert len(agent.peers.sent) == 1
    assert await agent.states(message) == {CHEN: "failed", NURSE: "failed"}


async def test_notice_of_our_own_is_given_up_when_patience_ends(agent: Agent) -> None:
    agent.peers.replies = {CHEN: BUSY}
    await agent.receive(mail(CHEN, RIVERA, message_id="<7@lakeview.example>"), RIVERA)
    await agent.run()
    [notice] = [m for m in await agent.listed() if m.kind.value == "mdn"]
    agent.clock.now += DAY
    await agent.run("deliver")
    row = (await agent.rows(notice.id))[CHEN]
    assert (row.state, row.reason, row.status) == ("failed", Reason.DELIVERY_EXPIRED, "5.4.7")
    # DN-022: nobody is told of it.
    assert await agent.jobs() == []
    assert (await agent.message(notice.id)).state is MessageState.FINISHED


async def test_notice_of_our_own_is_finished_when_it_has_left(agent: Agent) -> None:
    await agent.receive(mail(CHEN, RIVERA, message_id="<7@lakeview.example>"), RIVERA)
    await agent.run()
    [notice] = [m for m in await agent.listed() if m.kind.value == "mdn"]
    row = (await agent.rows(notice.id))[CHEN]
    assert (row.state, row.due_at) == ("relayed", None)
    assert notice.state is MessageState.FINISHED


async def test_administrator_gives_up_a_delivery(agent: Agent) -> None:
    agent.peers.replies = {CHEN: BUSY, NURSE: BUSY}
    message = await sealed(agent)
    await agent.run("deliver")
    [job] = await agent.jobs()
    await agent.database.write(lambda c: queue_control.give_up(c, job.id, agent.clock()))
    await agent.run("deliver")
    assert len(agent.peers.sent) == 1
    assert {row.reason for row in (await agent.rows(message)).values()} == {Reason.DELIVERY_EXPIRED}
    told = await failures(agent)
    assert {each["recipient"] for each in told} == {str(CHEN), str(NURSE)}
    assert {each["status"] for each in told} == {"5.4.7"}


async def test_time_out_during_a_delivery_stays_the_outcome(agent: Agent) -> None:
    message = await sealed(agent)

    def meanwhile() -> None:
        agent.clock.now += WINDOW

    agent.peers.meanwhile = meanwhile
    [job] = await agent.database.write(partial(agent._claim, kinds=["deliver"]))
    result = await agent.transmission.deliver(job)
    await agent.transmission.time_out()
    await agent.database.write(result.record)
    assert await agent.states(message) == {CHEN: "failed", NURSE: "failed"}


# Time-outs


@pytest.mark.parametrize(
    ("notices", "late", "more"),
    [
        pytest.param([], {"failed"}, "X-None: 1", id="no-notice"),
        pytest.param([Disposition.PROCESSED], {"processed", "failed"}, "X-None: 1", id="mode-a"),
        pytest.param([Disposition.PROCESSED], {"failed"}, WANTS_DISPATCHED, id="mode-b-processed"),
        pytest.param(
            [Disposition.PROCESSED, Disposition.DISPATCHED],
            {"dispatched", "failed"},
            WANTS_DISPATCHED,
            id="mode-b-both",
        ),
        pytest.param([Disposition.DISPATCHED], {"failed"}, WANTS_DISPATCHED, id="mode-b-early"),
    ],
)
async def test_what_was_not_notified_in_time_fails_once(
    agent: Agent, notices: list[Disposition], late: set[str], more: str
) -> None:
    message = await sealed(agent, more=more)
    await agent.run("deliver")
    for disposition in notices:
        await agent.mdn(disposition, ABOUT, final_destination=True)
    agent.clock.now += WINDOW - timedelta(seconds=1)
    assert await agent.transmission.time_out() == 0
    agent.clock.now += timedelta(seconds=1)
    assert await agent.transmission.time_out() > 0
    assert await agent.transmission.time_out() == 0
    states = await agent.states(message)
    assert set(states.values()) == late
    told = await failures(agent)
    assert {each["recipient"] for each in told} == {
        str(a) for a, s in states.items() if s == "failed"
    }
    assert {each["status"] for each in told} == {"5.4.7"}


async def test_one_report_tells_of_all_recipients_that_are_late(agent: Agent) -> None:
    await sealed(agent)
    await agent.run("deliver")
    agent.clock.now += WINDOW
    await agent.transmission.time_out()
    [report] = await agent.jobs()
    assert len(report.payload["outcomes"]) == 2


async def test_window_runs_even_where_no_job_ever_worked_on_the_message(agent: Agent) -> None:
    message = await agent.submit(mail(RIVERA, CHEN), CHEN)
    agent.clock.now += WINDOW
    assert await agent.transmission.time_out() == 1
    assert await agent.states(message) == {CHEN: "failed"}


@pytest.mark.parametrize("disposition", [Disposition.PROCESSED, Disposition.FAILED])
async def test_notice_after_the_time_out_changes_nothing(
    agent: Agent, disposition: Disposition
) -> None:
    message = await sealed(agent)
    await agent.run("deliver")
    agent.clock.now += WINDOW
    await agent.transmission.time_out()
    await agent.mdn(disposition, ABOUT)
    assert (await agent.states(message))[CHEN] == "failed"
    assert len(await failures(agent)) == 2


class Poisoned:
    """A database that cannot write one message, or, while `broken`, nothing.

    `failed` and `written` are set as it happens, `written` after so many writes.
    """

    def __init__(self, database: SqlDatabase, poison: UUID, *, writes: int = 1) -> None:
        self._database = database
        self._poison = poison
        self._left = writes
        self.broken = False
        self.failed = asyncio.Event()
        self.written = asyncio.Event()

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._database.read(work)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        def poisoned(connection: sa.Connection) -> T:
            done = work(connection)
            rows = recipients_of(connection, self._poison)
            if self.broken or any(row.state == "failed" for row in rows):
                connection.exec_driver_sql("SELECT * FROM no_such_table")
            return done

        try:
            done = await self._database.write(poisoned)
        except DirectError:
            self.failed.set()
            raise
        self._left -= 1
        if self._left == 0:
            self.written.set()
        return done


def watching(agent: Agent, database: Poisoned) -> Transmission:
    return Transmission(
        database=database,
        bodies=agent.bodies,
        sender=agent.peers,
        observer=agent.metrics,
        clock=agent.clock,
        retry_at=retry_at,
    )


async def test_watch_goes_on_after_the_database_failed(agent: Agent) -> None:
    message = await sealed(agent)
    agent.clock.now += WINDOW
    database = Poisoned(agent.database, UUID(int=0))
    database.broken = True
    watch = asyncio.create_task(watching(agent, database).watch(0.01))
    async with asyncio.timeout(10):
        await database.failed.wait()
        database.broken = False
        await database.written.wait()
    watch.cancel()
    assert set((await agent.states(message)).values()) == {"failed"}


async def test_message_that_cannot_be_recorded_does_not_hold_up_others(agent: Agent) -> None:
    bad = await agent.submit(mail(RIVERA, CHEN), CHEN)
    good = await agent.submit(mail(RIVERA, GP, message_id="<2@hillside.example>"), GP)
    agent.clock.now += WINDOW
    transmission = watching(agent, Poisoned(agent.database, bad))
    with pytest.raises(DirectError) as caught:
        await transmission.time_out()
    assert caught.value.reason is Reason.INTERNAL
    assert await agent.states(good) == {GP: "failed"}
    assert await agent.states(bad) == {CHEN: "queued"}


async def test_more_than_fits_at_a_time_is_failed_in_turns(agent: Agent) -> None:
    for number in range(LATE_AT_A_TIME + 1):
        await agent.submit(mail(RIVERA, CHEN, message_id=f"<{number}@x.example>"), CHEN)
    agent.clock.now += WINDOW
    database = Poisoned(agent.database, UUID(int=0), writes=LATE_AT_A_TIME + 1)
    watch = asyncio.create_task(watching(agent, database).watch(3600))
    async with asyncio.timeout(60):
        await database.written.wait()
    watch.cancel()


async def test_every_change_is_in_the_audit_chain_without_content(agent: Agent) -> None:
    message = await sealed(agent)
    await agent.run("deliver")
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    events = await agent.database.read(partial(audit.list_events, limit=100))
    about = [event for event in events if event.subject == f"{message} {CHEN.key}"]
    assert sorted((event.action, event.outcome) for event in about) == [
        ("mdn-processed", "ignored"),
        ("mdn-processed", "processed"),
        ("relayed", "relayed"),
    ]
    assert "Referral" not in repr(events)
    assert await agent.database.read(audit.verify) is None


async def test_unknown_recipient_of_a_change_is_ignored(agent: Agent) -> None:
    message = await sealed(agent)
    loaded = await agent.message(message)
    changes = [Change(GP, Event.RELAYED)]
    applied = await agent.database.write(lambda c: progress.advance(c, loaded, changes, now=NOW))
    assert applied == ()
