"""Outcomes of one message, and messages of one thread, at the same moment.

Over connections of their own, on PostgreSQL, where two processes' transactions run beside each
other: nothing of either is lost.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from certs.address import DirectAddress
from certs.errors import Reason
from certs.evidence import Level
from certs.ids import new_id
from fhir_bridge.delivery import RecipientState, address_of, delivery_of
from fhir_bridge.ports import Submission
from fhir_bridge.records import delivery_changed
from fhir_bridge.store import insert
from fhir_bridge.terms import Terms, mailto_identifier
from gateway import messages, progress, queue
from gateway.database import SqlDatabase
from gateway.messages import MessageState
from gateway.progress import Change
from gateway.recipients import recipients_of
from gateway.results import Done
from gateway.tracking import Event
from tests.helpers.agent import CHEN, GP, NURSE, RIVERA, Agent, mail, open_agent, peer_ca
from tests.helpers.database import PostgresqlServer
from tests.helpers.pki import NOW

TERMS = Terms()
LATER = NOW + timedelta(minutes=1)
WAIT_S = 30.0
Work = Callable[[sa.Connection], object]


@pytest.fixture
async def url(postgresql_server: PostgresqlServer) -> str:
    return await postgresql_server.migrated_database()


async def sent(agent: Agent, *recipients: DirectAddress) -> UUID:
    """Submit a message by FHIR, beside its resource, and secure it."""
    sink = agent.fhir_bodies.sink()
    sink.write(mail(RIVERA, *recipients))
    resource = {
        "resourceType": "Communication",
        "status": "in-progress",
        "recipient": [{"identifier": mailto_identifier(str(each))} for each in recipients],
        "payload": [{"contentString": "x"}],
    }

    def record(connection: sa.Connection, message: UUID) -> None:
        identity = new_id(NOW)
        insert(
            connection,
            resource,
            identity=identity,
            owner=RIVERA.key,
            now=NOW,
            terms=TERMS,
            message=message,
        )

    content = await sink.finish()
    submission = Submission(RIVERA, recipients, content, f"<{new_id(NOW)}@x.example>", False)
    message = await agent.outbox.submit(submission, record)
    await agent.run("outgoing")
    return message


@dataclass
class Shown:
    """What the database holds of a message in the end."""

    states: dict[DirectAddress, str]
    codes: dict[str | None, str]
    tasks: list[str]
    status: str
    finished: bool


async def shown(agent: Agent, message: UUID) -> Shown:
    [resource] = await agent.resources("Communication", RIVERA)
    tasks = await agent.resources("Task", RIVERA)
    return Shown(
        await agent.states(message),
        {address_of(r): delivery_of(r, TERMS)["code"] for r in resource["recipient"]},
        sorted(task["businessStatus"]["coding"][0]["code"] for task in tasks),
        resource["status"],
        (await agent.message(message)).state is MessageState.FINISHED,
    )


def told(message: UUID, *changes: Change) -> Work:
    def work(connection: sa.Connection) -> object:
        found = messages.get(connection, message)
        assert found is not None
        return progress.advance(connection, found, changes, now=NOW)

    return work


def waits(connection: sa.Connection) -> bool:
    """Say whether another transaction of this database waits for a lock."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND datname = current_database()"
    )
    return int(connection.execute(waiting).scalar_one()) > 0


async def at_once(url: str, first: Work, second: Work, *, then: Work | None = None) -> None:
    """Run two works at the same moment, each over connections of its own.

    The second begins when the first has done its work and not committed; the first goes on (with
    `then`), and commits, once the second waits for it.
    """
    begun = threading.Event()

    def leading(connection: sa.Connection) -> None:
        first(connection)
        begun.set()
        deadline = time.monotonic() + WAIT_S
        while not waits(connection):
            assert time.monotonic() < deadline, "the second waits for nothing"
            time.sleep(0.01)
        if then is not None:
            then(connection)

    def following(connection: sa.Connection) -> None:
        assert begun.wait(WAIT_S)
        second(connection)

    with ThreadPoolExecutor(2) as threads:
        loop = asyncio.get_running_loop()
        works: Sequence[Work] = (leading, following)
        await asyncio.gather(*(loop.run_in_executor(threads, apart, url, work) for work in works))


def apart(url: str, work: Work) -> None:
    """Run `work` as another process does: an event loop and connections of its own."""

    async def main() -> None:
        async with SqlDatabase.open(url, lock_wait_s=WAIT_S) as database:
            await database.write(work)

    asyncio.run(main())


FAILED = Change(GP, Event.DSN_FAILED, Reason.BACKBONE_REFUSED, status="5.1.1")


async def test_outcomes_of_two_recipients_both_land(url: str, tmp_path: Path) -> None:
    async with SqlDatabase.open(url) as database, open_agent(database, tmp_path) as agent:
        message = await sent(agent, CHEN, GP)
        await agent.run()
        await at_once(
            url,
            told(message, Change(CHEN, Event.MDN_PROCESSED)),
            told(message, FAILED),
        )
        assert await shown(agent, message) == Shown(
            {CHEN: "processed", GP: "failed"},
            {CHEN.key: "processed", GP.key: "failed"},
            ["failed", "processed"],
            "stopped",
            True,
        )


