"""A real Dovecot receives by LMTP, and its users read by IMAP."""

from __future__ import annotations

import imaplib
from collections.abc import Iterator
from io import BytesIO

import pytest

from certs.address import parse_address
from certs.errors import Reason
from gateway.edge_out import MailboxSender, MailServer
from gateway.ports import Delivery
from gateway.tls_policy import Demand
from tests.helpers.mail_servers import Dovecot, dovecot
from tests.helpers.places import FixedServers

ANNA = parse_address("anna@a.example")
JONES = "drjones@b.example"
SMITH = "drsmith@b.example"
HEADER = b"From: anna@a.example\r\nTo: drjones@b.example\r\nMessage-ID: <1@a.example>\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Dovecot]:
    with dovecot() as running:
        yield running


async def send(server: Dovecot, *recipients: str, content: bytes, null: bool = False) -> Delivery:
    servers = {"*": MailServer(*server.lmtp, lmtp=True, tls=Demand.NONE)}
    sender = MailboxSender(hostname="gw.b.example", servers=FixedServers(servers))
    try:
        return await sender.send(
            domain="b.example",
            sender=None if null else ANNA,
            recipients=[parse_address(recipient) for recipient in recipients],
            message=BytesIO(content),
            size=len(content),
        )
    finally:
        await sender.close()


def read(server: Dovecot, user: str) -> list[bytes]:
    """All messages of a user, as IMAP gives them."""
    with imaplib.IMAP4(*server.imap) as imap:
        imap.login(user, server.password)
        imap.select()
        _, found = imap.search(None, "ALL")
        numbers = found[0].decode().split()
        fetched = [imap.fetch(number, "(RFC822)")[1][0] for number in numbers]
        return [item[1] for item in fetched if isinstance(item, tuple)]


@pytest.mark.parametrize("size", [0, 300_000, 5_000_000])
async def test_a_message_is_read_as_it_was_sent(server: Dovecot, size: int) -> None:
    user = f"reader{size}@b.example"
    content = HEADER + b".dot\r\n..dots\r\n" + (b"." + b"x" * 75 + b"\r\n") * (size // 78)
    delivery = await send(server, user, content=content)
    assert [(a.reason, a.status) for a in delivery.attempts] == [(None, "2.0.0")]
    (mail,) = read(server, user)
    assert mail.endswith(content)
    assert b"Return-Path: <anna@a.example>" in mail
    assert b"by LMTP" in mail or b"with LMTP" in mail


async def test_each_recipient_gets_one_copy(server: Dovecot) -> None:
    delivery = await send(server, JONES, SMITH, content=HEADER + b"x\r\n")
    assert [a.reason for a in delivery.attempts] == [None, None]
    assert len(read(server, JONES)) == len(read(server, SMITH)) == 1


async def test_a_report_has_the_null_sender(server: Dovecot) -> None:
    await send(server, "null@b.example", content=HEADER + b"x\r\n", null=True)
    (mail,) = read(server, "null@b.example")
    assert b"Return-Path: <>" in mail


async def test_a_full_mailbox_is_told() -> None:
    quota = "plugin {\n  quota = maildir:User quota\n  quota_rule = *:storage=10K\n}\n"
    with dovecot(plugins="quota", extra=quota) as server:
        delivery = await send(server, JONES, content=HEADER + b"x" * 70 + b"\r\n")
        assert [a.reason for a in delivery.attempts] == [None]
        delivery = await send(server, JONES, content=HEADER + (b"x" * 70 + b"\r\n") * 400)
        (attempt,) = delivery.attempts
        assert attempt.reason in (Reason.BACKBONE_REFUSED, Reason.BACKBONE_UNAVAILABLE)
        assert attempt.status.endswith(".2.2")
        assert len(read(server, JONES)) == 1


@pytest.mark.parametrize("end", ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n"])
async def test_a_peer_cannot_say_commands_to_the_mail_server_within_a_message(end: str) -> None:
    """What was sealed may hold any octets; the end of the content must be ours alone to say."""
    commands = (
        "MAIL FROM:<evil@x.example>\r\nRCPT TO:<drsmith@b.example>\r\nDATA\r\n"
        "From: anna@a.example\r\nSubject: smuggled\r\n\r\nx\r\n"
    )
    with dovecot() as server:
        content = HEADER + f"before{end}{commands}".encode()
        delivery = await send(server, JONES, content=content)
        assert [a.reason for a in delivery.attempts] == [None]
        (delivered,) = read(server, JONES)
        assert b"Subject: smuggled\r\n" in delivered
        assert read(server, SMITH) == []
