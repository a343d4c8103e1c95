from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from gateway import audit
from gateway.acceptance import PASSWORDS_AT_A_TIME, HeadKeepingSink, SmtpReception, dedupe_key
from gateway.domain_control import change_address
from gateway.header import HEADER_OCTETS
from gateway.mdn import Disposition
from gateway.messages import Direction, Kind, MessageState, Source
from gateway.ports import Envelope, Session, StoredBody
from gateway.tracking import Windows
from tests.helpers.agent import (
    BACKBONE,
    CHEN,
    DESK,
    EDGE,
    GP,
    NURSE,
    RIVERA,
    WANTS_DISPATCHED,
    WINDOW,
    Agent,
    mail,
)
from tests.helpers.memory_reception import MemorySink
from tests.helpers.pki import NOW

NOBODY = parse_address("nobody@direct.hillside.example")


async def refusal(agent: Agent, *arguments: object) -> Reason:
    with pytest.raises(DirectError) as caught:
        await agent.accept(*arguments)  # type: ignore[arg-type]  # as `accept` takes them
    assert await agent.listed() == []
    assert await agent.jobs() == []
    assert agent.woken == []
    return caught.value.reason


async def reason_of(check: Awaitable[None]) -> Reason | None:
    try:
        await check
    except DirectError as error:
        return error.reason
    return None


# Who may come in, send as whom, and to whom


async def test_many_who_guess_passwords_leave_threads_to_the_others(agent: Agent) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(PASSWORDS_AT_A_TIME + 1))
    guesses = [asyncio.create_task(agent.reception.authenticate("ehr", "x")) for _ in range(12)]
    # Until the first is answered, all of them have been asked for.
    await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(int)
    assert sum(guess.done() for guess in guesses) < 6
    assert not any(await asyncio.gather(*guesses))


@pytest.mark.parametrize(
    ("user", "password", "known"),
    [("ehr", "secret", True), ("ehr", "wrong", False), ("nobody", "secret", False)],
)
async def test_login_is_by_password_and_audited(
    agent: Agent, user: str, password: str, known: bool
) -> None:
    assert await agent.reception.authenticate(user, password) is known
    [event] = await agent.database.read(partial(audit.list_events, limit=9))
    assert (event.actor, event.action) == (f"edge:{user}", "login")
    assert event.outcome == ("success" if known else "failure")
    assert password not in repr(event)


@pytest.mark.parametrize(
    ("session", "sender", "allowed"),
    [
        pytest.param(EDGE, RIVERA, True, id="own"),
        pytest.param(EDGE, parse_address(str(RIVERA).upper()), True, id="own-in-capitals"),
        pytest.param(EDGE, NOBODY, False, id="not-served"),
        pytest.param(EDGE, CHEN, False, id="of-a-peer"),
        pytest.param(EDGE, None, False, id="null-sender"),
        pytest.param(replace(EDGE, user=None), RIVERA, False, id="not-logged-in"),
        pytest.param(replace(EDGE, user="other"), RIVERA, False, id="another-user"),
        pytest.param(BACKBONE, CHEN, True, id="peer"),
        pytest.param(BACKBONE, None, True, id="peer-with-null-sender"),
    ],
)
async def test_sender(
    agent: Agent, session: Session, sender: DirectAddress | None, allowed: bool
) -> None:
    reason = None if allowed else Reason.SENDER_NOT_ALLOWED
    assert await reason_of(agent.reception.check_sender(session, sender)) is reason


@pytest.mark.parametrize(
    ("session", "recipient", "reason"),
    [
        pytest.param(EDGE, CHEN, None, id="edge-to-peer"),
        pytest.param(EDGE, DESK, None, id="edge-to-ours"),
        pytest.param(EDGE, NOBODY, Reason.RECIPIENT_UNKNOWN, id="edge-to-unknown-of-ours"),
        pytest.param(BACKBONE, DESK, None, id="peer-to-ours"),
        pytest.param(BACKBONE, NOBODY, Reason.RECIPIENT_UNKNOWN, id="peer-to-unknown-of-ours"),
        pytest.param(BACKBONE, GP, Reason.RELAY_REFUSED, id="peer-to-peer"),
    ],
)
async def test_recipient(
    agent: Agent, session: Session, recipient: DirectAddress, reason: Reason | None
) -> None:
    assert await reason_of(agent.reception.check_recipient(session, recipient)) is reason


