from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from certs.address import DirectAddress
from certs.errors import Reason
from certs.policy import CertificatePolicy, Profile
from gateway import queue_control
from gateway.database import SqlDatabase
from gateway.mdn import Disposition
from gateway.messages import Direction, Kind, Message, MessageState, Source
from gateway.results import Retry
from tests.helpers.agent import (
    CHEN,
    NURSE,
    RELAY,
    RIVERA,
    WANTS_DISPATCHED,
    WINDOW,
    Agent,
    mail,
    open_agent,
)
from tests.helpers.pki import NOW

ABOUT = "<7@lakeview.example>"
SENT = "<1@hillside.example>"
BUSY = (Reason.BACKBONE_UNAVAILABLE, "4.3.2", "Try again later")
FULL = (Reason.BACKBONE_REFUSED, "5.2.2", "Mailbox is full")


async def received(agent: Agent, more: str = "X-None: 1") -> UUID:
    """A trusted message to Rivera, who has a mail server."""
    agent.mail_servers.add(RIVERA)
    message = await agent.receive(mail(CHEN, RIVERA, message_id=ABOUT, more=[more]), RIVERA)
    await agent.run("incoming")
    return message


async def mdns(agent: Agent, disposition: str) -> list[bytes]:
    made = await agent.listed(Direction.OUTGOING, Kind.MDN)
    bodies = [await agent.body(message.body_key) for message in made]
    return [body for body in bodies if f";{disposition}\r\n".encode() in body]


# Reports


async def failed(agent: Agent, message_id: str | None = "<1@hillside.example>") -> UUID:
    agent.discovery.published.clear()
    content = mail(RIVERA, CHEN, NURSE, message_id=message_id)
    message = await agent.submit(content, CHEN, NURSE)
    await agent.run()
    return message


async def the_report(agent: Agent) -> Message:
    [report] = await agent.listed(Direction.INCOMING, Kind.DSN)
    return report


async def test_author_reads_in_its_inbox_which_recipients_failed_and_why(agent: Agent) -> None:
    message = await failed(agent)
    report = await the_report(agent)
    text = await agent.body(report.body_key)
    for line in (
        b"From: postmaster@direct.hillside.example",
        b"To: dr.rivera@direct.hillside.example",
        b"Final-Recipient: rfc822;dr.chen@direct.lakeview.example",
        b"Final-Recipient: rfc822;nurse@direct.lakeview.example",
        b"Action: failed",
        b"Status: 5.7.5",
        b"X-Original-Message-ID: <1@hillside.example>",
        b"report-type=delivery-status",
    ):
        assert line in text
    # The body of a message is never returned.
    assert b"Please see the patient." not in text
    assert (report.parent, report.state, report.envelope_sender) == (
        message,
        MessageState.FINISHED,
        None,
    )
    assert set(await agent.inbox(report.id)) == {RIVERA.key}
    assert await agent.states(report.id) == {RIVERA: "dispatched"}


async def test_report_names_the_message_id_that_we_gave(agent: Agent) -> None:
    message = await failed(agent, message_id=None)
    text = await agent.body((await the_report(agent)).body_key)
    assert f"X-Original-Message-ID: <{message}@direct.hillside.example>".encode() in text


async def test_report_is_made_once_however_often_its_job_runs(agent: Agent) -> None:
    agent.discovery.published.clear()
    await agent.submit(mail(RIVERA, CHEN), CHEN)
    await agent.run("outgoing")
    [job] = await agent.database.write(partial(agent._claim, kinds=["report"]))
    for _ in range(2):
        result = await agent.edge.report(job)
        await agent.database.write(result.record)
    report = await the_report(agent)
    assert len(await agent.inbox(report.id)) == 1


async def test_report_goes_to_the_mail_server_of_its_reader_and_is_answered_by_nothing(
    agent: Agent,
) -> None:
    agent.mail_servers.add(RIVERA)
    await failed(agent)
    [sent] = agent.peers.sent
    assert (sent.sender, sent.recipients) == (None, (RIVERA,))
    assert b"Action: failed" in sent.content
    report = await the_report(agent)
    assert await agent.states(report.id) == {RIVERA: "dispatched"}
    assert await agent.listed(Direction.OUTGOING, Kind.MDN) == []


async def test_report_that_its_reader_cannot_get_is_answered_by_nothing(agent: Agent) -> None:
    agent.mail_servers.add(RIVERA)
    agent.peers.replies = {RIVERA: FULL}
    await failed(agent)
    report = await the_report(agent)
    assert await agent.states(report.id) == {RIVERA: "failed"}
    assert await agent.jobs() == []
    assert len(await agent.listed()) == 2


# Confirmations


async def dispatched(agent: Agent, *speakers: DirectAddress, more: str = WANTS_DISPATCHED) -> UUID:
    """A message of Rivera's of which both notices have come from each of `speakers`."""
    message = await agent.submit(mail(RIVERA, CHEN, NURSE, more=[more]), CHEN, NURSE)
    await agent.run("outgoing", "deliver")
    for speaker in speakers:
        for disposition in (Disposition.PROCESSED, Disposition.DISPATCHED):
            await agent.mdn(
                disposition, SENT, speaker=speaker, sender=speaker, final_destination=True
            )
    return message


