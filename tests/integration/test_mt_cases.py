"""Cases MT of the Edge Test Tool: each outcome is told once, to whom it concerns.

Requirements sections 7.8 and 7.9 (of the cases for XDR, those that any edge can be asked; ours is
FHIR). First the whole gateway runs, and the peer is a whole gateway too; then time is a test's
own, the peer's notices are made by hand, and an hour passes in an instant. Each case is shown with
and without a request on the clock (see also `test_mt_on_the_clock`), and in one of the two ways
between whole gateways.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import aiosmtplib
import dns.name
import dns.zone
import httpx
import pytest

from certs.address import DirectAddress, parse_address
from certs.errors import Reason
from fhir_bridge.terms import Terms
from gateway import audit, dsn, mdn, messages, queue
from gateway.clock import utc_now
from gateway.config import Mailbox
from gateway.database import SqlDatabase
from gateway.exchange import Fhir
from gateway.host_port import HostPort
from gateway.mdn import Disposition
from gateway.messages import Direction, Kind, Message, Source
from gateway.recipients import recipients_of
from gateway.sandbox import Hisp, Sandbox, open_sandbox
from gateway.spool import SpoolBodies
from gateway.tls_policy import Demand
from tests.helpers import agent as at
from tests.helpers.agent import RIVERA, WINDOW, Agent, mail, open_agent
from tests.helpers.pki import NOW
from tests.helpers.scripted_smtp import ScriptedServer, serving
from trust_bundles import store

CHEN = "dr.chen@direct.lakeview.example"
REQUEST = "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true\r\n"
BOTH_MODES = pytest.mark.parametrize("options", ["", REQUEST], ids=["plain", "with-request"])


async def submit(hisp: Hisp, *recipients: str, options: str = "", number: int = 1) -> str:
    """Send a message from the desk; return its Message-ID."""
    assert hisp.listening.edge is not None
    message_id = f"<{number}@direct.hillside.example>"
    text = (
        f"From: {hisp.desk}\r\nTo: {', '.join(recipients)}\r\nMessage-ID: {message_id}\r\n"
        f"Date: Fri, 02 Jan 2026 12:00:00 +0000\r\nMIME-Version: 1.0\r\n{options}\r\nHello\r\n"
    )
    async with aiosmtplib.SMTP(
        hostname=hisp.listening.edge[0],
        port=hisp.listening.edge[1],
        start_tls=True,
        validate_certs=False,
        username="ehr",
        password=hisp.password,
    ) as client:
        await client.sendmail(str(hisp.desk), list(recipients), text.encode())
    return message_id


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        found = await look()
        while not found:
            await asyncio.sleep(0.02)
            found = await look()


async def listed(hisp: Hisp, direction: Direction, kind: Kind) -> list[Message]:
    found = await hisp.listening.database.read(
        lambda c: messages.list_messages(c, limit=100, direction=direction)
    )
    return [message for message in found if message.kind is kind]


async def reports(hisp: Hisp) -> list[dsn.Dsn]:
    """The failure reports in the inbox of the HISP's users."""
    database = hisp.listening.database
    bodies = SpoolBodies(
        database=database, folder=hisp.config.gateway.data / "spool", clock=utc_now
    )
    read = []
    for message in await listed(hisp, Direction.INCOMING, Kind.DSN):
        assert message.body_key is not None
        async with bodies.open(message.body_key) as body:
            read.append(dsn.parse(BytesIO(body.read())))
    return read


async def at_rest(hisp: Hisp) -> bool:
    return not await hisp.listening.database.read(lambda c: queue.list_jobs(c, limit=1))


async def the_one_report(sandbox: Sandbox) -> dsn.Dsn:
    """Wait until all is done at the sender; there is exactly one report then."""

    async def reported() -> bool:
        return bool(await reports(sandbox.hillside)) and await at_rest(sandbox.hillside)

    await eventually(reported)
    [report] = await reports(sandbox.hillside)
    return report


async def distrust(hisp: Hisp) -> None:
    await hisp.listening.database.write(
        lambda c: [store.remove_anchor(c, anchor.sha256) for anchor in store.list_anchors(c)]
    )


