from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from certs.errors import DirectError, Reason
from gateway.outcomes import Task, expired, load, must_go_on, undecided, without_key
from gateway.queue import Job, JobState
from gateway.queue_control import GIVE_UP
from tests.helpers.agent import CHEN, GP, RIVERA, Agent, identity, mail
from tests.helpers.pki import NOW
from trust_bundles.decision import Decision

READY = JobState.READY
JOB = Job(UUID(int=1), "outgoing", "", None, READY, NOW, NOW, 1, None, None, None, None, {})


async def task(agent: Agent) -> Task:
    message = await agent.submit(mail(RIVERA, GP, CHEN), GP, CHEN)
    job = replace(JOB, payload={"message": str(message)})
    return await agent.database.read(lambda c: load(c, job))


async def test_task_has_its_recipients_in_the_order_of_the_envelope(agent: Agent) -> None:
    found = await task(agent)
    assert found.addresses == (GP, CHEN)
    assert found.author == RIVERA
    assert await agent.body(found.body_key) == mail(RIVERA, GP, CHEN)


async def test_job_about_no_message_is_an_internal_error(agent: Agent) -> None:
    job = replace(JOB, payload={"message": str(UUID(int=9))})
    with pytest.raises(DirectError) as caught:
        await agent.database.read(lambda c: load(c, job))
    assert caught.value.reason is Reason.INTERNAL


async def test_message_without_author_or_body_is_an_internal_error(agent: Agent) -> None:
    found = await task(agent)
    empty = replace(found, message=replace(found.message, author=None, body_key=None))
    for name in ("author", "body_key"):
        with pytest.raises(DirectError) as caught:
            getattr(empty, name)
        assert caught.value.reason is Reason.INTERNAL


def test_job_goes_on_unless_it_was_given_up() -> None:
    must_go_on(JOB)
    with pytest.raises(DirectError) as caught:
        must_go_on(replace(JOB, payload={GIVE_UP: True}))
    assert caught.value.reason is Reason.DELIVERY_EXPIRED


def test_decision_that_is_turned_down_has_no_certificate_left() -> None:
    good = Decision(CHEN, (identity(CHEN).certificate,), (), None, None)
    turned_down = without_key(good)
    assert (turned_down.certificates, turned_down.reason) == ((), Reason.SENDER_NOT_ALLOWED)


def test_decision_that_could_not_be_made_in_time_keeps_its_detail() -> None:
    waiting = Decision(CHEN, (), (), Reason.DIRECTORY_UNAVAILABLE, "no answer")
    assert expired(waiting) == replace(waiting, reason=Reason.DELIVERY_EXPIRED)


def test_error_of_the_whole_message_is_each_recipients() -> None:
    error = DirectError(Reason.MESSAGE_MALFORMED, "no encoding")
    assert undecided(CHEN, error) == Decision(CHEN, (), (), Reason.MESSAGE_MALFORMED, "no encoding")