async def confirmations(agent: Agent) -> list[Message]:
    """What was made for our own user to read, and not received."""
    heard = await agent.listed(Direction.INCOMING, Kind.MDN)
    return [message for message in heard if message.source is Source.AGENT]


async def test_author_who_asked_is_told_when_a_recipient_has_the_message(agent: Agent) -> None:
    message = await dispatched(agent, CHEN)
    await agent.run()
    [told] = await confirmations(agent)
    text = await agent.body(told.body_key)
    for line in (
        b"From: dr.chen@direct.lakeview.example",
        b"To: dr.rivera@direct.hillside.example",
        b"Final-Recipient: rfc822;dr.chen@direct.lakeview.example",
        b"Original-Message-ID: <1@hillside.example>",
        b"Disposition: automatic-action/MDN-sent-automatically;dispatched",
        b"X-DIRECT-FINAL-DESTINATION-DELIVERY:",
        b"report-type=disposition-notification",
    ):
        assert line in text
    assert b"Please see the patient." not in text
    assert (told.parent, told.state, told.envelope_sender) == (message, MessageState.FINISHED, None)
    assert RIVERA.key in await agent.inbox(told.id)


async def test_author_is_told_of_each_recipient_once_in_whatever_order_the_notices_come(
    agent: Agent,
) -> None:
    await dispatched(agent, CHEN)
    for disposition in (Disposition.DISPATCHED, Disposition.PROCESSED, Disposition.DISPATCHED):
        await agent.mdn(disposition, SENT, speaker=NURSE, sender=NURSE, final_destination=True)
    await agent.mdn(Disposition.DISPATCHED, SENT, final_destination=True)
    await agent.run()
    assert sorted(str(told.author) for told in await confirmations(agent)) == [
        str(CHEN),
        str(NURSE),
    ]
    assert await agent.listed(Direction.INCOMING, Kind.DSN) == []


async def test_author_who_did_not_ask_is_told_of_failures_only(agent: Agent) -> None:
    await dispatched(agent, CHEN, more="X-None: 1")
    await agent.run()
    assert await confirmations(agent) == []


async def test_confirmation_goes_to_the_mail_server_of_its_reader_and_is_answered_by_nothing(
    agent: Agent,
) -> None:
    agent.mail_servers.add(RIVERA)
    await dispatched(agent, CHEN)
    await agent.run()
    sent = agent.peers.sent[-1]
    assert (sent.sender, sent.recipients) == (None, (RIVERA,))
    assert b";dispatched\r\n" in sent.content
    assert await agent.listed(Direction.OUTGOING, Kind.MDN) == []


async def test_confirmation_is_made_once_however_often_its_job_runs(agent: Agent) -> None:
    await dispatched(agent, CHEN)
    [job] = await agent.database.write(partial(agent._claim, kinds=["confirm"]))
    for _ in range(2):
        result = await agent.edge.confirm(job)
        await agent.database.write(result.record)
    assert len(await confirmations(agent)) == 1


# Mail servers


async def test_message_is_dispatched_when_the_mail_server_has_taken_it(agent: Agent) -> None:
    message = await received(agent, WANTS_DISPATCHED)
    assert await agent.states(message) == {RIVERA: "processed"}
    assert (len(await mdns(agent, "processed")), len(await mdns(agent, "dispatched"))) == (1, 0)
    await agent.run("relay")
    [sent] = agent.peers.sent
    assert (sent.sender, sent.recipients) == (CHEN, (RIVERA,))
    # AS-078: the inner message, byte for byte.
    assert sent.content == mail(CHEN, RIVERA, message_id=ABOUT, more=[WANTS_DISPATCHED])
    assert sent.size == len(sent.content)
    assert await agent.states(message) == {RIVERA: "dispatched"}
    [dispatched] = await mdns(agent, "dispatched")
    assert b"X-DIRECT-FINAL-DESTINATION-DELIVERY:" in dispatched


async def test_of_several_authors_the_one_who_signed_hears_that_it_is_dispatched(
    agent: Agent,
) -> None:
    agent.mail_servers.add(RIVERA)
    content = mail(CHEN, RIVERA, message_id=ABOUT, more=[f"Sender: {CHEN}", WANTS_DISPATCHED])
    several = content.replace(f"From: {CHEN}".encode(), f"From: {NURSE}, {CHEN}".encode())
    message = await agent.receive(several, RIVERA)
    await agent.run("incoming", "relay")
    assert await agent.states(message) == {RIVERA: "dispatched"}
    for disposition in ("processed", "dispatched"):
        [notice] = await mdns(agent, disposition)
        assert f"To: {CHEN}\r\n".encode() in notice


async def test_dispatched_is_not_told_to_who_did_not_ask(agent: Agent) -> None:
    message = await received(agent)
    await agent.run("relay")
    assert await agent.states(message) == {RIVERA: "dispatched"}
    assert await mdns(agent, "dispatched") == []


