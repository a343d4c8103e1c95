"""The sender, against our own listener and against peers that misbehave at every step."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from io import BytesIO

import pytest

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from gateway.mx import NoMailError
from gateway.ports import Delivery, Role
from gateway.smtp_client import Timeouts
from gateway.smtp_in import Limits, Listener
from gateway.smtp_out import SmtpSender
from tests.helpers.memory_reception import MemoryReception
from tests.helpers.scripted_smtp import HANG_UP, SILENCE, ScriptedServer, serving
from tests.helpers.tls import server_context

ANNA = parse_address("anna@a.example")
JONES = parse_address("drjones@b.example")
SMITH = parse_address("drsmith@b.example")
CONTENT = b"Subject: x\r\n\r\n.dots\r\n..more\r\n"
QUICK = Timeouts(connect_s=2, handshake_s=2, command_s=2, data_s=2, block_s=2, end_s=2, quit_s=1)
IMPATIENT = Timeouts(0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2)


class Routes:
    """A resolver in a dict: hosts of a domain, on loopback but for `at`. `error` is raised."""

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]] = (),
        error: DirectError | None = None,
        at: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._hosts = hosts
        self._error = error
        self._at = at or {}

    async def mx(self, domain: str) -> Sequence[tuple[str, int]]:
        if self._error is not None:
            raise self._error
        return self._hosts

    async def addresses(self, host: str) -> Sequence[str]:
        if host == "dark.example":
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "no answer about its address")
        return self._at.get(host, ["127.0.0.1"]) if host != "nowhere.example" else []


def sender(
    hosts: Sequence[tuple[str, int]] = (),
    *,
    routes: Mapping[str, tuple[str, int]] | None = None,
    timeouts: Timeouts = QUICK,
    error: DirectError | None = None,
    at: Mapping[str, Sequence[str]] | None = None,
) -> SmtpSender:
    return SmtpSender(
        hostname="mx.a.example",
        routes=routes or {},
        resolver=Routes(hosts, error, at),
        timeouts=timeouts,
    )


async def send(
    sender: SmtpSender,
    *recipients: DirectAddress,
    content: bytes = CONTENT,
    envelope_sender: DirectAddress | None = ANNA,
) -> Delivery:
    return await sender.send(
        domain="b.example",
        sender=envelope_sender,
        recipients=recipients or (JONES,),
        message=BytesIO(content),
        size=len(content),
    )


def outcome(delivery: Delivery) -> list[tuple[Reason | None, str]]:
    return [(attempt.reason, attempt.status) for attempt in delivery.attempts]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_delivers_to_our_own_listener_under_tls_and_unchanged() -> None:
    reception = MemoryReception()
    listener = Listener(
        role=Role.BACKBONE, reception=reception, hostname="b", tls=server_context("b")
    )
    out = sender(routes={"b.example": await listener.start("127.0.0.1", 0)})
    delivery = await send(out, JONES, SMITH, parse_address("nobody@b.example"))
    assert outcome(delivery) == [
        (None, "2.0.0"),
        (None, "2.0.0"),
        (Reason.BACKBONE_REFUSED, "5.1.1"),
    ]
    assert delivery.attempts[2].reply == "550 5.1.1 No such mailbox here"
    assert (delivery.tls or "").startswith("TLSv1.3 ")
    assert not delivery.verified
    await out.close()
    await listener.stop(5)
    (accepted,) = reception.accepted
    assert accepted.content == CONTENT
    assert accepted.envelope.sender == ANNA
    assert accepted.envelope.recipients == (JONES, SMITH)
    assert accepted.session.helo == "mx.a.example"
    assert accepted.session.tls == delivery.tls


@pytest.mark.parametrize("size", [300_000, 5_000_000])
async def test_large_content_arrives_unchanged(size: int) -> None:
    reception = MemoryReception()
    listener = Listener(
        role=Role.BACKBONE, reception=reception, hostname="b", tls=server_context("b")
    )
    out = sender(routes={"*": await listener.start("127.0.0.1", 0)})
    content = (b"." + b"x" * 75 + b"\r\n") * (size // 78)
    delivery = await send(out, content=content)
    assert outcome(delivery) == [(None, "2.0.0")]
    await out.close()
    await listener.stop(5)
    assert reception.accepted[0].content == content


async def test_a_connection_serves_many_messages() -> None:
    server = ScriptedServer()
    async with serving(server) as address:
        out = sender([address])
        for _ in range(5):
            assert outcome(await send(out)) == [(None, "2.0.0")]
        await out.close()
    assert server.connections == 1
    assert len(server.messages) == 5
    assert server.commands[-1] == "QUIT"


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    reception = MemoryReception()
    listener = Listener(
        role=Role.BACKBONE,
        reception=reception,
        hostname="b",
        tls=server_context("b"),
        limits=Limits(messages=1),
    )
    out = sender(routes={"*": await listener.start("127.0.0.1", 0)})
    for _ in range(3):
        assert outcome(await send(out)) == [(None, "2.0.0")]
    await out.close()
    await listener.stop(5)
    assert len(reception.accepted) == 3


async def test_the_null_sender_and_the_size_are_told() -> None:
    server = ScriptedServer()
    async with serving(server) as address:
        out = sender([address])
        await send(out, envelope_sender=None)
        await out.close()
    assert f"MAIL FROM:<> SIZE={len(CONTENT)}" in server.commands
    assert server.messages == [CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n"]


async def test_works_without_pipelining_and_without_ehlo() -> None:
    server = ScriptedServer({"EHLO": "502 5.5.1 What?"})
    async with serving(server) as address:
        out = sender([address])
        assert outcome(await send(out, JONES, SMITH)) == [(None, "2.0.0")] * 2
        await out.close()
    assert server.commands[:3] == [
        "EHLO mx.a.example",
        "HELO mx.a.example",
        "MAIL FROM:<anna@a.example>",
    ]


T, P = Reason.BACKBONE_UNAVAILABLE, Reason.BACKBONE_REFUSED


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        pytest.param({"MAIL": "550 5.7.1 No"}, (P, "5.7.1"), id="sender-refused"),
        pytest.param({"MAIL": "451 4.3.0 Later"}, (T, "4.3.0"), id="sender-later"),
        pytest.param({"RCPT": "550 5.1.1 Who?"}, (P, "5.1.1"), id="recipient-refused"),
        pytest.param({"RCPT": "550 Who?"}, (P, "5.0.0"), id="without-enhanced-code"),
        pytest.param({"RCPT": "550 4.1.1 Odd"}, (P, "5.0.0"), id="classes-disagree"),
        pytest.param({"RCPT": "450 4.2.1 Later"}, (T, "4.2.1"), id="recipient-later"),
        pytest.param({"RCPT": "552 5.5.3 Too many"}, (T, "5.5.3"), id="552-that-means-452"),
        pytest.param({"DATA": "554 5.3.4 No"}, (P, "5.3.4"), id="data-refused"),
        pytest.param({"DATA": "451 4.3.0 Later"}, (T, "4.3.0"), id="data-later"),
        pytest.param({".": "554-5.6.0 Bad\r\n554 5.6.0 Mail"}, (P, "5.6.0"), id="content-refused"),
        pytest.param({".": "452 4.3.1 Full"}, (T, "4.3.1"), id="content-later"),
        pytest.param({"CONNECT": "554 5.3.2 No"}, (T, "4.4.1"), id="greeting-refused"),
        pytest.param({"CONNECT": "421 4.3.2 Busy"}, (T, "4.4.1"), id="greeting-later"),
        pytest.param({"CONNECT": "HTTP/1.1 400 Bad"}, (T, "4.4.1"), id="greeting-is-not-smtp"),
        pytest.param({"CONNECT": "220-a\r\n" * 9000 + "220 b"}, (T, "4.4.1"), id="endless"),
        pytest.param({"CONNECT": "220 " + "x" * 40_000}, (T, "4.4.1"), id="endless-line"),
        pytest.param({"CONNECT": HANG_UP}, (T, "4.4.1"), id="hangs-up-at-once"),
        pytest.param({"EHLO": HANG_UP}, (T, "4.4.1"), id="hangs-up-at-ehlo"),
        pytest.param({"EHLO": "550 No", "HELO": "550 No"}, (T, "4.4.1"), id="no-greeting"),
        pytest.param({"MAIL": HANG_UP}, (T, "4.4.1"), id="hangs-up-at-mail"),
        pytest.param({"MAIL": "421 4.3.2 Bye"}, (T, "4.4.1"), id="closes-at-mail"),
        pytest.param({"RCPT": HANG_UP}, (T, "4.4.1"), id="hangs-up-at-rcpt"),
        pytest.param({"DATA": HANG_UP}, (T, "4.4.1"), id="hangs-up-at-data"),
        pytest.param({".": HANG_UP}, (T, "4.4.2"), id="hangs-up-after-the-content"),
    ],
)
async def test_every_refusal_is_a_value(
    replies: Mapping[str, str], expected: tuple[Reason, str]
) -> None:
    async with serving(ScriptedServer(replies)) as address:
        out = sender([address])
        assert outcome(await send(out)) == [expected]
        await out.close()


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
async def test_silence_at_any_step_is_temporary(step: str) -> None:
    async with serving(ScriptedServer({step: SILENCE})) as address:
        out = sender([address], timeouts=IMPATIENT)
        ((reason, status),) = outcome(await send(out))
        await out.close()
    assert reason is Reason.BACKBONE_UNAVAILABLE
    assert status == ("4.4.2" if step == "." else "4.4.1")


async def test_one_recipients_refusal_is_not_anothers() -> None:
    server = ScriptedServer({f"RCPT TO:<{SMITH}>": "550 5.1.1 Who?"})
    async with serving(server) as address:
        out = sender([address])
        delivery = await send(out, JONES, SMITH)
        assert outcome(delivery) == [(None, "2.0.0"), (P, "5.1.1")]
        await out.close()


async def test_a_connection_is_reset_after_a_refusal_and_used_again() -> None:
    server = ScriptedServer({"RCPT": "550 5.1.1 Who?"})
    async with serving(server) as address:
        out = sender([address])
        await send(out)
        await send(out)
        await out.close()
    assert server.connections == 1
    assert [c.partition(" ")[0] for c in server.commands] == [
        *("EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA", "QUIT")
    ]


async def test_a_message_above_the_servers_size_is_not_sent() -> None:
    server = ScriptedServer({"EHLO": "250-b\r\n250 SIZE 10"})
    async with serving(server) as address:
        out = sender([address])
        assert outcome(await send(out)) == [(P, "5.3.4")]
        await out.close()
    assert not any(command.startswith("MAIL") for command in server.commands)


async def test_the_next_host_is_tried_where_one_does_not_answer() -> None:
    server = ScriptedServer()
    async with serving(server) as address:
        out = sender([("127.0.0.1", free_port()), ("nowhere.example", 25), address])
        delivery = await send(out)
        assert outcome(delivery) == [(None, "2.0.0")]
        assert delivery.host == "127.0.0.1"
        await out.close()


async def test_the_next_host_is_tried_where_one_wants_nothing_now() -> None:
    first, second = ScriptedServer({"RCPT": "451 4.7.1 Greylisted"}), ScriptedServer()
    async with serving(first) as one, serving(second) as two:
        out = sender([one, two])
        assert outcome(await send(out)) == [(None, "2.0.0")]
        await out.close()


@pytest.mark.parametrize(
    "replies", [{"RCPT": "550 5.1.1 Who?"}, {".": HANG_UP}], ids=["refused", "in-doubt"]
)
async def test_the_next_host_is_not_tried_after(replies: Mapping[str, str]) -> None:
    first, second = ScriptedServer(replies), ScriptedServer()
    async with serving(first) as one, serving(second) as two:
        out = sender([one, two])
        await send(out)
        await out.close()
    assert second.connections == 0


async def test_a_refusal_in_the_midst_of_the_content_is_heard() -> None:
    server = ScriptedServer({"CONTENT": "554 5.7.1 We have seen enough"})
    async with serving(server) as address:
        out = sender([address])
        assert outcome(await send(out, content=b"x" * 500_000 + b"\r\n")) == [(P, "5.7.1")]
        await out.close()


async def test_tls_that_fails_is_done_without() -> None:
    server = ScriptedServer({"EHLO": "250-b\r\n250 STARTTLS", "STARTTLS": "220 but I cannot"})
    async with serving(server) as address:
        out = sender([address])
        delivery = await send(out)
        await out.close()
    assert outcome(delivery) == [(None, "2.0.0")]
    assert delivery.tls is None
    assert server.connections == 2


async def test_words_said_before_the_handshake_are_not_heard_after_it() -> None:
    injected = "220 Go on\r\n250-b\r\n250 SIZE 1"
    replies = {"EHLO": "250-b\r\n250 STARTTLS", "STARTTLS": injected}
    server = ScriptedServer(replies, tls=server_context("b"))
    async with serving(server) as address:
        out = sender([address])
        delivery = await send(out)
        await out.close()
    assert outcome(delivery) == [(None, "2.0.0")]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoMailError("5.1.10", "null MX"), (P, "5.1.10")),
        (DirectError(Reason.DIRECTORY_UNAVAILABLE, "SERVFAIL"), (T, "4.4.3")),
    ],
    ids=["no-mail", "dns-down"],
)
async def test_routing_that_fails(error: DirectError, expected: tuple[Reason, str]) -> None:
    assert outcome(await send(sender(error=error))) == [expected]


async def test_a_domain_without_any_host_is_refused() -> None:
    assert outcome(await send(sender([("nowhere.example", 25)]))) == [(P, "5.1.2")]


async def test_a_host_whose_address_is_not_to_be_had_now_stands_in_nobodys_way() -> None:
    server = ScriptedServer()
    async with serving(server) as (_, port):
        # A backup before which the first host already has the message, and one before it.
        for hosts in (["first", "dark.example"], ["dark.example", "nowhere.example", "last"]):
            out = sender([(host, port) for host in hosts])
            assert outcome(await send(out)) == [(None, "2.0.0")]
            await out.close()
    assert len(server.messages) == 2


@pytest.mark.parametrize("hosts", [["dark.example", "nowhere.example"], ["dark.example"]])
async def test_a_host_whose_address_is_not_to_be_had_now_is_temporary(hosts: list[str]) -> None:
    out = sender([(host, 25) for host in hosts])
    assert outcome(await send(out)) == [(Reason.BACKBONE_UNAVAILABLE, "4.4.3")]


async def listening_on(address: str, port: int) -> tuple[asyncio.Server, ScriptedServer]:
    script = ScriptedServer()
    server = await asyncio.start_server(script.serve, address, port)
    script.address = server.sockets[0].getsockname()[:2]
    return server, script


@pytest.mark.parametrize("alive", ["::1", "127.0.0.1"])
async def test_a_host_is_tried_at_each_of_its_addresses_of_either_family(alive: str) -> None:
    server, script = await listening_on(alive, 0)
    out = sender([("both", script.address[1])], at={"both": ["::1", "127.0.0.1"]})
    assert outcome(await send(out)) == [(None, "2.0.0")]
    await out.close()
    server.close()
    assert len(script.messages) == 1


async def test_nobody_listening_is_temporary() -> None:
    delivery = await send(sender([("127.0.0.1", free_port())]))
    assert outcome(delivery) == [(T, "4.4.1")]
    assert delivery.tls is None


async def test_a_peers_words_are_bounded_and_printable() -> None:
    server = ScriptedServer({"RCPT": "550 5.1.1 \x1b[31m" + "x" * 1900})
    async with serving(server) as address:
        out = sender([address])
        (attempt,) = (await send(out)).attempts
        await out.close()
    assert attempt.reply.startswith("550 5.1.1 ?[31mx")
    assert len(attempt.reply) == 500


async def test_many_messages_go_to_one_destination_at_a_time() -> None:
    server = ScriptedServer()
    async with serving(server) as address:
        out = sender([address])
        deliveries = await asyncio.gather(*(send(out) for _ in range(50)))
        await out.close()
    assert [outcome(delivery) for delivery in deliveries] == [[(None, "2.0.0")]] * 50
    assert len(server.messages) == 50
    assert server.connections == 50
