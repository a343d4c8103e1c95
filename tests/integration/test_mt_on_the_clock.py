"""Cases MT on an injected clock, where the answer is immediate: nothing more comes in an hour.

Those that wait for the hour are in `test_mt_cases`, with the whole gateways.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from uuid import UUID

import pytest

from certs.errors import Reason
from fhir_bridge.ports import Submission
from gateway import dsn, mdn
from gateway.database import SqlDatabase
from gateway.mdn import Disposition
from gateway.messages import Direction, Kind, Source
from tests.helpers.agent import (
    CHEN,
    RIVERA,
    WANTS_DISPATCHED,
    WINDOW,
    Agent,
    mail,
    open_agent,
)
from tests.helpers.pki import NOW
from trust_bundles import store

PLAIN = "X-None: 1"
BAD_REQUEST = WANTS_DISPATCHED.replace("optional,true", "optioXXX,tXX")
BOTH_MODES = pytest.mark.parametrize("more", [PLAIN, WANTS_DISPATCHED], ids=["plain", "request"])
READERS = pytest.mark.parametrize("reader", ["inbox", "mail-server"])
DAY = timedelta(days=1)


@pytest.fixture
async def agent(sqlite_database: SqlDatabase, tmp_path: Path) -> AsyncIterator[Agent]:
    async with open_agent(sqlite_database, tmp_path) as opened:
        yield opened


async def submitted(agent: Agent, more: str, reader: str) -> UUID:
    """A message of Rivera's; `reader` is where she reads what becomes of it."""
    if reader == "mail-server":
        agent.mail_servers.add(RIVERA)
    message = await agent.submit(mail(RIVERA, CHEN, more=[more]), CHEN)
    await agent.run()
    return message


async def reported(agent: Agent) -> list[tuple[str, str | None]]:
    """Each recipient and status that the sender was told of, report by report."""
    return [
        (str(one.recipient), one.status)
        for message in await agent.listed(Direction.INCOMING, Kind.DSN)
        for one in dsn.parse(BytesIO(await agent.body(message.body_key))).recipients
    ]


async def an_hour_and_a_day_later(agent: Agent) -> None:
    for later in (WINDOW, WINDOW + DAY):
        agent.clock.now = NOW + later
        await agent.transmission.time_out()
        await agent.run()


async def is_told_at_once_and_never_again(agent: Agent, status: str) -> None:
    assert await reported(agent) == [(str(CHEN), status)]
    assert [sent.recipients for sent in agent.peers.sent if CHEN in sent.recipients] == []
    await an_hour_and_a_day_later(agent)
    assert await reported(agent) == [(str(CHEN), status)]


@READERS
@BOTH_MODES
async def test_mt1_mt23_a_bad_address_that_the_peers_server_refuses_is_told_at_once(
    agent: Agent, more: str, reader: str
) -> None:
    agent.peers.replies = {CHEN: (Reason.BACKBONE_REFUSED, "5.1.1", "No such user here")}
    await submitted(agent, more, reader)
    for _ in range(2):
        assert await reported(agent) == [(str(CHEN), "5.1.1")]
        assert [CHEN in sent.recipients for sent in agent.peers.sent].count(True) == 1
        await an_hour_and_a_day_later(agent)


@READERS
@BOTH_MODES
async def test_mt2_mt24_an_untrusted_hisp_is_told_at_once(
    agent: Agent, more: str, reader: str
) -> None:
    await agent.database.write(
        lambda c: [store.remove_anchor(c, anchor.sha256) for anchor in store.list_anchors(c)]
    )
    await submitted(agent, more, reader)
    await is_told_at_once_and_never_again(agent, "5.7.1")


@READERS
@BOTH_MODES
async def test_mt3_mt25_an_unpublished_certificate_is_told_at_once(
    agent: Agent, more: str, reader: str
) -> None:
    agent.discovery.published.pop(CHEN)
    await submitted(agent, more, reader)
    await is_told_at_once_and_never_again(agent, "5.7.5")


async def received(agent: Agent, more: str, number: int = 1) -> None:
    """A message of Chen's to Rivera."""
    about = f"<{number}@lakeview.example>"
    await agent.receive(mail(CHEN, RIVERA, message_id=about, more=[more]), RIVERA)
    await agent.run()