@pytest.mark.parametrize("more", ["X-None: 1", WANTS_DISPATCHED])
async def test_message_that_the_mail_server_refuses_is_told_as_failed(
    agent: Agent, more: str
) -> None:
    agent.peers.replies = {RIVERA: FULL}
    message = await received(agent, more)
    await agent.run("relay")
    row = (await agent.rows(message))[RIVERA]
    assert (row.state, row.reason, row.status, row.detail) == (
        "failed",
        Reason.BACKBONE_REFUSED,
        "5.2.2",
        "Mailbox is full",
    )
    [told] = await mdns(agent, "failed")
    assert b"Mailbox is full" not in told
    assert await mdns(agent, "dispatched") == []


async def test_mail_server_that_is_busy_is_tried_again(agent: Agent) -> None:
    agent.peers.replies = {RIVERA: BUSY}
    message = await received(agent, WANTS_DISPATCHED)
    [(_, result)] = await agent.run("relay")
    assert isinstance(result, Retry)
    assert result.due_at == NOW + timedelta(minutes=1)
    assert await agent.states(message) == {RIVERA: "processed"}
    agent.peers.replies.clear()
    agent.clock.now += timedelta(minutes=10)
    await agent.run("relay")
    assert await agent.states(message) == {RIVERA: "dispatched"}
    assert len(await mdns(agent, "dispatched")) == 1


@pytest.mark.parametrize("more", ["X-None: 1", WANTS_DISPATCHED])
async def test_mail_server_that_stays_busy_is_told_as_failed_while_the_sender_waits(
    agent: Agent, more: str
) -> None:
    agent.peers.replies = {RIVERA: BUSY}
    message = await received(agent, more)
    while await agent.states(message) == {RIVERA: "processed"}:
        agent.clock.now = min(job.due_at for job in await agent.jobs() if job.kind == "relay")
        await agent.run("relay")
    # DN-006: within the window, so that the notice comes before the sender has given up.
    assert agent.clock.now == NOW + RELAY < NOW + WINDOW
    assert await agent.states(message) == {RIVERA: "failed"}
    assert len(await mdns(agent, "failed")) == 1
    assert len(agent.peers.sent) > 3


async def test_report_of_our_own_waits_longer_for_a_mail_server_that_is_busy(agent: Agent) -> None:
    agent.mail_servers.add(RIVERA)
    agent.peers.replies = {RIVERA: BUSY}
    await failed(agent)
    agent.clock.now += RELAY
    [(_, result)] = await agent.run("relay")
    assert isinstance(result, Retry)


async def test_message_whose_failure_was_told_is_not_delivered_any_more(agent: Agent) -> None:
    message = await received(agent)
    [job] = await agent.database.write(partial(agent._claim, kinds=["relay"]))
    for _ in range(2):
        agent.peers.replies = {RIVERA: FULL}
        result = await agent.edge.relay(job)
        await agent.database.write(result.record)
        agent.peers.replies.clear()
    assert len(agent.peers.sent) == 1
    assert await agent.states(message) == {RIVERA: "failed"}


async def test_administrator_gives_up_a_message_to_a_mail_server(agent: Agent) -> None:
    agent.peers.replies = {RIVERA: BUSY}
    message = await received(agent)
    await agent.run("relay")
    [job] = [each for each in await agent.jobs() if each.kind == "relay"]
    await agent.database.write(lambda c: queue_control.give_up(c, job.id, agent.clock()))
    await agent.run("relay")
    assert len(agent.peers.sent) == 1
    row = (await agent.rows(message))[RIVERA]
    assert (row.state, row.reason) == ("failed", Reason.DELIVERY_EXPIRED)
    assert len(await mdns(agent, "failed")) == 1


async def test_message_sent_again_after_it_failed_is_delivered(agent: Agent) -> None:
    agent.peers.replies = {RIVERA: FULL}
    await received(agent)
    await agent.run("relay")
    agent.peers.replies.clear()
    agent.clock.now += timedelta(minutes=1)
    again = await received(agent)
    await agent.run("relay")
    assert len(agent.peers.sent) == 2
    assert await agent.states(again) == {RIVERA: "dispatched"}


async def test_message_sent_again_while_it_is_under_way_is_delivered_once(agent: Agent) -> None:
    await received(agent)
    agent.clock.now += timedelta(minutes=1)
    again = await received(agent)
    await agent.run("relay")
    assert len(agent.peers.sent) == 1
    assert await agent.states(again) == {RIVERA: "dispatched"}


async def test_message_of_nobody_is_relayed_and_answered_by_nothing(
    sqlite_database: SqlDatabase, tmp_path: Path
) -> None:
    policy = CertificatePolicy(profile=Profile.AS_1_2)
    async with open_agent(sqlite_database, tmp_path, policy=policy) as agent:
        agent.mail_servers.add(RIVERA)
        agent.peers.replies = {RIVERA: FULL}
        message = await agent.receive(mail(CHEN, RIVERA), RIVERA, sender=None)
        await agent.run("incoming", "relay")
        assert await agent.states(message) == {RIVERA: "failed"}
        assert await agent.listed(Direction.OUTGOING) == []
