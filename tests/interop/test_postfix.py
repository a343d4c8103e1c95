"""A real Postfix relays to us and from us, and its load generator fills our listener."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from io import BytesIO
from typing import TypeVar

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway import dsn
from gateway.ports import Delivery
from gateway.smtp_client import Timeouts
from gateway.smtp_out import SmtpSender
from gateway.smtp_pool import Connections, Target
from gateway.tls_policy import OPPORTUNISTIC
from tests.helpers.listeners import listening
from tests.helpers.mail_servers import Postfix, postfix
from tests.helpers.memory_reception import MemoryReception

ANNA = "anna@a.example"
JONES = "drjones@b.example"
HEADER = (
    b"From: anna@a.example\r\nTo: drjones@b.example\r\nSubject: x\r\n"
    b"Date: Fri, 02 Jan 2026 12:00:00 +0000\r\nMessage-ID: <1@a.example>\r\n\r\n"
)
CONTENT = HEADER + b".dots\r\n..more\r\n" + b"seven bits\r\n" * 100

T = TypeVar("T")


class Nowhere:
    """No DNS: everything goes by route."""

    async def mx(self, domain: str) -> list[tuple[str, int]]:
        raise AssertionError(domain)

    async def addresses(self, host: str) -> list[str]:
        raise AssertionError(host)


async def send(server: Postfix, *recipients: str, content: bytes = CONTENT) -> Delivery:
    sender = SmtpSender(hostname="mx.a.example", routes={"*": server.address}, resolver=Nowhere())
    try:
        return await sender.send(
            domain="b.example",
            sender=parse_address(ANNA),
            recipients=[parse_address(recipient) for recipient in recipients],
            message=BytesIO(content),
            size=len(content),
        )
    finally:
        await sender.close()


async def eventually(look: Callable[[], T]) -> T:
    return await asyncio.to_thread(poll, look)


def poll(look: Callable[[], T]) -> T:
    end = time.monotonic() + 120  # Postfix tries again when it sees fit
    while not (found := look()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)
    return found


def unix(message: bytes) -> bytes:
    return message.replace(b"\r\n", b"\n")


async def test_postfix_takes_our_mail_under_tls_and_unchanged() -> None:
    with postfix(mailboxes=[JONES]) as server:
        delivery = await send(server, JONES)
        assert [(a.reason, a.status) for a in delivery.attempts] == [(None, "2.0.0")]
        assert delivery.attempts[0].reply.startswith("250 2.0.0 Ok: queued as ")
        assert (delivery.tls or "").startswith("TLSv1.3 ")
        (mail,) = await eventually(lambda: server.mail(JONES))
    assert mail.endswith(unix(CONTENT))
    assert b"with ESMTPS" in mail


async def test_postfix_resumes_our_tls_session() -> None:
    with postfix(mailboxes=[JONES]) as server:
        pool = Connections(hostname="mx.a.example", timeouts=Timeouts())
        target = Target("mx.b.example", *server.address, OPPORTUNISTIC)
        resumed = []
        for _ in range(3):
            client = await pool.new(target)
            assert client.tunnel is not None
            resumed.append(client.tunnel.session_reused)
            await client.quit()
    assert resumed == [False, True, True]


async def test_postfix_takes_a_large_message_unchanged() -> None:
    content = HEADER + (b"." + b"x" * 75 + b"\r\n") * 130_000
    with postfix(mailboxes=[JONES]) as server:
        await send(server, JONES, content=content)
        (mail,) = await eventually(lambda: server.mail(JONES))
    assert mail.endswith(unix(content))


async def test_postfix_refuses_one_recipient_and_takes_the_other() -> None:
    with postfix(mailboxes=[JONES]) as server:
        delivery = await send(server, "nobody@b.example", JONES)
        assert [(a.reason, a.status) for a in delivery.attempts] == [
            (Reason.BACKBONE_REFUSED, "5.1.1"),
            (None, "2.0.0"),
        ]


async def test_postfix_has_told_its_size_so_nothing_larger_is_sent() -> None:
    with postfix(mailboxes=[JONES], extra="message_size_limit = 1000") as server:
        (attempt,) = (await send(server, JONES)).attempts
        assert (attempt.reason, attempt.status) == (Reason.BACKBONE_REFUSED, "5.3.4")
        assert "mail=" not in server.log


async def test_postfix_relays_to_us_under_tls_and_unchanged() -> None:
    reception = MemoryReception()
    async with listening(reception) as address:
        with postfix(relayhost=address, outward="encrypt") as server:
            await send(server, JONES)
            await eventually(lambda: reception.accepted)
    (accepted,) = reception.accepted
    assert accepted.content.endswith(CONTENT)
    assert accepted.content.startswith(b"Received: from mx.a.example")
    assert (accepted.session.tls or "").startswith("TLSv1.3 ")
    assert accepted.session.helo == "mx.b.example"
    assert [str(r) for r in accepted.envelope.recipients] == [JONES]


async def test_postfix_tries_again_what_we_put_off_and_we_get_it_once() -> None:
    reception = MemoryReception(failure=DirectError(Reason.INTERNAL, "disk"))
    async with listening(reception) as address:
        with postfix(relayhost=address) as server:
            await send(server, JONES)
            await eventually(lambda: "451 4.3.0 Internal error" in server.log)
            reception.failure = None
            await eventually(lambda: "status=sent" in server.log)
    assert len(reception.accepted) == 1


async def test_postfix_bounces_what_we_refuse_and_we_read_its_report() -> None:
    async with listening(MemoryReception()) as address:
        with postfix(mailboxes=[ANNA], relayhost=address) as server:
            await send(server, "Nobody@b.example")
            (bounce,) = await eventually(lambda: server.mail(ANNA))
    report = dsn.parse(BytesIO(bounce))
    assert report.original_message_id == "<1@a.example>"
    (recipient,) = report.recipients
    assert recipient.recipient == parse_address("nobody@b.example")
    assert (recipient.failed, recipient.status) == (True, "5.1.1")


@pytest.mark.parametrize(
    ("sessions", "messages", "octets"), [(1, 50, 1000), (20, 400, 10_000), (5, 20, 1_000_000)]
)
async def test_smtp_source_is_served(sessions: int, messages: int, octets: int) -> None:
    reception = MemoryReception()
    async with listening(reception) as (host, port):
        process = await asyncio.create_subprocess_exec(
            *("/usr/sbin/smtp-source", "-d", "-s", str(sessions), "-m", str(messages)),
            *("-l", str(octets), "-f", ANNA, "-t", JONES, f"{host}:{port}"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    assert len(reception.accepted) == messages
    assert all(len(accepted.content) >= octets for accepted in reception.accepted)