def failed(report: dsn.Dsn) -> list[tuple[str, str | None]]:
    return [(str(each.recipient), each.status) for each in report.recipients if each.failed]


async def test_mt1_mt23_a_bad_address_is_told_once(tmp_path: Path) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        nobody = "nobody@direct.lakeview.example"
        message_id = await submit(sandbox.hillside, nobody)
        report = await the_one_report(sandbox)
    assert failed(report) == [(nobody, "5.1.1")]
    assert report.original_message_id == message_id


async def test_mt2_mt24_an_untrusted_hisp_is_told_once(tmp_path: Path) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        await distrust(sandbox.hillside)
        await submit(sandbox.hillside, CHEN, options=REQUEST)
        report = await the_one_report(sandbox)
        assert await listed(sandbox.lakeview, Direction.INCOMING, Kind.MESSAGE) == []
    assert failed(report) == [(CHEN, "5.7.1")]


async def test_mt3_mt25_an_unpublished_certificate_is_told_once(tmp_path: Path) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        domain = "direct.nobody.example"
        lines = "@ 300 IN SOA ns x 1 3600 600 86400 60\n@ 300 IN NS ns\nns 300 IN A 127.0.0.1"
        sandbox.zones[dns.name.from_text(domain)] = dns.zone.from_text(
            lines, origin=domain, relativize=False
        )
        await submit(sandbox.hillside, f"dr.who@{domain}")
        report = await the_one_report(sandbox)
    assert failed(report) == [(f"dr.who@{domain}", "5.7.5")]


async def test_mt4_mt26_no_processed_notice_in_time_is_told_once(tmp_path: Path) -> None:
    async with open_sandbox(tmp_path, window_s=1.0) as sandbox:
        # Lakeview takes the message, does not trust it, and says nothing (AS-077).
        await distrust(sandbox.lakeview)
        await submit(sandbox.hillside, CHEN, options=REQUEST)
        report = await the_one_report(sandbox)
        assert await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN) == []
    assert failed(report) == [(CHEN, "5.4.7")]


async def test_mt18_mt47_of_two_recipients_only_the_bad_one_fails(tmp_path: Path) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        nobody = "nobody@direct.lakeview.example"
        await submit(sandbox.hillside, nobody, CHEN, options=REQUEST)
        report = await the_one_report(sandbox)

        async def arrived() -> bool:
            return bool(await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN))

        await eventually(arrived)
    assert failed(report) == [(nobody, "5.1.1")]


async def test_mt17_mt45_every_message_and_notice_has_its_own_message_id(tmp_path: Path) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        for number in range(3):
            await submit(sandbox.hillside, CHEN, options=REQUEST, number=number)

        async def answered() -> bool:
            return len(await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN)) == 6

        await eventually(answered)
        sent = await listed(sandbox.hillside, Direction.OUTGOING, Kind.MESSAGE)
        notices = await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN)
    ids = [message.message_id_header for message in (*sent, *notices)]
    assert len(set(ids)) == len(ids) == 9


@pytest.mark.parametrize(
    ("options", "notices"),
    [
        pytest.param(REQUEST, 2, id="mt39-good-header"),
        pytest.param(REQUEST.replace("optional,true", "optioXXX,tXX"), 1, id="mt40-bad-header"),
        pytest.param("", 1, id="no-header"),
    ],
)
async def test_mt39_mt40_dispatched_only_where_it_was_asked_for(
    tmp_path: Path, options: str, notices: int
) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        await submit(sandbox.hillside, CHEN, options=options)

        async def done() -> bool:
            states = await sandbox.hillside.listening.database.read(
                lambda c: [
                    recipient.state
                    for message in messages.list_messages(c, limit=10)
                    if message.kind is Kind.MESSAGE
                    for recipient in recipients_of(c, message.id)
                ]
            )
            wanted = "dispatched" if notices == 2 else "processed"
            return states == [wanted] and await at_rest(sandbox.lakeview)

        await eventually(done)
        assert len(await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN)) == notices
        assert await reports(sandbox.hillside) == []


