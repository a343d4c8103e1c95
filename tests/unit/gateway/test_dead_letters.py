"""gateway.dead_letters: through the worker's eyes, with the agent of one gateway."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from certs.errors import Reason
from gateway import queue_control
from gateway.dead_letters import abandon
from gateway.messages import Direction, Kind, MessageState
from gateway.queue import Job
from gateway.queue_control import GIVE_UP
from tests.helpers.agent import CHEN, NURSE, RIVERA, Agent, mail


async def buried(agent: Agent, kind: str) -> Job:
    """The one job of this kind, abandoned and gone from the queue."""
    [job] = [each for each in await agent.jobs() if each.kind == kind]
    await agent.database.write(lambda c: abandon(c, job, agent.clock()))
    await agent.database.write(lambda c: queue_control.drop(c, job.id, agent.clock()))
    return job


async def reported(agent: Agent) -> int:
    await agent.run("report")
    return len(await agent.listed(Direction.INCOMING, Kind.DSN))


async def test_sender_is_told_that_a_message_could_not_be_secured(agent: Agent) -> None:
    message = await agent.submit(mail(RIVERA, CHEN, NURSE), CHEN, NURSE)
    await buried(agent, "outgoing")
    rows = await agent.rows(message)
    assert {row.state for row in rows.values()} == {"failed"}
    assert {row.reason for row in rows.values()} == {Reason.INTERNAL}
    assert await reported(agent) == 1


async def test_sender_is_told_that_a_copy_could_not_be_sent_and_of_no_other(agent: Agent) -> None:
    agent.discovery.failing.add(NURSE)
    message = await agent.submit(mail(RIVERA, CHEN, NURSE), CHEN, NURSE)
    await agent.run("outgoing")
    await buried(agent, "deliver")
    assert await agent.states(message) == {CHEN: "failed", NURSE: "queued"}
    assert await reported(agent) == 1


async def test_sender_at_another_hisp_is_told_that_a_mail_server_could_not_be_given_it(
    agent: Agent,
) -> None:
    agent.mail_servers.add(RIVERA)
    message = await agent.receive(mail(CHEN, RIVERA), RIVERA)
    await agent.run("incoming")
    await buried(agent, "relay")
    await agent.run("relay")
    assert await agent.states(message) == {RIVERA: "failed"}
    assert agent.peers.sent == []
    told = [await agent.body(m.body_key) for m in await agent.listed(Direction.OUTGOING, Kind.MDN)]
    assert [b";failed\r\n" in text for text in told].count(True) == 1


async def test_what_cannot_even_be_given_up_is_not_tried_for_ever(agent: Agent) -> None:
    agent.mail_servers.add(RIVERA)
    message = await agent.receive(mail(CHEN, RIVERA), RIVERA)
    await agent.run("incoming")
    await buried(agent, "relay")
    assert await agent.states(message) == {RIVERA: "processed"}
    assert GIVE_UP in (await buried(agent, "relay")).payload
    assert [job.kind for job in await agent.jobs()] == ["outgoing"]
    assert await agent.states(message) == {RIVERA: "failed"}


async def test_received_message_that_cannot_be_judged_waits_for_the_administrator(
    agent: Agent,
) -> None:
    message = await agent.receive(mail(CHEN, RIVERA), RIVERA)
    [job] = await agent.jobs()
    await agent.database.write(lambda c: abandon(c, job, agent.clock()))
    assert (await agent.message(message)).state is MessageState.RECEIVED
    assert await agent.listed(Direction.OUTGOING) == []
    # The administrator has found the reason, and retries it.
    await agent.run("incoming")
    assert await agent.states(message) == {RIVERA: "dispatched"}


async def test_job_about_a_message_that_is_gone_concerns_nobody(agent: Agent) -> None:
    await agent.submit(mail(RIVERA, CHEN), CHEN)
    [job] = await agent.jobs()
    gone = replace(job, payload={"message": str(UUID(int=1))})
    await agent.database.write(lambda c: abandon(c, gone, agent.clock()))
    assert [each.kind for each in await agent.jobs()] == ["outgoing"]
