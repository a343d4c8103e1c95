"""A user whose messages go to a real Dovecot by LMTP: read by IMAP, answered after its 250."""

from __future__ import annotations

import asyncio
import imaplib
from collections.abc import Awaitable, Callable
from email import message_from_bytes
from pathlib import Path

import aiosmtplib

from gateway import messages, queue
from gateway.config import Mailbox
from gateway.host_port import HostPort
from gateway.messages import Direction, Kind, Message
from gateway.recipients import recipients_of
from gateway.sample_ccda import continuity_of_care_document
from gateway.sandbox import Hisp, open_sandbox
from gateway.tls_policy import Demand
from tests.helpers.mail_servers import Dovecot, dovecot
from tests.helpers.pki import NOW

CHEN = "dr.chen@direct.lakeview.example"
OPTIONS = "X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"
DOCUMENT = continuity_of_care_document(now=NOW).replace(b"\n", b"\r\n")


def mailbox(server: Dovecot) -> dict[str, Mailbox]:
    host, port = server.lmtp
    return {CHEN: Mailbox(server=HostPort(host=host, port=port), lmtp=True, tls=Demand.NONE)}


async def submit(hisp: Hisp, *, options: str = "") -> str:
    """Send the document from the desk to Dr. Chen; return its Message-ID."""
    assert hisp.listening.edge is not None
    host, port = hisp.listening.edge
    message_id = "<document.1@direct.hillside.example>"
    header = (
        f"From: {hisp.desk}\r\nTo: {CHEN}\r\nMessage-ID: {message_id}\r\nSubject: CCD\r\n"
        f"Date: Fri, 02 Jan 2026 12:00:00 +0000\r\nMIME-Version: 1.0\r\n{options}"
        "Content-Type: application/xml; charset=utf-8\r\n\r\n"
    )
    async with aiosmtplib.SMTP(
        hostname=host,
        port=port,
        start_tls=True,
        validate_certs=False,
        username="ehr",
        password=hisp.password,
    ) as client:
        await client.sendmail(str(hisp.desk), [CHEN], header.encode() + DOCUMENT)
    return message_id


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        found = await look()
        while not found:
            await asyncio.sleep(0.02)
            found = await look()


async def sent_by(hisp: Hisp) -> Message:
    found = await hisp.listening.database.read(
        lambda c: messages.list_messages(c, limit=10, direction=Direction.OUTGOING)
    )
    [message] = [m for m in found if m.kind is Kind.MESSAGE]
    return message


async def state_at(hisp: Hisp) -> str:
    """How far the sender knows the message to be."""
    message = await sent_by(hisp)
    [recipient] = await hisp.listening.database.read(lambda c: recipients_of(c, message.id))
    return recipient.state


async def notices_of(hisp: Hisp) -> list[Message]:
    """The MDNs that a HISP has sent."""
    found = await hisp.listening.database.read(
        lambda c: messages.list_messages(c, limit=10, direction=Direction.OUTGOING)
    )
    return [m for m in found if m.kind is Kind.MDN]


def read(server: Dovecot) -> list[bytes]:
    with imaplib.IMAP4(*server.imap) as imap:
        imap.login(CHEN, server.password)
        imap.select()
        _, found = imap.search(None, "ALL")
        fetched = [imap.fetch(n, "(RFC822)")[1][0] for n in found[0].decode().split()]
        return [item[1] for item in fetched if isinstance(item, tuple)]


async def test_a_document_is_read_by_imap_and_its_sender_hears_of_both_steps(
    tmp_path: Path,
) -> None:
    with dovecot() as server:
        async with open_sandbox(tmp_path, mailboxes=mailbox(server)) as sandbox:
            hillside, lakeview = sandbox.hillside, sandbox.lakeview
            message_id = await submit(
                hillside,
                options=(
                    f"Disposition-Notification-To: {hillside.desk}\r\n"
                    f"Disposition-Notification-Options: {OPTIONS}\r\n"
                ),
            )

            async def dispatched() -> bool:
                return await state_at(hillside) == "dispatched"

            await eventually(dispatched)
            assert len(await notices_of(lakeview)) == 2
        [mail] = await asyncio.to_thread(read, server)
    parsed = message_from_bytes(mail)
    assert parsed["Message-ID"] == message_id
    assert parsed["Return-Path"] == f"<{hillside.desk}>"
    assert parsed.get_payload(decode=True) == DOCUMENT


async def test_without_a_request_there_is_no_dispatched_notice(tmp_path: Path) -> None:
    with dovecot() as server:
        async with open_sandbox(tmp_path, mailboxes=mailbox(server)) as sandbox:
            await submit(sandbox.hillside)

            async def arrived() -> bool:
                return bool(await asyncio.to_thread(read, server))

            async def processed() -> bool:
                return await state_at(sandbox.hillside) == "processed"

            async def idle() -> bool:
                jobs = await sandbox.lakeview.listening.database.read(
                    lambda c: queue.list_jobs(c, limit=1)
                )
                return not jobs

            for condition in (arrived, processed, idle):
                await eventually(condition)
            assert len(await notices_of(sandbox.lakeview)) == 1


async def test_a_mailbox_that_refuses_fails_the_message_whoever_asked(tmp_path: Path) -> None:
    quota = "plugin {\n  quota = maildir:User quota\n  quota_rule = *:storage=1K\n}\n"
    full = quota + "lmtp_rcpt_check_quota = yes\nprotocol lmtp {\n  quota_full_tempfail = no\n}\n"
    with dovecot(plugins="quota", extra=full) as server:
        async with open_sandbox(tmp_path, mailboxes=mailbox(server)) as sandbox:
            await submit(sandbox.hillside)

            async def failed() -> bool:
                return await state_at(sandbox.hillside) == "failed"

            await eventually(failed)
            assert len(await notices_of(sandbox.lakeview)) == 2
        assert await asyncio.to_thread(read, server) == []
