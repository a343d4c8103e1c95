from __future__ import annotations

import io
from datetime import timedelta
from uuid import UUID

import pytest

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from gateway.mdn import Disposition
from gateway.message import facts_of
from gateway.messages import Kind, MessageState
from gateway.notification import kind_of, read_notice
from tests.helpers.agent import (
    CHEN,
    DESK,
    GP,
    NURSE,
    RIVERA,
    WANTS_DISPATCHED,
    Agent,
    mail,
)

ABOUT = "<1@hillside.example>"
POSTMASTER = parse_address("postmaster@direct.lakeview.example")


async def relayed(
    agent: Agent,
    *recipients: DirectAddress,
    author: DirectAddress = RIVERA,
    more: str = "X-None: 1",
    message_id: str = ABOUT,
    named: tuple[DirectAddress, ...] = (),
) -> UUID:
    """A message that its recipients' HISPs have accepted; `named` are in To, if others."""
    content = mail(author, *(named or recipients), message_id=message_id, more=[more])
    message = await agent.submit(content, *recipients, sender=author)
    await agent.run("outgoing", "deliver")
    return message


async def reports(agent: Agent) -> list[list[str]]:
    """Whom each waiting failure report names."""
    waiting = [job for job in await agent.jobs() if job.kind == "report"]
    return [[each["recipient"] for each in job.payload["outcomes"]] for job in waiting]


async def test_processed_notice_completes_a_plain_message(agent: Agent) -> None:
    message = await relayed(agent, CHEN)
    notice = await agent.mdn(Disposition.PROCESSED, ABOUT)
    assert await agent.states(message) == {CHEN: "processed"}
    assert (await agent.message(message)).state is MessageState.FINISHED
    found = await agent.message(notice)
    assert (found.kind, found.parent) == (Kind.MDN, message)


async def test_processed_notice_with_the_null_sender_counts(agent: Agent) -> None:
    message = await relayed(agent, CHEN)
    await agent.mdn(Disposition.PROCESSED, ABOUT, sender=None)
    assert await agent.states(message) == {CHEN: "processed"}


async def test_processed_notice_is_for_the_gateway_and_is_in_nobodys_inbox(agent: Agent) -> None:
    await relayed(agent, CHEN)
    notice = await agent.mdn(Disposition.PROCESSED, ABOUT)
    await agent.run()
    # AS-098
    assert await agent.inbox(notice) == {}
    assert [job.kind for job in await agent.jobs()] == []


async def test_wanted_dispatched_notice_completes_only_after_both(agent: Agent) -> None:
    message = await relayed(agent, CHEN, more=WANTS_DISPATCHED)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    assert (await agent.message(message)).state is MessageState.PROCESSING
    await agent.mdn(Disposition.DISPATCHED, ABOUT, final_destination=True)
    assert await agent.states(message) == {CHEN: "dispatched"}
    assert (await agent.message(message)).state is MessageState.FINISHED


async def test_wanted_dispatched_notice_needs_its_field(agent: Agent) -> None:
    message = await relayed(agent, CHEN, more=WANTS_DISPATCHED)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await agent.mdn(Disposition.DISPATCHED, ABOUT, final_destination=False)
    assert await agent.states(message) == {CHEN: "processed"}


async def test_dispatched_notice_that_nobody_asked_for_needs_no_field(agent: Agent) -> None:
    message = await relayed(agent, CHEN)
    await agent.mdn(Disposition.DISPATCHED, ABOUT, final_destination=False)
    assert await agent.states(message) == {CHEN: "dispatched"}


async def test_failed_notice_is_told_to_the_author_once(agent: Agent) -> None:
    message = await relayed(agent, CHEN, NURSE)
    await agent.mdn(Disposition.FAILED, ABOUT)
    await agent.mdn(Disposition.FAILED, ABOUT)
    # DN-015: the other recipient is not concerned.
    assert await agent.states(message) == {CHEN: "failed", NURSE: "relayed"}
    assert await reports(agent) == [[str(CHEN)]]


async def test_success_after_failure_is_suppressed(agent: Agent) -> None:
    message = await relayed(agent, CHEN)
    await agent.mdn(Disposition.FAILED, ABOUT)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    assert await agent.states(message) == {CHEN: "failed"}


async def test_failure_report_of_a_postmaster_counts_for_its_domain(agent: Agent) -> None:
    message = await relayed(agent, CHEN, NURSE)
    agent.discovery.published[POSTMASTER] = []
    await agent.dsn(ABOUT, CHEN, speaker=POSTMASTER)
    assert await agent.states(message) == {CHEN: "failed", NURSE: "relayed"}
    assert (await agent.rows(message))[CHEN].status == "5.1.1"
    assert await reports(agent) == [[str(CHEN)]]


