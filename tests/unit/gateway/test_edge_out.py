"""The client of our users' own mail servers, against scripted ones and our own edge listener."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest

from certs.address import DirectAddress, parse_address
from certs.errors import Reason
from gateway.edge_out import MailboxSender, MailServer
from gateway.ports import Delivery, Role
from gateway.smtp_auth import Credentials
from gateway.smtp_client import Timeouts
from gateway.tls_policy import Demand
from tests.helpers.listeners import HOST, listening
from tests.helpers.memory_reception import MemoryReception
from tests.helpers.places import FixedServers
from tests.helpers.scripted_smtp import HANG_UP, ScriptedServer, serving
from tests.helpers.tls import server_certificate

QUICK = Timeouts(connect_s=2, handshake_s=2, command_s=2, data_s=2, block_s=2, end_s=2, quit_s=1)
CONTENT = b"Subject: x\r\n\r\n.x\r\n"
ANNA = parse_address("anna@a.example")
JONES = parse_address("drjones@b.example")
SMITH = parse_address("drsmith@b.example")
LOGIN = Credentials("ehr", "secret")


async def send(
    servers: Mapping[str, MailServer],
    *recipients: DirectAddress,
    anchors: Path | None = None,
    content: bytes = CONTENT,
) -> Delivery:
    sender = MailboxSender(
        hostname="gw", servers=FixedServers(servers), anchors=anchors, timeouts=QUICK
    )
    try:
        return await sender.send(
            domain="drjones@b.example",
            sender=ANNA,
            recipients=recipients or (JONES,),
            message=BytesIO(content),
            size=len(content),
        )
    finally:
        await sender.close()


def lmtp(address: tuple[str, int]) -> dict[str, MailServer]:
    return {"*": MailServer(*address, lmtp=True, tls=Demand.NONE)}


def outcome(delivery: Delivery) -> list[tuple[Reason | None, str]]:
    return [(attempt.reason, attempt.status) for attempt in delivery.attempts]


async def test_lmtp_says_lhlo_and_delivers() -> None:
    server = ScriptedServer()
    async with serving(server) as address:
        assert outcome(await send(lmtp(address))) == [(None, "2.0.0")]
    assert server.commands == [
        "LHLO gw",
        "MAIL FROM:<anna@a.example>",
        "RCPT TO:<drjones@b.example>",
        "DATA",
        "QUIT",
    ]
    assert server.messages == [b"Subject: x\r\n\r\n..x\r\n.\r\n"]


async def test_lmtp_answers_for_each_recipient() -> None:
    server = ScriptedServer({f"RCPT TO:<{SMITH}>": "550 5.1.1 Who?"})
    async with serving(server) as address:
        assert outcome(await send(lmtp(address), JONES, SMITH, JONES)) == [
            (None, "2.0.0"),
            (Reason.BACKBONE_REFUSED, "5.1.1"),
            (None, "2.0.0"),
        ]
    assert server.connections == 1
    assert len(server.messages) == 2


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        pytest.param(
            {".": "452 4.2.2 Over quota"}, (Reason.BACKBONE_UNAVAILABLE, "4.2.2"), id="over-quota"
        ),
        pytest.param(
            {".": "552 5.2.2 Over quota"}, (Reason.BACKBONE_REFUSED, "5.2.2"), id="never-fits"
        ),
        pytest.param({"LHLO": "500 What?"}, (Reason.BACKBONE_UNAVAILABLE, "4.4.1"), id="no-lmtp"),
        pytest.param({"LHLO": HANG_UP}, (Reason.BACKBONE_UNAVAILABLE, "4.4.1"), id="hangs-up"),
    ],
)
async def test_lmtp_refusals(replies: Mapping[str, str], expected: tuple[Reason, str]) -> None:
    async with serving(ScriptedServer(replies)) as address:
        assert outcome(await send(lmtp(address))) == [expected]


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        pytest.param(b"a\n.\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n", id="line-feeds"),
        pytest.param(b"a\r.\rb\r\n", b"a\r\n..\r\nb\r\n.\r\n", id="carriage-returns"),
        pytest.param(b"a\r\n.\nb\r", b"a\r\n..\r\nb\r\n.\r\n", id="mixed"),
        pytest.param(CONTENT, b"Subject: x\r\n\r\n..x\r\n.\r\n", id="as-it-should-be"),
    ],
)
async def test_a_mail_server_hears_no_bare_cr_or_lf_and_the_right_size(
    content: bytes, wire: bytes
) -> None:
    server = ScriptedServer({"EHLO": "250-b\r\n250 SIZE 0"})
    async with serving(server) as address:
        await send({"*": MailServer(*address, tls=Demand.NONE)}, content=content)
    assert server.messages == [wire]
    unstuffed = wire.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
    assert f"MAIL FROM:<{ANNA}> SIZE={len(unstuffed)}" in server.commands


@pytest.mark.parametrize(
    ("content", "offers", "said"),
    [
        pytest.param(b"x: \xfc\r\n", "8BITMIME", " BODY=8BITMIME", id="eight-bits"),
        pytest.param(b"x: \xfc\r\n", "PIPELINING", "", id="not-offered"),
        pytest.param(CONTENT, "8BITMIME", "", id="seven-bits"),
    ],
)
async def test_eight_bits_are_announced_where_that_is_offered(
    content: bytes, offers: str, said: str
) -> None:
    server = ScriptedServer({"EHLO": f"250-b\r\n250 {offers}"})
    async with serving(server) as address:
        await send({"*": MailServer(*address, tls=Demand.NONE)}, content=content)
    assert f"MAIL FROM:<{ANNA}>{said}" in server.commands


async def test_smtp_with_starttls_and_auth_plain(tmp_path: Path) -> None:
    # The name in the certificate is that of the host, which here is an address of loopback.
    reception = MemoryReception()
    async with listening(reception, Role.EDGE) as address:
        server = MailServer(*address, tls=Demand.ENCRYPT, login=LOGIN)
        delivery = await send({"b.example": server})
    assert outcome(delivery) == [(None, "2.0.0")]
    assert (delivery.tls or "").startswith("TLSv1.3 ")
    (accepted,) = reception.accepted
    assert accepted.session.user == "ehr"
    assert accepted.content == CONTENT


async def test_by_default_the_servers_certificate_must_be_right(tmp_path: Path) -> None:
    reception = MemoryReception()
    anchors, _ = server_certificate(HOST).write(tmp_path)
    async with listening(reception, Role.EDGE) as address:
        delivery = await send({"*": MailServer(*address, login=LOGIN)}, anchors=anchors)
    assert outcome(delivery) == [(Reason.BACKBONE_UNAVAILABLE, "4.4.1")]
    assert reception.asked == []


@pytest.mark.parametrize("tls", [Demand.NONE, Demand.OPPORTUNISTIC])
async def test_a_password_is_never_sent_in_clear(tls: Demand) -> None:
    server = ScriptedServer({"EHLO": "250-b\r\n250 AUTH PLAIN"})
    async with serving(server) as address:
        delivery = await send({"*": MailServer(*address, tls=tls, login=LOGIN)})
    assert outcome(delivery) == [(Reason.BACKBONE_UNAVAILABLE, "4.4.1")]
    assert not any(command.startswith("AUTH") for command in server.commands)


async def test_a_wrong_password_is_worth_another_try() -> None:
    reception = MemoryReception()
    async with listening(reception, Role.EDGE) as address:
        server = MailServer(*address, tls=Demand.ENCRYPT, login=Credentials("ehr", "guess"))
        (attempt,) = (await send({"*": server})).attempts
    assert attempt.reason is Reason.BACKBONE_UNAVAILABLE
    assert "guess" not in attempt.reply


async def test_a_mailbox_without_server_is_refused() -> None:
    assert outcome(await send({})) == [(Reason.BACKBONE_REFUSED, "5.1.2")]


def test_a_password_shows_nowhere() -> None:
    assert "secret" not in repr(MailServer("b", 24, login=LOGIN))
    assert "secret" not in repr(MailServer("b", 24, login=LOGIN).target())