async def answered(agent: Agent) -> list[tuple[str, bool]]:
    """The dispositions that Chen was told, and whether each had the field of DN-004."""
    found = []
    for message in await agent.listed(Direction.OUTGOING, Kind.MDN):
        notice = mdn.parse(BytesIO(await agent.body(message.body_key)))
        assert notice.disposition is not None
        found.append((notice.disposition.value, notice.final_destination))
    return sorted(found, reverse=True)


@READERS
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        pytest.param(
            WANTS_DISPATCHED, [("processed", False), ("dispatched", True)], id="mt39-good-header"
        ),
        pytest.param(BAD_REQUEST, [("processed", False)], id="mt40-bad-header"),
        pytest.param(PLAIN, [("processed", False)], id="no-header"),
    ],
)
async def test_mt39_mt40_dispatched_only_where_it_was_asked_for_however_long_one_waits(
    agent: Agent, more: str, expected: list[tuple[str, bool]], reader: str
) -> None:
    if reader == "mail-server":
        agent.mail_servers.add(RIVERA)
    await received(agent, more)
    assert await answered(agent) == expected
    await an_hour_and_a_day_later(agent)
    assert await answered(agent) == expected


async def test_mt17_mt45_every_message_and_notice_has_its_own_message_id(agent: Agent) -> None:
    for number in range(3):
        content = mail(RIVERA, CHEN, message_id=f"<{number}@hillside.example>")
        await agent.submit(content, CHEN)
        await agent.submit(mail(RIVERA, CHEN, message_id=None, body=str(number)), CHEN)
        await received(agent, WANTS_DISPATCHED, number)
    await agent.run()
    await an_hour_and_a_day_later(agent)  # each of the six fails, and is told
    ids = [
        message.message_id_header
        for message in await agent.listed()
        if message.direction is Direction.OUTGOING or message.source is Source.AGENT
    ]
    assert None not in ids
    # Six messages, six notices to Chen, six reports to Rivera.
    assert len(set(ids)) == len(ids) == 18


async def by_fhir(agent: Agent, number: int, *, wants_dispatched: bool) -> UUID:
    """A message of a FHIR client's, in which the header says what the client asked for."""
    about = f"<fhir-{number}@hillside.example>"
    sink = agent.fhir_bodies.sink()
    more = [WANTS_DISPATCHED] if wants_dispatched else []
    sink.write(mail(RIVERA, CHEN, message_id=about, more=more))
    submission = Submission(RIVERA, (CHEN,), await sink.finish(), about, wants_dispatched)
    message = await agent.outbox.submit(submission, lambda _connection, _id: None)
    await agent.run()
    return message


async def hear(agent: Agent, number: int, *dispositions: Disposition) -> None:
    for disposition in dispositions:
        await agent.mdn(
            disposition,
            f"<fhir-{number}@hillside.example>",
            final_destination=disposition is Disposition.DISPATCHED,
        )


async def test_mt30_mt31_a_client_that_asked_awaits_both_notices_and_another_one(
    agent: Agent,
) -> None:
    asked, not_asked, unanswered = [
        await by_fhir(agent, number, wants_dispatched=number != 2) for number in (1, 2, 3)
    ]
    await hear(agent, 1, Disposition.PROCESSED, Disposition.DISPATCHED)
    await hear(agent, 2, Disposition.PROCESSED)
    await hear(agent, 3, Disposition.PROCESSED)
    agent.clock.now = NOW + WINDOW - timedelta(seconds=1)
    await agent.transmission.time_out()
    assert await states(agent, asked, not_asked, unanswered) == [
        "dispatched",
        "processed",
        "processed",
    ]
    await an_hour_and_a_day_later(agent)
    assert await states(agent, asked, not_asked, unanswered) == [
        "dispatched",
        "processed",
        "failed",
    ]


async def states(agent: Agent, *sent: UUID) -> list[str]:
    return [(await agent.states(message))[CHEN] for message in sent]


async def test_mt19_mt48_three_messages_by_fhir_are_three_on_their_way(agent: Agent) -> None:
    for number in (1, 2, 3):
        await by_fhir(agent, number, wants_dispatched=False)
    out = [sent.opened(CHEN) for sent in agent.peers.sent]
    found = [f"<fhir-{n}@hillside.example>".encode() in inner for n, inner in enumerate(out, 1)]
    assert found == [True, True, True]