async def test_one_failure_report_may_name_several_recipients(agent: Agent) -> None:
    message = await relayed(agent, CHEN, NURSE)
    await agent.dsn(ABOUT, CHEN, CHEN, NURSE, speaker=POSTMASTER)
    assert await agent.states(message) == {CHEN: "failed", NURSE: "failed"}
    assert await reports(agent) == [[str(CHEN), str(NURSE)]]


# Who may speak (AS-097, T-47)


@pytest.mark.parametrize(
    ("speaker", "recipient"),
    [
        pytest.param(NURSE, CHEN, id="colleague"),
        pytest.param(GP, CHEN, id="another-hisp"),
        pytest.param(GP, GP, id="no-recipient"),
    ],
)
async def test_notice_by_somebody_else_changes_nothing(
    agent: Agent, speaker: DirectAddress, recipient: DirectAddress
) -> None:
    message = await relayed(agent, CHEN)
    notice = await agent.mdn(Disposition.PROCESSED, ABOUT, speaker=speaker, recipient=recipient)
    assert await agent.states(message) == {CHEN: "relayed"}
    assert (await agent.message(notice)).state is MessageState.FINISHED


async def test_failure_report_by_another_domain_changes_nothing(agent: Agent) -> None:
    message = await relayed(agent, CHEN)
    await agent.dsn(ABOUT, CHEN, speaker=GP)
    assert await agent.states(message) == {CHEN: "relayed"}


@pytest.mark.parametrize(
    ("speaker", "states"),
    [
        pytest.param("postmaster", ["failed", "failed"], id="postmaster"),
        pytest.param("MAILER-DAEMON", ["failed", "failed"], id="mail-system"),
        pytest.param("dr.chen", ["failed", "relayed"], id="recipient-itself"),
        pytest.param("dr.who", ["relayed", "relayed"], id="colleague"),
        pytest.param("postmaster.dr.who", ["relayed", "relayed"], id="nearly-postmaster"),
    ],
)
async def test_failure_report_counts_from_the_mail_system_or_the_recipient(
    agent: Agent, speaker: str, states: list[str]
) -> None:
    message = await relayed(agent, CHEN, NURSE)
    await agent.dsn(ABOUT, CHEN, NURSE, speaker=DirectAddress(speaker, CHEN.domain))
    assert list((await agent.states(message)).values()) == states


async def test_notice_about_an_unknown_message_is_kept_and_changes_nothing(agent: Agent) -> None:
    message = await relayed(agent, CHEN)
    notice = await agent.mdn(Disposition.PROCESSED, "<other@hillside.example>")
    assert await agent.states(message) == {CHEN: "relayed"}
    assert (await agent.message(notice)).parent is None


async def test_notice_about_nothing_is_kept_and_changes_nothing(agent: Agent) -> None:
    notice = await agent.mdn(Disposition.PROCESSED, "")
    found = await agent.message(notice)
    assert (found.state, found.parent) == (MessageState.FINISHED, None)


async def test_notice_goes_to_the_message_of_the_author_that_it_was_sent_to(agent: Agent) -> None:
    # Another of our users takes the same Message-ID, later and to the same recipient.
    theirs = await relayed(agent, CHEN)
    agent.clock.now += timedelta(seconds=1)
    stolen = await relayed(agent, CHEN, author=DESK)
    await agent.mdn(Disposition.PROCESSED, ABOUT, to=RIVERA)
    assert await agent.states(theirs) == {CHEN: "processed"}
    assert await agent.states(stolen) == {CHEN: "relayed"}
    await agent.mdn(Disposition.FAILED, ABOUT, to=DESK)
    assert await agent.states(theirs) == {CHEN: "processed"}
    assert await agent.states(stolen) == {CHEN: "failed"}


async def test_notice_to_an_address_that_the_author_named_counts(agent: Agent) -> None:
    message = await relayed(agent, CHEN, more=f"Disposition-Notification-To: {DESK}")
    await agent.mdn(Disposition.PROCESSED, ABOUT, to=DESK)
    assert await agent.states(message) == {CHEN: "processed"}


