from __future__ import annotations

import io
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from certs.issuers import sha256_of
from fhir_bridge.inbound import Trust as TrustShown
from fhir_bridge.terms import Terms
from gateway.inbox import Arrival, Inbox, store
from gateway.judgement import Judgement
from tests.helpers.agent import CHEN, DESK, GP, RIVERA, Agent, identity, mail, our_ca, peer_ca
from tests.helpers.pki import NOW
from tests.helpers.places import FixedPlaces
from trust_bundles.decision import Decision

TRUST = TrustShown("trusted", None, None, None, None, None, None, NOW)
INBOX = Inbox(places=FixedPlaces({DESK}), terms=Terms())


async def arrived(agent: Agent, content: bytes) -> tuple[UUID, Arrival]:
    """A message that was accepted, as far as its entry in the inbox is concerned."""
    identifier = await agent.receive(content, RIVERA, DESK)
    message = await agent.message(identifier)
    sink = agent.bodies.sink()
    sink.write(content)
    body = await sink.finish()
    await agent.database.write(lambda c: agent.fhir_bodies.record(c, body))
    return identifier, Arrival(message.id, body, "<1@hillside.example>", TRUST, NOW)


async def test_reader_without_a_mail_server_can_read_as_soon_as_it_is_stored(agent: Agent) -> None:
    content = mail(CHEN, RIVERA, DESK)
    identifier, arrival = await arrived(agent, content)
    entry = await INBOX.entry(arrival, io.BytesIO(content), RIVERA)
    assert entry.dispatched
    await agent.database.write(lambda c: store(c, entry, NOW))
    assert (await agent.states(identifier))[RIVERA] == "dispatched"
    assert "Referral of Jane Roe" in (await agent.inbox(identifier))[RIVERA.key]


async def test_entry_is_made_of_the_whole_message_wherever_its_file_stands(agent: Agent) -> None:
    content = mail(CHEN, RIVERA)
    _, arrival = await arrived(agent, content)
    file = io.BytesIO(content)
    file.seek(40)
    entry = await INBOX.entry(arrival, file, RIVERA)
    assert entry.view is not None
    assert entry.view.message_id == "<1@hillside.example>"


async def test_reader_with_a_mail_server_gets_a_job_to_relay(agent: Agent) -> None:
    content = mail(CHEN, RIVERA, DESK)
    identifier, arrival = await arrived(agent, content)
    entry = await INBOX.entry(arrival, io.BytesIO(content), DESK)
    assert not entry.dispatched
    await agent.database.write(lambda c: store(c, entry, NOW))
    assert (await agent.states(identifier))[DESK] == "processed"
    assert await agent.inbox(identifier) == {}
    [job] = [each for each in await agent.jobs() if each.kind == "relay"]
    assert job.destination == DESK.key
    assert job.payload == {
        "message": str(identifier),
        "recipient": str(DESK),
        "body": arrival.content.key,
        "size": len(content),
    }


async def test_pool_keeps_its_own_and_each_member_gets_a_copy_where_it_reads(agent: Agent) -> None:
    content = mail(CHEN, RIVERA)
    identifier, arrival = await arrived(agent, content)
    pool = FixedPlaces({DESK}, {RIVERA: (DESK, GP), GP: (RIVERA,)})
    entry = await Inbox(places=pool, terms=Terms()).entry(arrival, io.BytesIO(content), RIVERA)
    assert entry.dispatched
    await agent.database.write(lambda c: store(c, entry, NOW))
    assert set(await agent.inbox(identifier)) == {RIVERA.key, GP.key}
    assert (await agent.states(identifier))[RIVERA] == "dispatched"
    [job] = [each for each in await agent.jobs() if each.kind == "relay"]
    assert (job.destination, job.payload["copy"]) == (DESK.key, True)


async def twice(agent: Agent, first: bytes, second: bytes) -> list[UUID]:
    """Receive and judge two messages; return those that are in the inbox."""
    identifiers = []
    for content in (first, second):
        identifiers.append(await agent.receive(content, RIVERA))
        await agent.run("incoming")
    return [each for each in identifiers if await agent.inbox(each)]


async def test_same_message_again_is_not_shown_again(agent: Agent) -> None:
    content = mail(CHEN, RIVERA)
    assert len(await twice(agent, content, content)) == 1


async def test_same_message_id_over_other_content_is_shown(agent: Agent) -> None:
    assert len(await twice(agent, mail(CHEN, RIVERA), mail(CHEN, RIVERA, body="Other."))) == 2


async def test_messages_without_an_id_are_never_the_same(agent: Agent) -> None:
    content = mail(CHEN, RIVERA, message_id=None)
    assert len(await twice(agent, content, content)) == 2


async def test_message_is_compared_with_those_of_its_id_not_with_the_whole_mailbox(
    agent: Agent,
) -> None:
    content = mail(CHEN, RIVERA)
    _, arrival = await arrived(agent, content)
    entry = await INBOX.entry(arrival, io.BytesIO(content), RIVERA)

    def plan(connection: Connection) -> list[str]:
        sqlite: Any = connection.connection.dbapi_connection
        asked: list[str] = []
        sqlite.set_trace_callback(asked.append)
        store(connection, entry, NOW)
        sqlite.set_trace_callback(None)
        [asks] = [text for text in asked if "WHERE message.message_id_header =" in text]
        return [row[3] for row in sqlite.execute(f"EXPLAIN QUERY PLAN {asks}")]

    first = (await agent.database.write(plan))[0]
    assert first.startswith("SEARCH message USING INDEX ix_message_message_id_header")


async def test_same_message_that_was_refused_before_is_shown(agent: Agent) -> None:
    content = mail(CHEN, RIVERA)
    refused = await agent.receive(content, RIVERA, signer=our_ca().issue(address=str(CHEN)))
    await agent.run("incoming")
    assert await agent.states(refused) == {RIVERA: "refused"}
    accepted = await agent.receive(content, RIVERA)
    await agent.run("incoming")
    assert await agent.inbox(accepted) != {}


async def test_what_a_reader_is_told_of_the_signer(agent: Agent) -> None:
    identifier = await agent.receive(mail(CHEN, RIVERA), RIVERA)
    await agent.run("incoming")
    shown = (await agent.inbox(identifier))[RIVERA.key]
    for certificate in (identity(CHEN).certificate, peer_ca().certificate):
        assert sha256_of(certificate).hex() in shown
    assert "address-bound" in shown
    assert "aes256-cbc" in shown


def test_reader_for_whom_nothing_was_found_is_told_of_no_signer() -> None:
    judgement = Judgement({RIVERA: Decision(CHEN, (), (), None, None)})
    assert judgement.deciding is None
    assert judgement.deciding_for(RIVERA) is None
