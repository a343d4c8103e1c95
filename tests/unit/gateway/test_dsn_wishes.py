"""What a sender at the mail edge is told, by NOTIFY and ORCPT (RFC3461 4.1, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from certs.address import DirectAddress
from certs.errors import Reason
from gateway.mdn import Disposition
from gateway.messages import Direction, Kind, Source
from gateway.notify import Notify, Wish
from gateway.tracking import DELAY
from tests.helpers.agent import CHEN, NURSE, RIVERA, WANTS_DISPATCHED, WINDOW, Agent, mail

SENT = "<1@hillside.example>"
PLAIN = "X-None: 1"
BUSY = (Reason.BACKBONE_UNAVAILABLE, "4.3.2", "Try again later")
SUCCESS = Wish(frozenset({Notify.SUCCESS}))
SUCCESS_OR_FAILURE = Wish(frozenset({Notify.SUCCESS, Notify.FAILURE}))
DELAYED = Wish(frozenset({Notify.DELAY, Notify.FAILURE}), "rfc822;dr.chen@old.example")
NEVER = Wish(frozenset({Notify.NEVER}))
PROCESSED = Disposition.PROCESSED
DISPATCHED = Disposition.DISPATCHED
FAILED = Disposition.FAILED


async def sent(agent: Agent, wish: Wish, *, more: str = PLAIN) -> UUID:
    """A message to Chen, of whom `wish` is wished, and to Nurse."""
    content = mail(RIVERA, CHEN, NURSE, more=[more])
    return await agent.submit(content, CHEN, NURSE, wishes={CHEN: wish})


async def hear(
    agent: Agent, *dispositions: Disposition, speaker: DirectAddress = CHEN, asked: bool
) -> None:
    for disposition in dispositions:
        final = asked and disposition is not PROCESSED
        await agent.mdn(disposition, SENT, speaker=speaker, sender=speaker, final_destination=final)
        await agent.run()
        agent.clock.now += timedelta(seconds=1)


async def told(agent: Agent) -> list[str]:
    """The actions of the reports to the author, and "mdn" for a confirmation by MDN."""
    heard = []
    for message in await agent.listed(Direction.INCOMING):
        if message.source is Source.AGENT and message.kind is Kind.MDN:
            heard.append("mdn")
        elif message.source is Source.AGENT:
            text = (await agent.body(message.body_key)).decode()
            heard += [
                line.removeprefix("Action: ")
                for line in text.split("\r\n")
                if line.startswith("Action: ")
            ]
    return heard


async def the_report(agent: Agent) -> str:
    [report] = await agent.listed(Direction.INCOMING, Kind.DSN)
    assert (report.envelope_sender, report.source) == (None, Source.AGENT)
    return (await agent.body(report.body_key)).decode()


@pytest.mark.parametrize(
    ("more", "wish", "dispositions", "expected"),
    [
        # Mode A: the peer tells of its trust and, unasked, of nothing more.
        pytest.param(PLAIN, SUCCESS, [PROCESSED], ["relayed"], id="plain-processed"),
        pytest.param(PLAIN, SUCCESS, [DISPATCHED], ["delivered"], id="plain-dispatched"),
        pytest.param(
            PLAIN, SUCCESS, [PROCESSED, DISPATCHED], ["relayed"], id="plain-processed-dispatched"
        ),
        pytest.param(PLAIN, SUCCESS, [PROCESSED, PROCESSED], ["relayed"], id="plain-twice"),
        pytest.param(PLAIN, SUCCESS, [FAILED], [], id="plain-failed-not-asked"),
        # "relayed" is no final word (RFC3464 2.3.3): what fails after it is told.
        pytest.param(
            PLAIN,
            SUCCESS_OR_FAILURE,
            [PROCESSED, FAILED],
            ["relayed", "failed"],
            id="plain-processed-failed",
        ),
        pytest.param(
            PLAIN, SUCCESS_OR_FAILURE, [DISPATCHED, FAILED], ["delivered"], id="plain-late-failure"
        ),
        # Mode B: success is both notices, told once and in one form (DN-014, DN-016).
        pytest.param(WANTS_DISPATCHED, SUCCESS, [PROCESSED], [], id="asked-processed"),
        pytest.param(
            WANTS_DISPATCHED,
            SUCCESS_OR_FAILURE,
            [PROCESSED, DISPATCHED, DISPATCHED, FAILED],
            ["delivered"],
            id="asked-dispatched",
        ),
        pytest.param(
            WANTS_DISPATCHED,
            SUCCESS_OR_FAILURE,
            [DISPATCHED, PROCESSED],
            ["delivered"],
            id="asked-in-the-other-order",
        ),
        pytest.param(
            WANTS_DISPATCHED,
            SUCCESS_OR_FAILURE,
            [PROCESSED, FAILED, DISPATCHED],
            ["failed"],
            id="asked-failed",
        ),
        # The notice of DN-016 was asked for in the header, not by NOTIFY.
        pytest.param(
            WANTS_DISPATCHED, NEVER, [PROCESSED, DISPATCHED], ["mdn"], id="asked-but-no-dsn"
        ),
        pytest.param(PLAIN, NEVER, [PROCESSED], [], id="never"),
        pytest.param(PLAIN, NEVER, [FAILED], [], id="never-failed"),
    ],
)
async def test_what_is_told_of_a_recipient(
    agent: Agent,
    more: str,
    wish: Wish,
    dispositions: Sequence[Disposition],
    expected: Sequence[str],
) -> None:
    await sent(agent, wish, more=more)
    await agent.run("outgoing", "deliver")
    await hear(agent, *dispositions, asked=more == WANTS_DISPATCHED)
    assert await told(agent) == expected


async def test_a_success_is_told_of_who_it_was_wished_for_only(agent: Agent) -> None:
    await sent(agent, replace(SUCCESS, original="rfc822;dr.chen@old.example"))
    await agent.run("outgoing", "deliver")
    for speaker in (NURSE, CHEN):
        await hear(agent, PROCESSED, speaker=speaker, asked=False)
    text = await the_report(agent)
    assert "Original-Recipient: rfc822;dr.chen@old.example\r\n" in text
    assert f"Final-Recipient: rfc822;{CHEN}\r\n" in text
    assert "Status: 2.0.0\r\n" in text
    assert f"Final-Recipient: rfc822;{NURSE}\r\n" not in text
    assert "Please see the patient." not in text


async def test_a_failure_nobody_wants_to_hear_of_is_recorded_all_the_same(agent: Agent) -> None:
    agent.discovery.published.pop(CHEN)
    message = await sent(agent, NEVER)
    await agent.run()
    assert (await agent.states(message))[CHEN] == "failed"
    assert await told(agent) == []


async def test_a_delay_is_told_once_when_its_time_has_come(agent: Agent) -> None:
    agent.peers.replies = {CHEN: BUSY, NURSE: BUSY}
    message = await sent(agent, DELAYED)
    await agent.run()
    agent.clock.now += DELAY - timedelta(seconds=1)
    await agent.run()
    assert await told(agent) == []
    agent.clock.now += timedelta(seconds=1)
    await agent.run()
    due_at = (await agent.rows(message))[CHEN].due_at
    assert due_at is not None
    text = await the_report(agent)
    for line in (
        "Original-Recipient: rfc822;dr.chen@old.example",
        f"Final-Recipient: rfc822;{CHEN}",
        "Action: delayed",
        "Status: 4.4.1",
        f"Will-Retry-Until: {due_at:%a, %d %b %Y %H:%M:%S} +0000",
        "Subject: Delivery delayed: your message has not reached every recipient yet",
    ):
        assert f"\r\n{line}\r\n" in text
    assert f"Final-Recipient: rfc822;{NURSE}" not in text

    agent.clock.now += WINDOW
    await agent.transmission.time_out()
    await agent.run()
    # Nurse's failure is in the same report as Chen's.
    assert await told(agent) == ["delayed", "failed", "failed"]


async def test_a_delay_names_what_is_waited_for(agent: Agent) -> None:
    agent.discovery.failing.add(CHEN)
    await sent(agent, DELAYED)
    await agent.run()
    agent.clock.now += DELAY
    await agent.run()
    assert "Status: 4.4.3\r\n" in await the_report(agent)


@pytest.mark.parametrize("wish", [SUCCESS_OR_FAILURE, NEVER])
async def test_a_delay_is_not_told_to_who_did_not_ask(agent: Agent, wish: Wish) -> None:
    agent.peers.replies = {CHEN: BUSY}
    await sent(agent, wish)
    await agent.run("outgoing", "deliver")
    agent.clock.now += DELAY
    await agent.run()
    assert await told(agent) == []


@pytest.mark.parametrize("kind", ["disposition-notification", "delivery-status"])
async def test_nothing_is_told_of_a_notification_whatever_is_wished(
    agent: Agent, kind: str
) -> None:
    """DN-022."""
    agent.peers.replies = {CHEN: BUSY}
    everything = Wish(frozenset({Notify.SUCCESS, Notify.FAILURE, Notify.DELAY}))
    report = [f"Content-Type: multipart/report; report-type={kind}; boundary=b"]
    body = f"--b\r\nContent-Type: message/{kind}\r\n\r\nX: 1\r\n--b--"
    content = mail(RIVERA, CHEN, more=["MIME-Version: 1.0", *report], body=body)
    await agent.submit(content, CHEN, wishes={CHEN: everything})
    for hours in (0, 1, 30):
        agent.clock.now += timedelta(hours=hours)
        await agent.transmission.time_out()
        await agent.run()
    assert await told(agent) == []
    assert await agent.jobs() == []


async def test_what_has_left_is_not_delayed(agent: Agent) -> None:
    await sent(agent, DELAYED)
    await agent.run("outgoing", "deliver")
    agent.clock.now += DELAY
    await agent.run()
    assert await told(agent) == []
    assert await agent.jobs() == []