# The mail edge


async def test_submission_is_committed_with_its_job_and_the_worker_woken(agent: Agent) -> None:
    content = mail(RIVERA, CHEN, DESK, more=[WANTS_DISPATCHED])
    identifier = await agent.submit(content, CHEN, DESK)
    message = await agent.message(identifier)
    assert (message.direction, message.source, message.kind, message.state) == (
        Direction.OUTGOING,
        Source.EDGE,
        Kind.MESSAGE,
        MessageState.RECEIVED,
    )
    assert (message.author, message.envelope_sender, message.wants_dispatched) == (
        RIVERA,
        RIVERA,
        True,
    )
    assert await agent.body(message.body_key) == content
    rows = await agent.rows(identifier)
    assert {row.state for row in rows.values()} == {"queued"}
    # DN-017: the window runs from here, whatever becomes of the job.
    assert {row.due_at for row in rows.values()} == {NOW + WINDOW}
    [job] = await agent.jobs()
    assert (job.kind, job.payload, job.due_at) == ("outgoing", {"message": str(identifier)}, NOW)
    assert agent.woken == [None]


async def test_domain_may_have_a_window_of_its_own(agent: Agent) -> None:
    windows = Windows(WINDOW, {RIVERA.domain: timedelta(minutes=10)})
    agent.reception = SmtpReception(
        database=agent.database,
        bodies=agent.bodies,
        clock=agent.clock,
        wake=lambda: None,
        windows=windows,
    )
    identifier = await agent.submit(mail(RIVERA, CHEN), CHEN)
    await agent.run("outgoing", "deliver")
    row = (await agent.rows(identifier))[CHEN]
    assert (row.state, row.due_at) == ("relayed", NOW + timedelta(minutes=10))
    agent.clock.now += timedelta(minutes=10)
    assert await agent.transmission.time_out() == 1


async def test_submission_without_a_message_id_gets_one_that_its_notices_name(agent: Agent) -> None:
    identifier = await agent.submit(mail(RIVERA, CHEN, message_id=None), CHEN)
    given = (await agent.message(identifier)).message_id_header
    assert given == f"<{identifier}@{RIVERA.domain}>"
    await agent.run()
    assert f"Message-ID: {given}\r\n".encode() in agent.peers.sent[0].opened(CHEN)
    await agent.mdn(Disposition.PROCESSED, given)
    assert await agent.states(identifier) == {CHEN: "processed"}


@pytest.mark.parametrize("unusable", ["7f3a@hillside.example", "", "<>"])
async def test_submission_with_an_unusable_message_id_gets_one_that_its_notices_name(
    agent: Agent, unusable: str
) -> None:
    content = mail(RIVERA, CHEN, message_id=None, more=[f"Message-ID: {unusable}"])
    identifier = await agent.submit(content, CHEN)
    await agent.run()
    inner = agent.peers.sent[0].opened(CHEN)
    assert inner.lower().count(b"message-id:") == 1
    assert f"Message-ID: <{identifier}@{RIVERA.domain}>\r\n".encode() in inner


async def test_user_may_submit_for_an_author_with_itself_as_sender(agent: Agent) -> None:
    content = mail(RIVERA, CHEN, more=[f"Sender: {DESK}"])
    identifier = await agent.submit(content, CHEN, sender=DESK)
    message = await agent.message(identifier)
    assert (message.author, message.envelope_sender) == (RIVERA, DESK)


