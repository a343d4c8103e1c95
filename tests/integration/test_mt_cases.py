"""Cases MT of the Edge Test Tool at the mail edge: each failure is told once, to whom it concerns.

Requirements section 7.8. The whole gateway runs, and the peer is a whole gateway too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path

import aiosmtplib
import dns.name
import dns.zone
import pytest

from gateway import dsn, messages, queue
from gateway.clock import utc_now
from gateway.config import HostPort, Mailbox
from gateway.messages import Direction, Kind, Message
from gateway.sandbox import Hisp, Sandbox, open_sandbox
from gateway.spool import SpoolBodies
from gateway.tls_policy import Demand
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


@BOTH_MODES
async def test_mt1_mt23_a_bad_address_is_told_once(tmp_path: Path, options: str) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        nobody = "nobody@direct.lakeview.example"
        message_id = await submit(sandbox.hillside, nobody, options=options)
        report = await the_one_report(sandbox)
    assert failed(report) == [(nobody, "5.1.1")]
    assert report.original_message_id == message_id


@BOTH_MODES
async def test_mt2_mt24_an_untrusted_hisp_is_told_once(tmp_path: Path, options: str) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        await distrust(sandbox.hillside)
        await submit(sandbox.hillside, CHEN, options=options)
        report = await the_one_report(sandbox)
        assert await listed(sandbox.lakeview, Direction.INCOMING, Kind.MESSAGE) == []
    assert failed(report) == [(CHEN, "5.7.1")]


@BOTH_MODES
async def test_mt3_mt25_an_unpublished_certificate_is_told_once(
    tmp_path: Path, options: str
) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        domain = "direct.nobody.example"
        lines = "@ 300 IN SOA ns x 1 3600 600 86400 60\n@ 300 IN NS ns\nns 300 IN A 127.0.0.1"
        sandbox.zones[dns.name.from_text(domain)] = dns.zone.from_text(
            lines, origin=domain, relativize=False
        )
        await submit(sandbox.hillside, f"dr.who@{domain}", options=options)
        report = await the_one_report(sandbox)
    assert failed(report) == [(f"dr.who@{domain}", "5.7.5")]


@BOTH_MODES
async def test_mt4_mt26_no_processed_notice_in_time_is_told_once(
    tmp_path: Path, options: str
) -> None:
    async with open_sandbox(tmp_path, window_s=1.0) as sandbox:
        # Lakeview takes the message, does not trust it, and says nothing (AS-077).
        await distrust(sandbox.lakeview)
        await submit(sandbox.hillside, CHEN, options=options)
        report = await the_one_report(sandbox)
        assert await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN) == []
    assert failed(report) == [(CHEN, "5.4.7")]


@BOTH_MODES
async def test_mt18_mt47_of_two_recipients_only_the_bad_one_fails(
    tmp_path: Path, options: str
) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        nobody = "nobody@direct.lakeview.example"
        await submit(sandbox.hillside, nobody, CHEN, options=options)
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
                    for recipient in messages.recipients_of(c, message.id)
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


@BOTH_MODES
async def test_mt41_trusted_but_undeliverable_is_processed_then_failed_and_told_once(
    tmp_path: Path, options: str
) -> None:
    full = ScriptedServer({".": "552 5.2.2 Mailbox full"})
    async with (
        serving(full) as address,
        open_sandbox(tmp_path, mailboxes=mailbox_at(address)) as sandbox,
    ):
        await submit(sandbox.hillside, CHEN, options=options)
        report = await the_one_report(sandbox)
        assert len(await listed(sandbox.lakeview, Direction.OUTGOING, Kind.MDN)) == 2
    assert [recipient for recipient, _ in failed(report)] == [CHEN]