async def test_two_outcomes_of_one_recipient_both_count(url: str, tmp_path: Path) -> None:
    """The peer's notice comes while we still record that it took the message."""
    async with SqlDatabase.open(url) as database, open_agent(database, tmp_path) as agent:
        message = await sent(agent, CHEN)
        await at_once(
            url,
            told(message, Change(CHEN, Event.RELAYED)),
            told(message, Change(CHEN, Event.MDN_PROCESSED)),
        )
        found = await shown(agent, message)
        assert (found.states, found.status, found.finished) == (
            {CHEN: "processed"},
            "completed",
            True,
        )


async def test_outcomes_that_cross_do_not_wait_for_each_other(url: str, tmp_path: Path) -> None:
    """The first is of two recipients, one after the other; the second of the latter."""
    async with SqlDatabase.open(url) as database, open_agent(database, tmp_path) as agent:
        message = await sent(agent, CHEN, NURSE)
        await at_once(
            url,
            told(message, Change(CHEN, Event.RELAYED)),
            told(message, Change(NURSE, Event.MDN_PROCESSED)),
            then=told(message, Change(NURSE, Event.RELAYED)),
        )
        assert (await shown(agent, message)).codes == {CHEN.key: "relayed", NURSE.key: "processed"}


async def test_who_shows_the_states_shows_the_latest(url: str, tmp_path: Path) -> None:
    """An outcome lands between the reading of the states and the writing of the resource."""
    async with SqlDatabase.open(url) as database, open_agent(database, tmp_path) as agent:
        message = await sent(agent, CHEN, GP)
        reads: list[int] = []

        def show(connection: sa.Connection) -> None:
            def states() -> list[RecipientState]:
                rows = recipients_of(connection, message)
                if not reads:
                    apart_in_thread(url, told(message, Change(CHEN, Event.RELAYED)))
                reads.append(len(rows))
                return [RecipientState(r.address, r.state, LATER) for r in rows]

            delivery_changed(connection, message=message, states=states, now=NOW)

        await asyncio.to_thread(apart, url, show)
        assert len(reads) == 2
        assert (await shown(agent, message)).codes == {CHEN.key: "relayed", GP.key: "queued"}


def apart_in_thread(url: str, work: Work) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(apart, url, work).result(WAIT_S)


async def test_many_outcomes_at_once_all_land(url: str, tmp_path: Path) -> None:
    """Two processes tell of twenty recipients of one message, in no order."""
    every = [DirectAddress(f"ward{number}", CHEN.domain) for number in range(20)]
    async with (
        SqlDatabase.open(url) as database,
        SqlDatabase.open(url) as other,
        open_agent(database, tmp_path) as agent,
    ):
        domain_bound = peer_ca().issue(domain=CHEN.domain)
        agent.discovery.published = {each: [domain_bound] for each in every}
        agent.discovery.level = Level.DNS_DOMAIN
        message = await sent(agent, *every)

        def show(connection: sa.Connection) -> None:
            found = messages.get(connection, message)
            assert found is not None
            progress.announce(connection, found, NOW)

        works: list[Any] = []
        for number, each in enumerate(every):
            one, two = (database, other) if number % 2 else (other, database)
            works.append(one.write(told(message, Change(each, Event.RELAYED))))
            works.append(two.write(told(message, Change(each, Event.MDN_PROCESSED))))
            works.append(two.write(show))
        await asyncio.gather(*works)
        found = await shown(agent, message)
        assert set(found.states.values()) == set(found.codes.values()) == {"processed"}
        assert (found.tasks, found.status, found.finished) == (
            ["processed"] * 20,
            "completed",
            True,
        )


async def test_messages_of_one_thread_that_come_at_once_are_one_thread(
    url: str, tmp_path: Path
) -> None:
    async with (
        SqlDatabase.open(url) as database,
        SqlDatabase.open(url) as other,
        open_agent(database, tmp_path) as agent,
    ):
        others = [DirectAddress(f"ward{number}", CHEN.domain) for number in range(8)]
        for number, each in enumerate(others):
            more = ["References: <root@lakeview.example>", f"Cc: {each}"]
            content = mail(CHEN, RIVERA, message_id=f"<{number}@lakeview.example>", more=more)
            await agent.receive(content, RIVERA)
        jobs = await database.write(
            lambda c: queue.claim(c, now=NOW, lease_s=60, limit=20, kinds=["incoming"])
        )
        results = [await agent.handlers["incoming"](job) for job in jobs]
        records = [result.record for result in results if isinstance(result, Done)]
        assert len(records) == len(others)
        places = [database, other] * len(others)
        await asyncio.gather(*(p.write(r) for p, r in zip(places, records, strict=False)))
        every = await agent.resources("Communication", RIVERA)
        [header] = [each for each in every if "partOf" not in each]
        assert {each["partOf"][0]["reference"] for each in every if "partOf" in each} == {
            f"Communication/{header['id']}"
        }
        assert {address_of(each) for each in header["recipient"]} >= {each.key for each in others}