@pytest.mark.parametrize(
    ("content", "recipients", "reason"),
    [
        pytest.param(mail(CHEN, NURSE), (NURSE,), Reason.SENDER_NOT_ALLOWED, id="author-not-ours"),
        pytest.param(
            mail(DESK, CHEN), (CHEN,), Reason.ENVELOPE_MISMATCH, id="mail-from-not-author"
        ),
        pytest.param(mail(RIVERA, CHEN), (CHEN, NURSE), Reason.ENVELOPE_MISMATCH, id="blind-copy"),
        pytest.param(
            mail(RIVERA, CHEN, more=[f"Bcc: {NURSE}"]),
            (NURSE,),
            Reason.ENVELOPE_MISMATCH,
            id="bcc-field",
        ),
        pytest.param(b"To: a\r\n\r\n", (CHEN,), Reason.MESSAGE_MALFORMED, id="no-author"),
        pytest.param(
            mail(RIVERA, CHEN, more=["Subject: J\u00f6rg"]),
            (CHEN,),
            Reason.MESSAGE_MALFORMED,
            id="header-not-ascii",
        ),
        pytest.param(
            mail(RIVERA, CHEN, message_id=f"<{'1' * 900}@x.example>"),
            (CHEN,),
            Reason.MESSAGE_MALFORMED,
            id="message-id-too-long-to-notify-about",
        ),
        pytest.param(
            mail(RIVERA, CHEN, more=[f"X-Long: {'a' * 900}"] * 80),
            (CHEN,),
            Reason.MESSAGE_MALFORMED,
            id="header-too-long",
        ),
        pytest.param(
            mail(RIVERA, CHEN, more=["Received: by x"] * 51),
            (CHEN,),
            Reason.MESSAGE_MALFORMED,
            id="too-many-hops",
        ),
    ],
)
async def test_submission_refused_at_once(
    agent: Agent, content: bytes, recipients: tuple[DirectAddress, ...], reason: Reason
) -> None:
    assert await refusal(agent, EDGE, content, RIVERA, *recipients) is reason


async def test_hops_up_to_the_limit_pass(agent: Agent) -> None:
    await agent.submit(mail(RIVERA, CHEN, more=["Received: by x"] * 50), CHEN)


@pytest.mark.parametrize(
    ("report_type", "kind"),
    [("disposition-notification", Kind.MDN), ("delivery-status", Kind.DSN)],
)
async def test_submitted_report_is_not_waited_for_as_nobody_answers_it(
    agent: Agent, report_type: str, kind: Kind
) -> None:
    more = f"Content-Type: multipart/report; report-type={report_type}; boundary=b"
    identifier = await agent.submit(mail(RIVERA, CHEN, more=[more], body="--b--"), CHEN)
    await agent.run()
    agent.clock.now += WINDOW
    assert await agent.transmission.time_out() == 0
    message = await agent.message(identifier)
    assert (message.kind, message.state) == (kind, MessageState.FINISHED)
    assert await agent.states(identifier) == {CHEN: "relayed"}


# Repetition


async def test_same_submission_again_is_the_same_message(agent: Agent) -> None:
    first = await agent.submit(mail(RIVERA, CHEN, NURSE), CHEN, NURSE)
    assert await agent.submit(mail(RIVERA, CHEN, NURSE), NURSE, CHEN) == first
    assert len(await agent.jobs()) == 1


@pytest.mark.parametrize(
    ("content", "recipients"),
    [
        pytest.param(mail(RIVERA, CHEN, NURSE), (NURSE,), id="other-recipient"),
        pytest.param(mail(RIVERA, CHEN, NURSE, body="Other."), (CHEN,), id="other-content"),
    ],
)
async def test_other_submission_under_the_same_message_id_is_another_message(
    agent: Agent, content: bytes, recipients: tuple[DirectAddress, ...]
) -> None:
    first = await agent.submit(mail(RIVERA, CHEN, NURSE), CHEN)
    assert await agent.submit(content, *recipients) != first


async def test_equal_submissions_without_a_message_id_are_two(agent: Agent) -> None:
    content = mail(RIVERA, CHEN, message_id=None)
    assert await agent.submit(content, CHEN) != await agent.submit(content, CHEN)


def test_null_sender_and_a_sender_are_told_apart() -> None:
    body = StoredBody("key", 1, "0" * 64, None)
    by_nobody, by_chen = Envelope(None, (RIVERA,)), Envelope(CHEN, (RIVERA,))
    assert dedupe_key(by_nobody, "<1@x>", body) != dedupe_key(by_chen, "<1@x>", body)