def mailbox_at(address: tuple[str, int]) -> dict[str, Mailbox]:
    server = HostPort(host=address[0], port=address[1])
    return {CHEN: Mailbox(server=server, lmtp=True, tls=Demand.NONE)}


async def test_mt27_mt28_no_dispatched_notice_in_time_is_told_once_and_a_late_one_is_not(
    tmp_path: Path,
) -> None:
    slow = ScriptedServer(gate=asyncio.Event())
    assert slow.gate is not None
    async with (
        serving(slow) as address,
        open_sandbox(tmp_path, window_s=1.5, mailboxes=mailbox_at(address)) as sandbox,
    ):
        await submit(sandbox.hillside, CHEN, options=REQUEST)
        report = await the_one_report(sandbox)
        assert failed(report) == [(CHEN, "5.4.7")]

        slow.gate.set()

        async def came_late() -> bool:
            heard = await listed(sandbox.hillside, Direction.INCOMING, Kind.MDN)
            return len(heard) == 2 and await at_rest(sandbox.hillside)

        await eventually(came_late)
        assert len(await reports(sandbox.hillside)) == 1


async def test_mt41_trusted_but_undeliverable_is_processed_then_failed_and_told_once(
    tmp_path: Path,
) -> None:
    full = ScriptedServer({".": "552 5.2.2 Mailbox full"})
    async with (
        serving(full) as address,
        open_sandbox(tmp_path, mailboxes=mailbox_at(address)) as sandbox,
    ):
        await submit(sandbox.hillside, CHEN, options=REQUEST)
        report = await the_one_report(sandbox)
        assert len(await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN)) == 2
    assert [recipient for recipient, _ in failed(report)] == [CHEN]


async def test_mt29_a_dispatched_message_is_told_to_who_asked(tmp_path: Path) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        message_id = await submit(sandbox.hillside, CHEN, options=REQUEST)

        async def told() -> bool:
            return bool(await own_notices(sandbox.hillside)) and await at_rest(sandbox.hillside)

        await eventually(told)
        [notice] = await own_notices(sandbox.hillside)
        assert await reports(sandbox.hillside) == []
    assert (notice.disposition, notice.final_destination) == (Disposition.DISPATCHED, True)
    assert (str(notice.final_recipient), notice.original_message_id) == (CHEN, message_id)


async def own_notices(hisp: Hisp) -> list[mdn.Mdn]:
    """The MDNs that were made for the HISP's own users."""
    found = await listed(hisp, Direction.INCOMING, Kind.MDN)
    bodies = SpoolBodies(
        database=hisp.listening.database,
        folder=hisp.config.gateway.data / "spool",
        clock=utc_now,
    )
    read = []
    for message in found:
        if message.source is Source.AGENT:
            assert message.body_key is not None
            async with bodies.open(message.body_key) as body:
                read.append(mdn.parse(BytesIO(body.read())))
    return read


async def test_mt19_mt48_mt30_mt31_a_request_by_fhir_counts_only_where_it_is_well_formed(
    tmp_path: Path,
) -> None:
    url = Terms().extension("wants-dispatched")
    async with (
        open_sandbox(tmp_path) as sandbox,
        httpx.AsyncClient(timeout=30, verify=False) as http,
    ):
        client = Fhir(http, sandbox.hillside)
        for value in ({"valueBoolean": True}, {"valueString": "optioXXX"}, None):
            extension = [] if value is None else [{"url": url, **value}]
            await client.create(communication(sandbox, extension))

        async def answered() -> bool:
            notices = await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN)
            return len(notices) >= 4 and await at_rest(sandbox.lakeview)

        await eventually(answered)
        sent = await listed(sandbox.hillside, Direction.OUTGOING, Kind.MESSAGE)
        notices = await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN)
    assert sorted(message.wants_dispatched for message in sent) == [False, False, True]
    assert len({message.message_id_header for message in sent}) == 3
    # Three are processed; dispatched is said of the one that asked for it as it must.
    assert len(notices) == 4


