from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest
import sqlalchemy as sa

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.ids import new_id
from fhir_bridge.ports import Body, Submission
from gateway import messages
from gateway.fhir_ports import FhirBodies
from gateway.messages import Direction, Source
from gateway.ports import StoredBody
from tests.helpers.agent import CHEN, GP, NURSE, RIVERA, WINDOW, Agent, mail
from tests.helpers.pki import NOW

LONG_S = 30.0


async def submission(agent: Agent) -> Submission:
    sink = agent.fhir_bodies.sink()
    sink.write(mail(RIVERA, CHEN, GP))
    return Submission(RIVERA, (CHEN, GP), await sink.finish(), "<1@hillside.example>", True)


async def submit(agent: Agent) -> UUID:
    return await agent.outbox.submit(await submission(agent), lambda _connection, _id: None)


async def test_submission_is_committed_with_its_job_and_what_the_bridge_records(
    agent: Agent,
) -> None:
    recorded: list[UUID] = []

    def record(connection: sa.Connection, identifier: UUID) -> None:
        assert messages.get(connection, identifier) is not None
        recorded.append(identifier)

    identifier = await agent.outbox.submit(await submission(agent), record)
    assert recorded == [identifier]
    message = await agent.message(identifier)
    assert (message.direction, message.source, message.author, message.envelope_sender) == (
        Direction.OUTGOING,
        Source.FHIR,
        RIVERA,
        RIVERA,
    )
    assert (message.message_id_header, message.wants_dispatched) == ("<1@hillside.example>", True)
    assert {row.due_at for row in (await agent.rows(identifier)).values()} == {NOW + WINDOW}
    assert [job.kind for job in await agent.jobs()] == ["outgoing"]
    assert agent.woken == [None]


async def test_submission_for_a_foreign_sender_leaves_nothing_behind(agent: Agent) -> None:
    foreign = replace(await submission(agent), sender=parse_address("x@direct.hillside.example"))
    with pytest.raises(DirectError) as caught:
        await agent.outbox.submit(foreign, lambda _connection, _id: None)
    assert caught.value.reason is Reason.SENDER_NOT_ALLOWED
    assert await agent.listed() == []


async def test_submission_that_the_bridge_cannot_record_leaves_nothing_behind(
    agent: Agent,
) -> None:
    def refuse(_connection: sa.Connection, _id: UUID) -> None:
        raise DirectError(Reason.RESOURCE_CONFLICT, "taken")

    with pytest.raises(DirectError) as caught:
        await agent.outbox.submit(await submission(agent), refuse)
    assert caught.value.reason is Reason.RESOURCE_CONFLICT
    assert await agent.listed() == []
    assert agent.woken == []


async def test_content_that_is_in_no_sink_of_ours_is_an_internal_error(agent: Agent) -> None:
    class Elsewhere:
        key, size, sha256 = "key", 1, "0" * 64

    foreign = replace(await submission(agent), content=Elsewhere())
    with pytest.raises(DirectError) as caught:
        await agent.outbox.submit(foreign, lambda _connection, _id: None)
    assert caught.value.reason is Reason.INTERNAL


async def test_settled_waits_until_each_recipient_is_decided_on(agent: Agent) -> None:
    agent.discovery.failing.add(GP)
    identifier = await submit(agent)
    waiting = asyncio.create_task(agent.outbox.settled(identifier, LONG_S))
    await asyncio.sleep(0)
    assert not waiting.done()
    await agent.run("outgoing")
    # One is sealed, the other waits for a reason: that is a decision to show.
    async with asyncio.timeout(LONG_S / 2):
        await waiting


async def test_settled_ends_when_its_time_is_over(agent: Agent) -> None:
    identifier = await submit(agent)
    async with asyncio.timeout(LONG_S):
        await agent.outbox.settled(identifier, 0.01)
    assert set((await agent.states(identifier)).values()) == {"queued"}


async def test_bodies_are_recorded_opened_and_read(agent: Agent) -> None:
    bodies = FhirBodies(bodies=agent.bodies, clock=agent.clock)
    sink = bodies.sink()
    sink.write(b"octets")
    stored = await sink.finish()
    assert isinstance(stored, StoredBody)
    await agent.database.write(lambda c: bodies.record(c, stored))
    async with bodies.open(stored.key) as file:
        assert file.read() == b"octets"


async def test_a_blind_copy_is_sealed_apart_for_its_recipient_alone(agent: Agent) -> None:
    async def written(message_id: str, *to: DirectAddress) -> Body:
        sink = agent.fhir_bodies.sink()
        sink.write(mail(RIVERA, *to, message_id=message_id))
        return await sink.finish()

    ids = [new_id(NOW), new_id(NOW)]
    copies = []
    for identity, blind in zip(ids, (NURSE, GP), strict=True):
        own = f"<{identity}@direct.hillside.example>"
        content = await written(own, CHEN, blind)
        copies.append(Submission(RIVERA, (blind,), content, own, False, identity))
    seen = Submission(
        RIVERA,
        (CHEN,),
        await written("<s@x.example>", CHEN),
        "<s@x.example>",
        False,
        None,
        tuple(copies),
    )
    recorded: list[UUID] = []
    first = await agent.outbox.submit(seen, lambda _, identifier: recorded.append(identifier))
    assert recorded == [first]
    await agent.run()
    sent = {copy.recipients: copy for copy in agent.peers.sent}
    assert set(sent) == {(CHEN,), (NURSE,), (GP,)}  # an envelope for each
    for (recipient,), copy in sent.items():
        others = {CHEN, NURSE, GP} - {recipient}
        opened = copy.opened(recipient)
        outer = copy.content.partition(b"\r\n\r\n")[0]
        for hidden in others - {CHEN}:
            assert str(hidden).encode() not in opened
            assert str(hidden).encode() not in outer
        for other in others:
            with pytest.raises(DirectError) as caught:  # no RecipientInfo is for anybody else
                copy.opened(other)
            assert caught.value.reason is Reason.DECRYPTION_FAILED
    assert [await agent.states(one) for one in (first, *ids)] == [
        {CHEN: "relayed"},
        {NURSE: "relayed"},
        {GP: "relayed"},
    ]


async def test_copies_are_committed_together_or_not_at_all(agent: Agent) -> None:
    first = await submission(agent)
    foreign = replace(first, copies=(await submission(agent),))

    def refuse(_connection: sa.Connection, _id: UUID) -> None:
        raise DirectError(Reason.RESOURCE_CONFLICT, "the Message-ID is used already")

    with pytest.raises(DirectError):
        await agent.outbox.submit(foreign, refuse)
    assert await agent.jobs() == []