# The backbone


async def test_relayed_message_is_committed_as_it_came(agent: Agent) -> None:
    content = b"From: not read yet\r\n\r\nsealed\r\n"
    identifier = await agent.accept(BACKBONE, content, None, RIVERA, DESK)
    message = await agent.message(identifier)
    assert (message.direction, message.source, message.author) == (
        Direction.INCOMING,
        Source.BACKBONE,
        None,
    )
    assert await agent.body(message.body_key) == content
    assert {row.due_at for row in (await agent.rows(identifier)).values()} == {None}
    assert [job.kind for job in await agent.jobs()] == ["incoming"]


async def test_relayed_message_that_goes_in_circles_is_refused(agent: Agent) -> None:
    content = b"Received: by x\r\n" * 51 + b"\r\n"
    assert await refusal(agent, BACKBONE, content, CHEN, RIVERA) is Reason.MESSAGE_MALFORMED


async def test_content_in_a_foreign_sink_is_an_internal_error(agent: Agent) -> None:
    with pytest.raises(DirectError) as caught:
        await agent.reception.accept(EDGE, Envelope(RIVERA, (CHEN,)), MemorySink())
    assert caught.value.reason is Reason.INTERNAL


# The sink


async def test_sink_keeps_no_more_than_the_header_may_take() -> None:
    inner = MemorySink()
    sink = HeadKeepingSink(inner)
    for _ in range(4):
        assert sink.write(memoryview(b"x" * 50_000)) == 50_000
    assert (len(sink.head), sink.size) == (HEADER_OCTETS + 1, 200_000)
    assert (await sink.finish()).size == 200_000
    await sink.discard()
    assert inner.discarded


async def test_who_may_send_no_more_is_refused_also_after_mail_from(agent: Agent) -> None:
    # The commit looks once more: nothing is accepted for who was stopped meanwhile.
    reception = agent.reception
    await reception.check_sender(EDGE, RIVERA)
    await agent.database.write(lambda c: change_address(c, RIVERA, enabled=False))
    assert await refusal(agent, EDGE, mail(RIVERA, CHEN), RIVERA, CHEN) is Reason.SENDER_NOT_ALLOWED


async def test_who_was_found_is_asked_for_again_when_a_moment_is_over(agent: Agent) -> None:
    reception = SmtpReception(
        database=agent.database,
        bodies=agent.bodies,
        clock=agent.clock,
        wake=lambda: None,
        believed=timedelta(seconds=0.5),
    )
    agent.reception = reception
    await reception.check_sender(EDGE, RIVERA)
    await reception.check_recipient(BACKBONE, DESK)
    for address in (RIVERA, DESK):
        await agent.database.write(partial(change_address, address=address, enabled=False))
    await reception.check_sender(EDGE, RIVERA)
    await reception.check_recipient(BACKBONE, DESK)
    # Another user, and another side, have not been found.
    other = replace(EDGE, user="other")
    assert await reason_of(reception.check_sender(other, RIVERA)) is Reason.SENDER_NOT_ALLOWED
    assert await reason_of(reception.check_recipient(EDGE, DESK)) is Reason.RECIPIENT_UNKNOWN
    # Nothing is accepted for it, whatever was believed.
    assert await refusal(agent, EDGE, mail(RIVERA, CHEN), RIVERA, CHEN) is Reason.SENDER_NOT_ALLOWED

    agent.clock.now += timedelta(seconds=0.5)
    assert await reason_of(reception.check_sender(EDGE, RIVERA)) is Reason.SENDER_NOT_ALLOWED
    assert await reason_of(reception.check_recipient(BACKBONE, DESK)) is Reason.RECIPIENT_UNKNOWN
    # A refusal is never remembered.
    for address in (RIVERA, DESK):
        await agent.database.write(partial(change_address, address=address, enabled=True))
    await reception.check_sender(EDGE, RIVERA)
    await reception.check_recipient(BACKBONE, DESK)