def communication(sandbox: Sandbox, extension: list[dict[str, Any]]) -> dict[str, Any]:
    def who(address: object) -> dict[str, Any]:
        return {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}}

    return {
        "resourceType": "Communication",
        "status": "in-progress",
        "topic": {"text": "Referral"},
        "sender": who(sandbox.hillside.user),
        "recipient": [who(sandbox.lakeview.user)],
        "payload": [{"contentString": "Hello"}],
        **({"extension": extension} if extension else {}),
    }


# With time in our hands

ABOUT = "<1@hillside.example>"
SECOND = timedelta(seconds=1)


@pytest.fixture
async def agent(sqlite_database: SqlDatabase, tmp_path: Path) -> AsyncIterator[Agent]:
    async with open_agent(sqlite_database, tmp_path) as opened:
        yield opened


async def sent(
    agent: Agent, options: str, *recipients: DirectAddress, reader: str = "inbox"
) -> UUID:
    """A message of Rivera's that has left. `reader`: where she reads what becomes of it."""
    if reader == "mail-server":
        agent.mail_servers.add(RIVERA)
    whom = recipients or (at.CHEN,)
    more = [options.strip() or "X-None: 1"]
    message = await agent.submit(mail(RIVERA, *whom, more=more), *whom)
    await agent.run()
    assert set((await agent.states(message)).values()) == {"relayed"}
    return message


async def at_time(agent: Agent, when: timedelta) -> None:
    agent.clock.now = NOW + when
    await agent.transmission.time_out()
    await agent.run()


async def told(agent: Agent) -> list[tuple[str, str]]:
    """What the sender has been told: each recipient, and what became of it."""
    heard = []
    for message in await agent.listed(Direction.INCOMING):
        body = BytesIO(await agent.body(message.body_key))
        if message.source is Source.AGENT and message.kind is Kind.DSN:
            each = dsn.parse(body).recipients
            heard += [(str(one.recipient), str(one.status)) for one in each if one.failed]
        elif message.source is Source.AGENT:
            notice = mdn.parse(body)
            assert notice.disposition is not None
            heard.append((str(notice.final_recipient), notice.disposition.value))
    return sorted(heard)


READERS = pytest.mark.parametrize("reader", ["inbox", "mail-server"])
TIMED_OUT = [(str(at.CHEN), "5.4.7")]


@READERS
@BOTH_MODES
async def test_mt4_mt8_mt12_mt26_no_processed_notice_is_told_when_the_hour_is_over(
    agent: Agent, options: str, reader: str
) -> None:
    # MT8 and MT12 are MT4 for users who read by IMAP and POP: at a mail server of theirs.
    await sent(agent, options, reader=reader)
    await at_time(agent, WINDOW - SECOND)
    assert await told(agent) == []
    await at_time(agent, WINDOW)
    assert await told(agent) == TIMED_OUT
    await at_time(agent, WINDOW + timedelta(days=8))
    assert await told(agent) == TIMED_OUT
    by_mail = [s for s in agent.peers.sent if s.recipients == (RIVERA,)]
    assert len(by_mail) == (1 if reader == "mail-server" else 0)


async def test_mt27_no_dispatched_notice_is_told_when_the_hour_is_over(agent: Agent) -> None:
    await sent(agent, REQUEST)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await at_time(agent, WINDOW - SECOND)
    assert await told(agent) == []
    await at_time(agent, WINDOW)
    assert await told(agent) == TIMED_OUT


@pytest.mark.parametrize("late", [timedelta(minutes=5), timedelta(days=7) - WINDOW])
async def test_mt28_a_dispatched_notice_after_the_hour_is_suppressed_and_recorded(
    agent: Agent, late: timedelta
) -> None:
    message = await sent(agent, REQUEST)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await at_time(agent, WINDOW)
    agent.clock.now += late
    notice = await agent.mdn(Disposition.DISPATCHED, ABOUT, final_destination=True)
    await agent.run()
    assert await told(agent) == TIMED_OUT
    assert await agent.states(message) == {at.CHEN: "failed"}
    assert (await agent.message(notice)).parent == message
    events = await agent.database.read(lambda c: audit.list_events(c, limit=99))
    [ignored] = [event for event in events if event.action == "mdn-dispatched"]
    assert ignored.outcome == "ignored"


