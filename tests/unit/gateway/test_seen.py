"""What a recipient's system tells beside the delivery is shown, and completes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from certs.address import DirectAddress
from fhir_bridge.delivery import delivery_of
from gateway.mdn import Disposition, Seen
from gateway.messages import MessageState
from tests.helpers.agent import CHEN, NURSE, RIVERA, WANTS_DISPATCHED, Agent, mail
from tests.helpers.fhir_sender import ABOUT, TERMS, codes, sent, shown, tasks

PROCESSED, DISPATCHED, FAILED = Disposition.PROCESSED, Disposition.DISPATCHED, Disposition.FAILED
DISPLAYED, DELETED = Seen.DISPLAYED, Seen.DELETED


async def relayed(agent: Agent, *recipients: DirectAddress, wants_dispatched: bool = False) -> None:
    await sent(agent, *recipients, wants_dispatched=wants_dispatched)
    await agent.run("outgoing", "deliver")


async def hear(agent: Agent, *told: Disposition | Seen) -> None:
    for each in told:
        await agent.mdn(each, ABOUT, final_destination=each is DISPATCHED)


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ([DISPLAYED], "displayed"),
        ([DELETED], "deleted"),
        ([PROCESSED, DISPLAYED], "displayed"),
        ([PROCESSED, DISPATCHED, DISPLAYED], "displayed"),
        ([DISPLAYED, PROCESSED], "displayed"),
        ([DISPLAYED, DELETED], "deleted"),
        ([DELETED, DISPLAYED], "deleted"),  # notices may arrive in any order
        ([DISPLAYED, DISPATCHED], "displayed"),
        ([FAILED, DISPLAYED], "failed"),
        ([PROCESSED, DISPLAYED, FAILED], "failed"),
    ],
)
async def test_what_was_seen_is_shown_of_what_has_not_failed(
    agent: Agent, told: Sequence[Disposition | Seen], code: str
) -> None:
    await relayed(agent, CHEN)
    await hear(agent, *told)
    assert await codes(agent) == {CHEN.key: code}
    resource = await shown(agent)
    assert resource["status"] == ("stopped" if code == "failed" else "completed")
    assert ("received" in resource) == (code != "failed")
    assert await tasks(agent) == ["failed" if code == "failed" else "completed"]


@pytest.mark.parametrize(
    ("told", "code", "status"),
    [
        ([DISPLAYED], "processed", "in-progress"),
        ([PROCESSED, DELETED], "processed", "in-progress"),
        ([PROCESSED, DELETED, DISPATCHED], "deleted", "completed"),
        ([DISPATCHED, DISPLAYED], "displayed", "completed"),
        ([DISPATCHED], "early", "in-progress"),
    ],
)
async def test_who_awaits_a_dispatched_notice_is_not_told_of_less(
    agent: Agent, told: Sequence[Disposition | Seen], code: str, status: str
) -> None:
    await relayed(agent, CHEN, wants_dispatched=True)
    await hear(agent, *told)
    assert await codes(agent) == {CHEN.key: code}
    assert (await shown(agent))["status"] == status


async def test_what_one_has_seen_is_not_said_of_another(agent: Agent) -> None:
    await relayed(agent, CHEN, NURSE)
    await hear(agent, DISPLAYED)
    assert await codes(agent) == {CHEN.key: "displayed", NURSE.key: "relayed"}
    await agent.mdn(DELETED, ABOUT, recipient=NURSE)  # AS-097: who does not speak for her
    assert await codes(agent) == {CHEN.key: "displayed", NURSE.key: "relayed"}


async def test_the_notice_that_says_so_is_named(agent: Agent) -> None:
    await relayed(agent, CHEN)
    [recipient] = (await shown(agent))["recipient"]
    assert "mdn" not in delivery_of(recipient, TERMS)
    names = []
    for told in (PROCESSED, DISPLAYED, PROCESSED):
        notice = await agent.message(await agent.mdn(told, ABOUT))
        [recipient] = (await shown(agent))["recipient"]
        names.append((notice.message_id_header, delivery_of(recipient, TERMS)["mdn"]))
    first, second, again = names
    assert [f"mid:{(header or '')[1:-1]}" for header, _ in (first, second)] == [
        first[1],
        second[1],
    ]
    assert again[1] == second[1]  # what changed nothing is no evidence of anything


async def test_a_message_that_is_finished_stays_so_as_it_is_read(agent: Agent) -> None:
    message = await sent(agent, CHEN)
    await agent.run("outgoing", "deliver")
    await hear(agent, PROCESSED)
    before = await agent.message(message)
    assert before.state is MessageState.FINISHED
    await hear(agent, DISPLAYED)
    assert await agent.message(message) == before


async def test_a_sender_at_the_mail_edge_is_told_of_a_success_once(agent: Agent) -> None:
    content = mail(RIVERA, CHEN, message_id=ABOUT, more=[WANTS_DISPATCHED])
    await agent.submit(content, CHEN)
    await agent.run("outgoing", "deliver")
    await hear(agent, PROCESSED, DISPATCHED)
    told = [job.kind for job in await agent.jobs()]
    await hear(agent, DISPLAYED, DELETED)
    assert [job.kind for job in await agent.jobs()] == told == ["confirm"]
