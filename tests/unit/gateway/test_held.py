"""A sender sees that an administrator holds a message back (fhir.md 3.5)."""

from __future__ import annotations

from uuid import UUID

import pytest

from certs.ids import new_id
from gateway import queue_control
from gateway.queue import NewJob, put
from tests.helpers.agent import CHEN, GP, NURSE, RIVERA, Agent, mail
from tests.helpers.fhir_sender import TERMS, codes, sent, shown, tasks
from tests.helpers.pki import NOW


async def job_to(agent: Agent, destination: str) -> UUID:
    [found] = [each.id for each in await agent.jobs() if each.destination == destination]
    return found


async def act(agent: Agent, verb: str, job: UUID) -> None:
    await agent.database.write(lambda c: queue_control.act(c, verb, job, NOW))


async def test_who_waits_for_a_job_that_is_held_is_held(agent: Agent) -> None:
    await sent(agent, CHEN, GP, NURSE)
    await agent.run("outgoing")
    await act(agent, "hold", await job_to(agent, GP.domain))
    assert await codes(agent) == {CHEN.key: "queued", GP.key: "held", NURSE.key: "queued"}
    resource = await shown(agent)
    assert resource["status"] == "on-hold"
    assert resource["statusReason"] == {
        "coding": [{"system": TERMS.system("delivery-reason"), "code": "held"}],
        "text": "An administrator holds it back",
    }
    assert await tasks(agent) == ["on-hold", "requested", "requested"]
    # What becomes of the others changes nothing of it.
    await agent.run("deliver")
    assert await codes(agent) == {CHEN.key: "relayed", GP.key: "held", NURSE.key: "relayed"}
    assert (await shown(agent))["status"] == "on-hold"


async def test_what_was_not_secured_yet_is_held_for_all(agent: Agent) -> None:
    await sent(agent, CHEN, GP)
    [job] = await agent.jobs()
    await act(agent, "hold", job.id)
    assert set((await codes(agent)).values()) == {"held"}


@pytest.mark.parametrize(
    ("verb", "then"),
    [
        pytest.param("release", "queued", id="released"),
        pytest.param("retry", "queued", id="tried-now"),
        pytest.param("fail", "queued", id="given-up-by-the-next-try"),
        pytest.param("drop", "queued", id="dropped"),
    ],
)
async def test_what_is_no_more_held_is_shown_so(agent: Agent, verb: str, then: str) -> None:
    await sent(agent, CHEN)
    await agent.run("outgoing")
    job = await job_to(agent, CHEN.domain)
    await act(agent, "hold", job)
    await act(agent, verb, job)
    assert await codes(agent) == {CHEN.key: then}
    resource = await shown(agent)
    assert (resource["status"], "statusReason" in resource) == ("in-progress", False)
    assert await tasks(agent) == ["requested"]


async def test_what_was_given_up_while_held_fails(agent: Agent) -> None:
    await sent(agent, CHEN)
    await agent.run("outgoing")
    job = await job_to(agent, CHEN.domain)
    await act(agent, "hold", job)
    await act(agent, "fail", job)
    await agent.run()
    assert await codes(agent) == {CHEN.key: "failed"}
    assert (await shown(agent))["status"] == "stopped"


async def test_a_job_that_no_client_sees_is_held_all_the_same(agent: Agent) -> None:
    await agent.submit(mail(RIVERA, CHEN), CHEN)
    [job] = await agent.jobs()
    await act(agent, "hold", job.id)
    [job] = await agent.jobs()
    assert job.state.value == "held"
    assert await agent.resources("Communication", RIVERA) == []


async def test_what_waits_for_a_paused_domain_is_held(agent: Agent) -> None:
    await agent.database.write(lambda c: queue_control.pause(c, GP.domain, NOW))
    await sent(agent, CHEN, GP)
    await agent.run("outgoing")
    assert await codes(agent) == {CHEN.key: "queued", GP.key: "held"}
    assert (await shown(agent))["status"] == "on-hold"
    await agent.run("deliver")
    assert await codes(agent) == {CHEN.key: "relayed", GP.key: "held"}


@pytest.mark.parametrize("count", [1, queue_control.SHOWN_AT_A_TIME])
async def test_what_waits_is_shown_as_its_domain_is_paused_and_resumed(
    agent: Agent, count: int
) -> None:
    await sent(agent, CHEN, GP)
    await agent.run("outgoing")
    for _ in range(count - 1):  # of those whom nobody sees, or who are gone
        gone = NewJob("deliver", {"message": str(new_id(NOW))}, NOW, GP.domain)
        await agent.database.write(lambda c, gone=gone: put(c, gone, NOW))
    for change, code in ((queue_control.pause, "held"), (queue_control.resume, "queued")):
        more = (NOW,) if change is queue_control.pause else ()
        await agent.database.write(lambda c, f=change, more=more: f(c, GP.domain, *more))
        last: UUID | None = UUID(int=0)
        steps = 0
        while last is not None:
            last = await agent.database.write(
                lambda c, last=last: queue_control.show_some(c, GP.domain, last, NOW)
            )
            steps += 1
        assert steps == (1 if count == 1 else 2)
        assert await codes(agent) == {CHEN.key: "queued", GP.key: code}