@READERS
async def test_mt29_both_notices_in_time_are_told_as_dispatched_and_nothing_else(
    agent: Agent, reader: str
) -> None:
    await sent(agent, REQUEST, reader=reader)
    await at_time(agent, timedelta(minutes=1))
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await agent.run()
    assert await told(agent) == []
    await at_time(agent, WINDOW - SECOND)
    await agent.mdn(Disposition.DISPATCHED, ABOUT, final_destination=True)
    await agent.run()
    await at_time(agent, 2 * WINDOW)
    assert await told(agent) == [(str(at.CHEN), "dispatched")]


async def failed_mdn(agent: Agent) -> None:
    await agent.mdn(Disposition.FAILED, ABOUT)


async def postmasters_dsn(agent: Agent) -> None:
    await agent.dsn(ABOUT, at.CHEN, speaker=parse_address("postmaster@direct.lakeview.example"))


async def nothing(_agent: Agent) -> None: ...


@BOTH_MODES
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(failed_mdn, nothing, id="mt23a-failed-mdn"),
        pytest.param(postmasters_dsn, nothing, id="mt23b-dsn"),
        pytest.param(failed_mdn, postmasters_dsn, id="mt23c-mdn-then-dsn"),
        pytest.param(postmasters_dsn, failed_mdn, id="dsn-then-mdn"),
    ],
)
async def test_mt1_mt23_a_bad_address_that_the_peer_tells_of_is_told_once(
    agent: Agent,
    options: str,
    first: Callable[[Agent], Awaitable[None]],
    second: Callable[[Agent], Awaitable[None]],
) -> None:
    await sent(agent, options)
    await first(agent)
    await second(agent)
    await agent.run()
    assert [recipient for recipient, _ in await told(agent)] == [str(at.CHEN)]
    await at_time(agent, WINDOW)
    assert len(await told(agent)) == 1


@BOTH_MODES
async def test_mt18_mt47_of_two_recipients_each_has_its_own_outcome(
    agent: Agent, options: str
) -> None:
    await sent(agent, options, at.CHEN, at.NURSE)
    await agent.mdn(Disposition.FAILED, ABOUT, speaker=at.NURSE, sender=at.NURSE)
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await agent.mdn(Disposition.DISPATCHED, ABOUT, final_destination=bool(options))
    await agent.run()
    await at_time(agent, WINDOW)
    good = [(str(at.CHEN), "dispatched")] if options else []
    assert [one for one in await told(agent) if one[0] == str(at.CHEN)] == good
    assert [one for one, _ in await told(agent)].count(str(at.NURSE)) == 1


async def test_mt21_mt46_the_request_of_the_edge_is_in_the_direct_message_as_it_was(
    agent: Agent,
) -> None:
    await sent(agent, REQUEST)
    [out] = agent.peers.sent
    assert REQUEST.encode() in out.opened(at.CHEN)


async def test_mt22_a_bad_request_of_the_edge_is_sent_on_and_awaits_no_dispatched_notice(
    agent: Agent,
) -> None:
    message = await sent(agent, REQUEST.replace("optional,true", "optioXXX,tXX"))
    await agent.mdn(Disposition.PROCESSED, ABOUT)
    await at_time(agent, 2 * WINDOW)
    assert await agent.states(message) == {at.CHEN: "processed"}
    assert await told(agent) == []


@BOTH_MODES
async def test_mt41_trusted_but_undeliverable_is_told_while_the_sender_waits(
    agent: Agent, options: str
) -> None:
    agent.mail_servers.add(RIVERA)
    agent.peers.replies = {RIVERA: (Reason.BACKBONE_UNAVAILABLE, "4.3.2", "Try again later")}
    content = mail(at.CHEN, RIVERA, more=[options.strip() or "X-None: 1"])
    await agent.receive(content, RIVERA)
    for minute in range(60):
        await at_time(agent, timedelta(minutes=minute))
    made = await agent.listed(Direction.OUTGOING, Kind.MDN)
    bodies = [await agent.body(message.body_key) for message in made]
    said = [mdn.parse(BytesIO(body)).disposition for body in bodies]
    assert set(said) == {Disposition.PROCESSED, Disposition.FAILED}
    assert len(said) == 2
