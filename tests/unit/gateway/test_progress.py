from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
import sqlalchemy as sa

from certs.errors import Reason
from fhir_bridge.ports import Submission
from gateway import progress
from gateway.messages import MessageState
from gateway.progress import Change
from gateway.tracking import Event, State
from tests.helpers.agent import (
    CHEN,
    GP,
    NURSE,
    RIVERA,
    WANTS_DISPATCHED,
    WINDOW,
    Agent,
    mail,
)
from tests.helpers.pki import NOW

ADVANCE = timedelta(minutes=5)
REACHED_BY: dict[State, list[Event]] = {
    State.QUEUED: [],
    State.RELAYED: [Event.RELAYED],
    State.PROCESSED: [Event.MDN_PROCESSED],
    State.EARLY: [Event.MDN_DISPATCHED],
    State.DISPATCHED: [Event.MDN_PROCESSED, Event.MDN_DISPATCHED],
    State.FAILED: [Event.REFUSED],
}


async def submitted(agent: Agent, more: str = "X-None: 1") -> UUID:
    return await agent.submit(mail(RIVERA, CHEN, NURSE, more=[more]), CHEN, NURSE)


async def advance(agent: Agent, message: UUID, *changes: Change) -> Sequence[Change]:
    loaded = await agent.message(message)
    return await agent.database.write(
        lambda c: progress.advance(c, loaded, changes, now=NOW + ADVANCE)
    )


async def reported(agent: Agent) -> list[dict[str, str | None]]:
    jobs = [job for job in await agent.jobs() if job.kind == "report"]
    return [failure for job in jobs for failure in job.payload["outcomes"]]


async def test_change_is_recorded_with_its_time_and_the_next_deadline(agent: Agent) -> None:
    message = await submitted(agent)
    change = Change(CHEN, Event.RELAYED, status="2.0.0")
    assert await advance(agent, message, change) == (change,)
    row = (await agent.rows(message))[CHEN]
    assert (row.state, row.status, row.relayed_at) == ("relayed", "2.0.0", NOW + ADVANCE)
    assert row.due_at == NOW + WINDOW


async def test_last_change_leaves_no_deadline_and_finishes_the_message(agent: Agent) -> None:
    message = await submitted(agent)
    await advance(agent, message, Change(CHEN, Event.MDN_PROCESSED))
    assert (await agent.message(message)).state is MessageState.RECEIVED
    await advance(agent, message, Change(NURSE, Event.MDN_PROCESSED))
    rows = await agent.rows(message)
    assert {row.due_at for row in rows.values()} == {None}
    assert (await agent.message(message)).state is MessageState.FINISHED


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([Change(GP, Event.RELAYED)], id="no-recipient"),
        pytest.param([Change(CHEN, Event.MDN_PROCESSED)] * 2, id="twice"),
        pytest.param(
            [Change(CHEN, Event.TIME_OUT), Change(CHEN, Event.MDN_PROCESSED)], id="after-the-end"
        ),
    ],
)
async def test_change_that_comes_too_late_or_for_nobody_changes_nothing(
    agent: Agent, changes: list[Change]
) -> None:
    message = await submitted(agent)
    assert await advance(agent, message, *changes) == tuple(changes[:-1])


async def test_of_two_that_compete_one_counts(agent: Agent) -> None:
    message = await submitted(agent)
    loaded = await agent.message(message)
    first, second = Change(CHEN, Event.TIME_OUT), Change(CHEN, Event.REFUSED)

    def both(connection: sa.Connection) -> list[Sequence[Change]]:
        move = partial(progress.advance, connection, loaded, now=NOW)
        return [move([first]), move([second])]

    assert await agent.database.write(both) == [(first,), ()]
    assert len(await reported(agent)) == 1


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        pytest.param(
            Change(CHEN, Event.REFUSED, Reason.BACKBONE_REFUSED, "detail", "5.1.1", "Unknown"),
            "5.1.1",
            "Unknown",
            id="the-peer's-own-words",
        ),
        pytest.param(
            Change(CHEN, Event.REFUSED, Reason.CERTIFICATE_NOT_FOUND, "no certificate for x"),
            "5.7.5",
            "No certificate for the address",
            id="by-reason",
        ),
        pytest.param(
            Change(CHEN, Event.REFUSED, Reason.DIRECTORY_UNAVAILABLE),
            "5.4.3",
            "Certificate directory unavailable",
            id="temporary-made-final",
        ),
        pytest.param(
            Change(CHEN, Event.DSN_FAILED),
            "5.0.0",
            "The recipient's system reported a failure",
            id="no-reason",
        ),
        pytest.param(
            Change(CHEN, Event.REFUSED, Reason.BUNDLE_MALFORMED),
            "5.0.0",
            "The recipient's system reported a failure",
            id="reason-without-words",
        ),
    ],
)
async def test_author_at_the_mail_edge_is_told_in_public_words(
    agent: Agent, change: Change, status: str, text: str
) -> None:
    message = await submitted(agent)
    await advance(agent, message, change)
    assert await reported(agent) == [
        {
            "recipient": str(CHEN),
            "action": "failed",
            "status": status,
            "text": text,
            "original": None,
        }
    ]


async def test_success_is_reported_to_nobody(agent: Agent) -> None:
    message = await submitted(agent)
    await advance(agent, message, Change(CHEN, Event.RELAYED))
    assert await reported(agent) == []


async def fhir(agent: Agent) -> UUID:
    sink = agent.fhir_bodies.sink()
    sink.write(mail(RIVERA, CHEN))
    submission = Submission(RIVERA, (CHEN,), await sink.finish(), "<1@hillside.example>", False)
    return await agent.outbox.submit(submission, lambda _connection, _id: None)


async def test_fhir_client_sees_a_failure_on_its_resource_and_gets_no_report(agent: Agent) -> None:
    message = await fhir(agent)
    await advance(agent, message, Change(CHEN, Event.TIME_OUT, Reason.DELIVERY_EXPIRED))
    assert await agent.states(message) == {CHEN: "failed"}
    assert await reported(agent) == []


async def test_failure_of_a_notification_is_reported_to_nobody(agent: Agent) -> None:
    await agent.receive(mail(CHEN, RIVERA, message_id="<7@lakeview.example>"), RIVERA)
    await agent.run("incoming")
    [notice] = [m for m in await agent.listed() if m.kind.value == "mdn"]
    await advance(agent, notice.id, Change(CHEN, Event.REFUSED, Reason.NOT_TRUSTED))
    assert await reported(agent) == []
    assert (await agent.message(notice.id)).state is MessageState.FINISHED


@pytest.mark.parametrize(
    ("state", "more", "waits"),
    [
        (State.QUEUED, "X-None: 1", True),
        (State.RELAYED, "X-None: 1", True),
        (State.PROCESSED, "X-None: 1", False),
        (State.PROCESSED, WANTS_DISPATCHED, True),
        (State.EARLY, WANTS_DISPATCHED, True),
        (State.DISPATCHED, WANTS_DISPATCHED, False),
        (State.FAILED, "X-None: 1", False),
    ],
)
async def test_deadline_is_a_window_after_acceptance_while_something_is_awaited(
    agent: Agent, state: State, more: str, waits: bool
) -> None:
    message = await agent.message(await submitted(agent, more))
    for event in REACHED_BY[state]:
        await advance(agent, message.id, Change(CHEN, event))
    row = (await agent.rows(message.id))[CHEN]
    assert (row.state, row.due_at) == (state.value, NOW + WINDOW if waits else None)
