from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection

from certs.ids import new_id
from gateway import messages
from gateway.answers import Answers, as_accepted
from gateway.messages import Direction, Kind, NewMessage, Source
from gateway.notify import Notify, Wish
from gateway.outcomes import Task
from gateway.recipients import recipients_of
from tests.helpers.agent import CHEN, DESK, RIVERA, Agent
from tests.helpers.pki import NOW


async def notice(agent: Agent) -> NewMessage:
    sink = agent.bodies.sink()
    sink.write(b"Subject: processed\r\n\r\n")
    return NewMessage(
        id=new_id(NOW),
        direction=Direction.OUTGOING,
        source=Source.AGENT,
        actor="agent",
        kind=Kind.MDN,
        envelope_sender=RIVERA,
        author=RIVERA,
        recipients=(CHEN,),
        body=await sink.finish(),
        message_id_header="<mdn@hillside.example>",
        dedupe_key="ab" * 32,
    )


async def test_what_is_known_of_a_message_is_what_is_stored_of_it(agent: Agent) -> None:
    new = replace(
        await notice(agent),
        recipients=(DESK, CHEN, DESK),
        wants_dispatched=True,
        due_at=NOW + timedelta(hours=1),
        envelope_id="QQ314159",
        wishes={CHEN: Wish(frozenset({Notify.SUCCESS}), "rfc822;chen@lakeview.example")},
    )

    def stored(connection: Connection) -> Task:
        messages.accept(connection, new, [], NOW)
        message = messages.get(connection, new.id)
        assert message is not None
        return Task(message, tuple(recipients_of(connection, new.id)))

    assert as_accepted(new, NOW) == await agent.database.write(stored)


async def test_notice_that_was_sent_before_is_not_taken_up_again(agent: Agent) -> None:
    first = await notice(agent)
    again = replace(await notice(agent), id=new_id(NOW))
    answers, others = Answers([first], NOW), Answers([again], NOW)
    await agent.database.write(answers.record)
    await agent.database.write(others.record)
    assert [one.wanted() for one in answers.then] == [True]
    assert [one.wanted() for one in others.then] == [False]


async def test_what_was_rolled_back_is_accepted_at_the_next_try(agent: Agent) -> None:
    answers = Answers([await notice(agent)], NOW)

    def broken(connection: Connection) -> None:
        with connection.begin_nested() as savepoint:
            answers.record(connection)
            savepoint.rollback()

    await agent.database.write(broken)
    await agent.database.write(answers.record)
    [one] = answers.then
    assert one.wanted()
    assert one.job.kind == "outgoing"