async def test_message_submitted_once_for_each_recipient_is_tracked_for_each(agent: Agent) -> None:
    both = (CHEN, GP)
    first = await relayed(agent, CHEN, named=both)
    agent.clock.now += timedelta(seconds=1)
    second = await relayed(agent, GP, named=both)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await agent.mdn(Disposition.PROCESSED, ABOUT, speaker=GP)
    assert await agent.states(first) == {CHEN: "processed"}
    assert await agent.states(second) == {GP: "processed"}


async def test_notice_of_what_was_delivered_does_not_stop_a_second_copy(agent: Agent) -> None:
    first = await relayed(agent, CHEN)
    agent.clock.now += timedelta(seconds=1)
    again = await agent.submit(mail(RIVERA, CHEN, body="Corrected."), CHEN)
    await agent.run("outgoing")
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    assert await agent.states(first) == {CHEN: "processed"}
    await agent.run("deliver")
    assert b"Corrected." in agent.peers.sent[-1].opened(CHEN)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    assert await agent.states(again) == {CHEN: "processed"}


async def test_notice_of_what_never_left_changes_nothing(agent: Agent) -> None:
    agent.discovery.failing.add(CHEN)
    message = await relayed(agent, CHEN)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    assert await agent.states(message) == {CHEN: "queued"}


async def test_notice_that_overtakes_the_record_of_the_delivery_counts(agent: Agent) -> None:
    message = await agent.submit(mail(RIVERA, CHEN), CHEN)
    await agent.run("outgoing")
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await agent.run("deliver")
    assert agent.peers.sent == []
    assert await agent.states(message) == {CHEN: "processed"}


async def test_notice_about_a_notice_changes_nothing(agent: Agent) -> None:
    await agent.receive(mail(CHEN, RIVERA, message_id="<7@lakeview.example>"), RIVERA)
    await agent.run()
    [ours] = [m for m in await agent.listed() if m.kind is Kind.MDN]
    assert ours.message_id_header is not None
    await agent.mdn(Disposition.FAILED, ours.message_id_header)
    assert await agent.states(ours.id) == {CHEN: "relayed"}


async def test_notice_without_angle_brackets_counts(agent: Agent) -> None:
    message = await relayed(agent, CHEN)
    await agent.mdn(Disposition.PROCESSED, ABOUT.strip("<>"))
    assert await agent.states(message) == {CHEN: "processed"}


# Reading


def report(kind: str, *fields: str) -> bytes:
    more = [f"Content-Type: multipart/report; report-type={kind}; boundary=b"]
    body = "\r\n".join(["--b", f"Content-Type: message/{kind}", "", *fields, "", "--b--"])
    return mail(CHEN, RIVERA, more=more, body=body)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((f"Final-Recipient: rfc822;{CHEN}",), id="no-disposition"),
        pytest.param(("Disposition: a/b;processed",), id="no-recipient"),
        pytest.param((f"Final-Recipient: rfc822;{CHEN}", "Disposition: a/b;odd"), id="unknown"),
        pytest.param(("Final-Recipient: x400;c=de", "Disposition: a/b;processed"), id="not-mail"),
    ],
)
def test_notice_that_says_too_little_says_nothing(fields: tuple[str, ...]) -> None:
    message = report("disposition-notification", *fields)
    notice = read_notice(io.BytesIO(message), facts_of(io.BytesIO(message)))
    assert (notice.kind, notice.author, notice.changes) == (Kind.MDN, CHEN, ())


def test_only_failed_recipients_of_a_report_count() -> None:
    message = report(
        "delivery-status",
        "Reporting-MTA: dns; x",
        "",
        f"Final-Recipient: rfc822;{CHEN}",
        "Action: delayed",
        "",
        f"Final-Recipient: rfc822;{NURSE}",
        "Action: failed",
    )
    notice = read_notice(io.BytesIO(message), facts_of(io.BytesIO(message)))
    assert [change.address for change in notice.changes] == [NURSE]
    assert notice.original_message_id is None


def test_report_without_its_part_is_malformed() -> None:
    message = report("disposition-notification").replace(
        b"message/disposition", b"text/disposition"
    )
    with pytest.raises(DirectError) as caught:
        read_notice(io.BytesIO(message), facts_of(io.BytesIO(message)))
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("disposition-notification", Kind.MDN),
        ("delivery-status", Kind.DSN),
        ("feedback-report", Kind.MESSAGE),
    ],
)
def test_kind_is_that_of_the_report(kind: str, expected: Kind) -> None:
    assert kind_of(facts_of(io.BytesIO(report(kind)))) is expected


def test_message_is_no_report() -> None:
    assert kind_of(facts_of(io.BytesIO(mail(CHEN, RIVERA)))) is Kind.MESSAGE
