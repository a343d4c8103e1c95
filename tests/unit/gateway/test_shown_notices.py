"""MDN and DSN as Communications, where the operator wants them shown (fhir.md 3.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from fhir.resources.R4B import get_fhir_model_class

from certs.address import DirectAddress
from certs.ids import new_id
from fhir_bridge.ports import Submission
from fhir_bridge.store import insert
from fhir_bridge.terms import Terms, extension_value, mailto_identifier, mid_identifier
from gateway.database import SqlDatabase
from gateway.mdn import Disposition
from gateway.messages import Direction
from tests.helpers.agent import CHEN, DESK, RIVERA, Agent, mail, open_agent
from tests.helpers.pki import NOW

TERMS = Terms()
ABOUT = "<1@hillside.example>"
ROOT = "<0@hillside.example>"


@pytest.fixture
async def showing(sqlite_database: SqlDatabase, tmp_path: Path) -> AsyncIterator[Agent]:
    async with open_agent(sqlite_database, tmp_path, shows_notices=True) as opened:
        yield opened


async def sent(agent: Agent, to: DirectAddress = CHEN, author: DirectAddress = RIVERA) -> UUID:
    """Send a message by FHIR that is part of an older thread; return its resource's id."""
    sink = agent.fhir_bodies.sink()
    sink.write(mail(author, to))
    content, identity = await sink.finish(), new_id(NOW)
    resource = {
        "resourceType": "Communication",
        "status": "in-progress",
        "extension": [{"url": TERMS.extension("thread-id"), "valueString": ROOT}],
        "identifier": [mid_identifier(ABOUT)],
        "recipient": [{"identifier": mailto_identifier(str(to))}],
        "payload": [{"contentString": "x"}],
    }

    def record(connection: sa.Connection, message: UUID) -> None:
        insert(
            connection,
            resource,
            identity=identity,
            owner=author.key,
            now=NOW,
            terms=TERMS,
            message=message,
        )

    submission = Submission(author, (to,), content, ABOUT, False)
    await agent.outbox.submit(submission, record)
    await agent.run()
    return identity


async def notices(agent: Agent, mailbox: DirectAddress = RIVERA) -> list[dict[str, Any]]:
    every = await agent.resources("Communication", mailbox)
    inbound = TERMS.extension("direction")
    return [each for each in every if extension_value(each, inbound) == "inbound"]


async def test_a_notice_is_nobodys_message_unless_the_operator_wants_it(agent: Agent) -> None:
    await sent(agent)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    assert await notices(agent) == []


async def test_an_mdn_is_shown_beside_what_it_is_about(showing: Agent) -> None:
    original = await sent(showing)
    await showing.mdn(Disposition.PROCESSED, ABOUT)
    [notice] = await notices(showing)
    get_fhir_model_class("Communication").model_validate(notice)
    codes = [coding["code"] for coding in notice["category"][0]["coding"]]
    assert codes == ["notification", "mdn"]
    assert notice["inResponseTo"][0]["reference"] == f"Communication/{original}"
    assert extension_value(notice, TERMS.extension("thread-id")) == ROOT
    assert notice["sender"]["identifier"]["value"] == f"mailto:{CHEN}"
    attached = [p["contentAttachment"]["contentType"] for p in notice["payload"][1:]]
    assert "message/disposition-notification" in attached
    [evidence] = await showing.resources("Provenance", RIVERA)
    assert {"reference": f"Communication/{notice['id']}"} in evidence["target"]


async def test_a_dsn_is_shown_and_still_does_what_it_is_for(showing: Agent) -> None:
    await sent(showing)
    await showing.dsn(ABOUT, CHEN, speaker=CHEN)
    [notice] = await notices(showing)
    assert notice["category"][0]["coding"][1]["code"] == "dsn"
    [message] = await showing.listed(Direction.OUTGOING)
    assert await showing.states(message.id) == {CHEN: "failed"}


async def test_a_notice_about_nothing_known_is_shown_on_its_own(showing: Agent) -> None:
    await showing.mdn(Disposition.PROCESSED, "<unknown@hillside.example>")
    [notice] = await notices(showing)
    assert "reference" not in notice["inResponseTo"][0]


async def test_a_notice_that_is_shown_is_not_answered(showing: Agent) -> None:
    await sent(showing)
    before = len(showing.peers.sent)
    await showing.mdn(Disposition.PROCESSED, ABOUT)
    assert await showing.run() == []
    assert len(showing.peers.sent) == before


async def test_a_mail_server_gets_no_notice_of_a_peer(showing: Agent) -> None:
    showing.mail_servers.add(DESK)
    await sent(showing, author=DESK)
    await showing.mdn(Disposition.PROCESSED, ABOUT, to=DESK)
    assert await notices(showing, DESK) == []
    assert [job.kind for job in await showing.jobs()] == []
