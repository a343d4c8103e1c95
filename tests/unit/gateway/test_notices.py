from __future__ import annotations

import io
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from certs.address import DirectAddress
from gateway import dsn
from gateway.inbox import Arrival, Entry
from gateway.mdn import Disposition, parse
from gateway.message import Facts, facts_of
from gateway.messages import Direction, Kind, Source
from gateway.ports import StoredBody
from tests.helpers.agent import (
    CHEN,
    DESK,
    HOSTNAME,
    NURSE,
    RIVERA,
    WANTS_DISPATCHED,
    Agent,
    mail,
)
from tests.helpers.pki import NOW

PARENT = UUID(int=7)
ABOUT = "<7@lakeview.example>"


def original(more: str = "X-None: 1") -> Facts:
    return facts_of(io.BytesIO(mail(CHEN, RIVERA, message_id=ABOUT, more=[more])))


def text(body: StoredBody) -> bytes:
    assert body.inline is not None
    return body.inline


def entry(*, readable: bool, recipient: DirectAddress = RIVERA) -> Entry:
    content = StoredBody("key", 1, "0" * 64, b"x")
    arrival = Arrival(PARENT, content, ABOUT, None, NOW)  # type: ignore[arg-type]  # not looked at
    return Entry(arrival, recipient, object() if readable else None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "readable", "dispositions"),
    [
        pytest.param("X-None: 1", True, ["processed"], id="not-asked"),
        pytest.param(WANTS_DISPATCHED, True, ["processed", "dispatched"], id="asked"),
        pytest.param(WANTS_DISPATCHED, False, ["processed"], id="asked-but-not-there-yet"),
        pytest.param(
            "Disposition-Notification-Options: X-XXXX-FINAL-X-DELXXXX=optioXXX,tXX",
            True,
            ["processed"],
            id="asked-for-something-else",
        ),
    ],
)
async def test_answers(agent: Agent, more: str, readable: bool, dispositions: list[str]) -> None:
    made = await agent.notices.answers(original(more), entry(readable=readable), NOW)
    notices = [parse(io.BytesIO(text(new.body))) for new in made]
    assert [n.disposition.value for n in notices if n.disposition] == dispositions
    # DN-004, DN-005
    assert [n.final_destination for n in notices] == [d == "dispatched" for d in dispositions]


async def test_mdn_speaks_for_the_recipient_to_the_author(agent: Agent) -> None:
    new = await agent.notices.mdn(
        Disposition.PROCESSED, parent=PARENT, original=original(), recipient=RIVERA, now=NOW
    )
    assert (new.direction, new.source, new.kind) == (
        Direction.OUTGOING,
        Source.AGENT,
        Kind.MDN,
    )
    # K-03: AS v1.3 demands MAIL FROM = From.
    assert (new.envelope_sender, new.author, new.recipients) == (RIVERA, RIVERA, (CHEN,))
    assert new.parent == PARENT
    facts = facts_of(io.BytesIO(text(new.body)))
    assert (facts.author, facts.to, facts.message_id) == (RIVERA, (CHEN,), new.message_id_header)
    assert facts.in_reply_to == ABOUT
    assert f"Reporting-UA: {HOSTNAME}; direct-gateway".encode() in text(new.body)
    # AS-092: it asks for none itself.
    assert facts.notification_to == ()


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(f"Disposition-Notification-To: {CHEN}", id="the-author"),
        pytest.param(f"Disposition-Notification-To: {NURSE}", id="somebody-else"),
        pytest.param(f"Disposition-Notification-To: {CHEN}, {NURSE}", id="several"),
        pytest.param(f"Sender: {NURSE}\r\nDisposition-Notification-To: {NURSE}", id="the-sender"),
    ],
)
async def test_mdn_is_sent_to_whom_it_is_addressed(agent: Agent, asked: str) -> None:
    new = await agent.notices.mdn(
        Disposition.PROCESSED, parent=PARENT, original=original(asked), recipient=RIVERA, now=NOW
    )
    # AS-029: the peer refuses what names another recipient; R-046: nobody else is written to.
    assert new.recipients == (CHEN,)
    assert facts_of(io.BytesIO(text(new.body))).to == (CHEN,)


async def test_each_notice_is_sent_once_and_has_an_id_of_its_own(agent: Agent) -> None:
    async def made(disposition: Disposition, recipient: DirectAddress, parent: UUID) -> object:
        return await agent.notices.mdn(
            disposition, parent=parent, original=original(), recipient=recipient, now=NOW
        )

    first = await made(Disposition.PROCESSED, RIVERA, PARENT)
    again = await made(Disposition.PROCESSED, RIVERA, PARENT)
    others = [
        await made(Disposition.DISPATCHED, RIVERA, PARENT),
        await made(Disposition.PROCESSED, DESK, PARENT),
        await made(Disposition.PROCESSED, RIVERA, uuid4()),
    ]
    assert again.dedupe_key == first.dedupe_key  # type: ignore[attr-defined]
    keys = {new.dedupe_key for new in (first, *others)}  # type: ignore[attr-defined]
    ids = {new.message_id_header for new in (first, again, *others)}  # type: ignore[attr-defined]
    assert (len(keys), len(ids)) == (4, 5)


async def test_dsn_goes_to_the_author_from_nobody(agent: Agent) -> None:
    identifier = await agent.submit(mail(RIVERA, CHEN, message_id=None), CHEN)
    message = await agent.message(identifier)
    header = mail(RIVERA, CHEN, message_id=None).partition(b"\r\n\r\n")[0] + b"\r\n"
    failures = [dsn.Outcome(CHEN, "5.1.1", "No such user")]
    new, octets = await agent.notices.dsn(message, header, failures, NOW)
    assert text(new.body) == octets
    assert (new.envelope_sender, str(new.author), new.recipients) == (
        None,
        f"postmaster@{RIVERA.domain}",
        (RIVERA,),
    )
    assert (new.direction, new.kind, new.parent) == (Direction.INCOMING, Kind.DSN, identifier)
    report = dsn.parse(io.BytesIO(octets))
    # What had no Message-ID went out under ours.
    assert report.original_message_id == message.message_id_header
    assert [(each.recipient, each.status) for each in report.recipients] == [(CHEN, "5.1.1")]
    same, _ = await agent.notices.dsn(message, header, failures, NOW)
    other, _ = await agent.notices.dsn(
        message, header, [replace(failures[0], recipient=NURSE)], NOW
    )
    assert same.dedupe_key == new.dedupe_key != other.dedupe_key
