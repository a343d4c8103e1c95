"""The listener, driven over real sockets; a test is a transcript wherever it can be one."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiosmtpd.smtp import SMTP

from certs.errors import DirectError, Reason
from gateway.notify import Notify
from gateway.ports import BodySink, Role
from gateway.smtp_in import Limits, Listener
from tests.helpers.memory_reception import MemoryReception, MemorySink
from tests.helpers.tls import client_context, server_certificate, server_context
from tests.helpers.transcript import Dialogue, play

HOST = "mx.b.example"
HELLO = """
S: 220 mx.b.example ESMTP
C: HELO mx.a.example
S: 250 mx.b.example
"""
ENVELOPE = """
C: MAIL FROM:<anna@a.example>
S: 250 2.1.0 *
C: RCPT TO:<drjones@b.example>
S: 250 2.1.5 *
"""
DATA = """
C: DATA
S: 354 *
"""
PLAIN = base64.b64encode(b"\0ehr\0secret").decode()


@asynccontextmanager
async def listening(
    reception: MemoryReception, role: Role = Role.BACKBONE, limits: Limits | None = None
) -> AsyncIterator[tuple[str, int]]:
    listener = Listener(
        role=role,
        reception=reception,
        hostname=HOST,
        tls=server_context(HOST),
        limits=limits or Limits(),
    )
    try:
        yield await listener.start("127.0.0.1", 0)
    finally:
        await listener.stop(5)


@asynccontextmanager
async def conversing(
    reception: MemoryReception, limits: Limits | None = None
) -> AsyncIterator[Dialogue]:
    """A client that was greeted by a backbone listener."""
    async with listening(reception, limits=limits) as address, Dialogue.greeted(address) as client:
        assert (await client.ask("HELO a.example")).startswith("250")
        yield client


async def begin_content(client: Dialogue) -> None:
    """Bring the client to where the content begins."""
    assert (await client.ask("MAIL FROM:<anna@a.example>")).startswith("250")
    assert (await client.ask("RCPT TO:<drjones@b.example>")).startswith("250")
    assert (await client.ask("DATA")).startswith("354")


async def test_backbone_accepts_a_message_for_a_local_mailbox() -> None:
    reception = MemoryReception()
    async with listening(reception) as address:
        await play(
            address,
            """
            S: 220 mx.b.example ESMTP
            C: EHLO mx.a.example
            S: 250-mx.b.example
            S: 250-PIPELINING
            S: 250-SIZE 52428800
            S: 250-8BITMIME
            S: 250-ENHANCEDSTATUSCODES
            S: 250 STARTTLS
            C: MAIL FROM:<anna@a.example> SIZE=100 BODY=8BITMIME
            S: 250 2.1.0 Sender OK
            C: RCPT TO:<DrJones@b.example>
            S: 250 2.1.5 Recipient OK
            C: DATA
            S: 354 End data with <CR><LF>.<CR><LF>
            C: From: anna@a.example
            C:
            C: ..Hello
            C: .
            S: 250 2.0.0 Accepted as 00000000-0000-0000-0000-000000000001
            C: QUIT
            S: 221 2.0.0 Bye
            EOF
            """.replace("            C:\n", "            RAW: \\r\\n\n"),
        )
    (accepted,) = reception.accepted
    assert accepted.content == b"From: anna@a.example\r\n\r\n.Hello\r\n"
    assert str(accepted.envelope.sender) == "anna@a.example"
    assert [str(r) for r in accepted.envelope.recipients] == ["DrJones@b.example"]
    assert accepted.session.role is Role.BACKBONE
    assert accepted.session.peer == "127.0.0.1"
    assert accepted.session.helo == "mx.a.example"
    assert accepted.session.tls is None
    assert accepted.session.user is None


async def test_edge_needs_starttls_then_auth() -> None:
    reception = MemoryReception()
    async with listening(reception, Role.EDGE) as address:
        await play(
            address,
            f"""
            S: 220 *
            C: EHLO ehr.a.example
            S: 250-mx.b.example
            S: 250-PIPELINING
            S: 250-SIZE *
            S: 250-8BITMIME
            S: 250-ENHANCEDSTATUSCODES
            S: 250-DSN
            S: 250 STARTTLS
            C: AUTH PLAIN {PLAIN}
            S: 530 5.7.0 Must issue a STARTTLS command first
            C: MAIL FROM:<anna@a.example>
            S: 530 5.7.0 Must issue a STARTTLS command first
            C: STARTTLS
            S: 220 2.0.0 *
            TLS
            C: MAIL FROM:<anna@a.example>
            S: 503 5.5.1 *
            C: EHLO ehr.a.example
            S: 250-mx.b.example
            S: 250-PIPELINING
            S: 250-SIZE *
            S: 250-8BITMIME
            S: 250-ENHANCEDSTATUSCODES
            S: 250-DSN
            S: 250 AUTH PLAIN LOGIN
            C: MAIL FROM:<anna@a.example>
            S: 530 5.7.0 Authentication required
            C: AUTH PLAIN {PLAIN}
            S: 235 2.7.0 *
            C: MAIL FROM:<anna@a.example> RET=HDRS ENVID=q1
            S: 250 2.1.0 *
            C: RCPT TO:<drjones@b.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;drjones@b.example
            S: 250 2.1.5 *
            C: RCPT TO:<drsmith@b.example> NOTIFY=NEVER
            S: 250 2.1.5 *
            C: DATA
            S: 354 *
            C: Subject: x
            C: .
            S: 250 2.0.0 *
            C: STARTTLS
            S: 503 5.5.1 *
            C: QUIT
            S: 221 *
            EOF
            """,
        )
    (accepted,) = reception.accepted
    assert accepted.session.user == "ehr"
    assert (accepted.session.tls or "").startswith("TLSv1.3 TLS_")
    assert accepted.envelope.envelope_id == "q1"
    assert {
        str(to): (wish.notify, wish.original) for to, wish in accepted.envelope.wishes.items()
    } == {
        "drjones@b.example": ({Notify.FAILURE, Notify.DELAY}, "rfc822;drjones@b.example"),
        "drsmith@b.example": ({Notify.NEVER}, None),
    }


async def test_commands_out_of_order_and_of_bad_syntax() -> None:
    async with listening(MemoryReception()) as address:
        await play(
            address,
            """
            S: 220 *
            C: MAIL FROM:<anna@a.example>
            S: 503 5.5.1 Send EHLO first
            C: EHLO
            S: 501 5.5.4 *
            C: HELO two words
            S: 501 5.5.4 *
            C: HELO mx.a.example
            S: 250 mx.b.example
            C: RCPT TO:<drjones@b.example>
            S: 503 5.5.1 Send MAIL first
            C: DATA
            S: 503 5.5.1 *
            C: MAIL FROM:<>
            S: 250 2.1.0 *
            C: MAIL FROM:<anna@a.example>
            S: 503 5.5.1 One MAIL in a transaction
            C: DATA
            S: 503 5.5.1 Send MAIL and RCPT first
            C: DATA now
            S: 501 5.5.4 *
            C: RCPT TO:<nobody@b.example>
            S: 550 5.1.1 No such mailbox here
            C: RCPT TO:drjones@b.example
            S: 501 5.5.4 *
            C: RSET
            S: 250 2.0.0 OK
            C: RCPT TO:<drjones@b.example>
            S: 503 5.5.1 *
            C: NOOP whatever
            S: 250 2.0.0 OK
            C: VRFY drjones
            S: 252 2.5.0 *
            C: EXPN staff
            S: 502 5.5.1 *
            C: BDAT 10 LAST
            S: 502 5.5.1 *
            C: HELLO
            S: 500 5.5.1 *
            RAW: \\r\\n
            S: 500 5.5.1 *
            C: QUIT now
            S: 501 5.5.4 *
            C: quit
            S: 221 2.0.0 Bye
            EOF
            """,
        )


async def test_a_second_ehlo_ends_the_transaction() -> None:
    async with listening(MemoryReception()) as address:
        await play(address, HELLO + ENVELOPE + "C: HELO x.example\nS: 250 *\nC: DATA\nS: 503 *\n")


async def test_there_is_no_auth_on_the_backbone() -> None:
    async with listening(MemoryReception()) as address:
        await play(address, f"S: 220 *\nC: AUTH PLAIN {PLAIN}\nS: 502 5.5.1 *\nC: QUIT\nS: 221 *\n")


async def test_pipelined_commands_are_answered_in_order() -> None:
    reception = MemoryReception()
    async with listening(reception) as address:
        await play(
            address,
            "S: 220 *\n"
            "RAW: HELO a.example\\r\\nMAIL FROM:<a@a.example>\\r\\nRCPT TO:<no@b.example>\\r\\n"
            "RCPT TO:<drjones@b.example>\\r\\nDATA\\r\\n\n"
            "S: 250 mx.b.example\nS: 250 2.1.0 *\nS: 550 5.1.1 *\nS: 250 2.1.5 *\nS: 354 *\n"
            "RAW: x\\r\\n.\\r\\nMAIL FROM:<b@a.example>\\r\\nRSET\\r\\nQUIT\\r\\n\n"
            "S: 250 2.0.0 Accepted *\nS: 250 2.1.0 *\nS: 250 2.0.0 OK\nS: 221 *\nEOF\n",
        )
    assert [a.content for a in reception.accepted] == [b"x\r\n"]


async def test_a_repeated_recipient_is_one_recipient() -> None:
    reception = MemoryReception()
    again = "C: RCPT TO:<DRJONES@B.example>\nS: 250 2.1.5 *\n"
    async with listening(reception) as address:
        await play(address, HELLO + ENVELOPE + again + DATA + "C: x\nC: .\nS: 250 *\n")
    assert len(reception.accepted[0].envelope.recipients) == 1


# --- content ------------------------------------------------------------------------------------

ENDINGS = [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\n.\r"]


@pytest.mark.parametrize("ending", [pytest.param(e, id=e.hex()) for e in ENDINGS])
async def test_smuggling_is_refused_at_every_split(ending: bytes) -> None:
    reception = MemoryReception()
    wire = (
        b"Subject: x\r\n\r\na" + ending + b"MAIL FROM:<evil@x.example>\r\n"
        b"RCPT TO:<drjones@b.example>\r\nDATA\r\nsmuggled\r\n.\r\n"
    )
    async with conversing(reception, Limits(errors=1000, messages=1000)) as client:
        for split in range(len(wire)):
            await begin_content(client)
            client.say(wire[:split])
            await asyncio.sleep(0)
            client.say(wire[split:])
            assert (await client.reply()).startswith("550 5.6.0")
            assert await client.ask("NOOP") == "250 2.0.0 OK"
    assert reception.accepted == []
    assert all(sink.discarded for sink in reception.sinks)


@pytest.mark.parametrize(
    "line", [b"NOOP\n", b"NOOP\rNOOP\r\n", b"NOOP\r\r\n", b"NO\nOP\r\n"], ids=lambda b: b.hex()
)
async def test_bare_cr_and_lf_are_refused_in_commands(line: bytes) -> None:
    async with conversing(MemoryReception()) as client:
        client.say(line)
        assert (await client.reply()) == "500 5.5.2 Lines end in CR LF"


async def test_too_big_is_refused_before_the_body_where_size_tells() -> None:
    reception = MemoryReception()
    async with listening(reception, limits=Limits(size_octets=1000)) as address:
        await play(address, HELLO + "C: MAIL FROM:<anna@a.example> SIZE=1001\nS: 552 5.3.4 *\n")
    assert reception.sinks == []


async def test_too_big_is_refused_after_the_body_where_size_does_not_tell() -> None:
    reception = MemoryReception()
    async with conversing(reception, Limits(size_octets=1000)) as client:
        for octets, expected in ((998, "250"), (999, "552 5.3.4"), (5000, "552 5.3.4")):
            await begin_content(client)
            client.say(b"x" * octets + b"\r\n.\r\n")
            assert (await client.reply()).startswith(expected)
    assert len(reception.accepted) == 1
    assert [sink.discarded for sink in reception.sinks] == [False, True, True]


async def test_a_full_disk_is_a_temporary_failure_and_the_session_goes_on() -> None:
    reception = MemoryReception(disk_octets=10)
    async with listening(reception) as address:
        await play(
            address,
            HELLO + ENVELOPE + DATA + "C: more than ten octets\nC: QUIT\nC: .\nS: 451 4.3.0 *\n"
            "C: NOOP\nS: 250 *\n",
        )
    assert reception.accepted == []
    assert reception.sinks[0].discarded


class BrokenSink(MemorySink):
    """A sink that fails in a way of its own."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self._failure = failure

    def write(self, data: bytes | memoryview) -> int:
        raise self._failure


@dataclass
class BrokenStore(MemoryReception):
    broken: Exception = field(default_factory=RuntimeError)

    def sink(self) -> BodySink:
        self.sinks.append(BrokenSink(self.broken))
        return self.sinks[-1]


@pytest.mark.parametrize(
    "broken",
    [DirectError(Reason.INTERNAL, "spool"), RuntimeError("bug"), ConnectionResetError("store")],
    ids=lambda error: type(error).__name__,
)
async def test_content_is_never_taken_for_commands_where_the_sink_fails(broken: Exception) -> None:
    reception = BrokenStore(broken=broken)
    async with conversing(reception) as client:
        await begin_content(client)
        client.say(b"a line\r\n")
        await asyncio.sleep(0)
        client.say(b"QUIT\r\n.\r\n")
        assert (await client.reply()).startswith("451 4.3.0")
        assert await client.ask("NOOP") == "250 2.0.0 OK"
    assert reception.sinks[0].discarded


@pytest.mark.parametrize("size", [200_000, 3_000_000])
async def test_large_content_arrives_unchanged(size: int) -> None:
    reception = MemoryReception()
    line = b"." + b"0123456789" * 7 + b"\r\n"
    content = line * (size // len(line))
    async with conversing(reception) as client:
        await begin_content(client)
        client.say(content.replace(b"\r\n.", b"\r\n..").replace(b".", b"..", 1) + b".\r\n")
        assert (await client.reply()).startswith("250")
    assert reception.accepted[0].content == content


# --- who waits for whom -------------------------------------------------------------------------


async def test_half_close_after_the_final_dot_still_commits_and_answers() -> None:
    reception = MemoryReception()
    async with listening(reception) as address:
        await play(address, HELLO + ENVELOPE + DATA + "C: x\nC: .\nSHUT\nS: 250 2.0.0 *\nEOF\n")
    assert len(reception.accepted) == 1


async def test_a_disconnect_during_the_commit_does_not_cancel_it() -> None:
    reception = MemoryReception(gate=asyncio.Event())
    assert reception.gate is not None
    async with listening(reception) as address:
        await play(address, HELLO + ENVELOPE + DATA + "C: x\nC: .\n")
        await reception.entered.wait()
        reception.gate.set()
        await asyncio.wait_for(reception.left.wait(), 10)
    assert len(reception.accepted) == 1


async def test_a_commit_that_fails_after_the_client_left_discards_the_content() -> None:
    reception = MemoryReception(gate=asyncio.Event(), failure=RuntimeError("disk"))
    assert reception.gate is not None
    async with listening(reception, limits=Limits(connections=1)) as address:
        async with Dialogue.greeted(address) as client:
            await client.ask("HELO a.example")
            await begin_content(client)
            client.say(b"x\r\n.\r\n")
            await reception.entered.wait()
            client.reset()
        await counted_out(address)
        reception.gate.set()
    assert reception.accepted == []
    assert reception.sinks[0].discarded


async def test_stopping_waits_for_the_commit_of_a_client_that_left() -> None:
    reception = MemoryReception(gate=asyncio.Event())
    assert reception.gate is not None
    async with listening(reception) as address:
        await play(address, HELLO + ENVELOPE + DATA + "C: x\nC: .\n")
        await reception.entered.wait()
        asyncio.get_running_loop().call_later(0.1, reception.gate.set)
    assert len(reception.accepted) == 1


async def test_a_slow_commit_is_not_taken_for_an_idle_client() -> None:
    reception = MemoryReception(gate=asyncio.Event())
    assert reception.gate is not None
    async with conversing(reception, Limits(idle_s=0.05)) as client:
        await begin_content(client)
        client.say(b"x\r\n.\r\n")
        await reception.entered.wait()
        asyncio.get_running_loop().call_later(0.2, reception.gate.set)
        assert (await client.reply()).startswith("250 2.0.0 Accepted")


async def test_stopping_waits_for_the_commit_in_progress_and_then_closes() -> None:
    reception = MemoryReception(gate=asyncio.Event())
    assert reception.gate is not None
    listener = Listener(
        role=Role.BACKBONE, reception=reception, hostname=HOST, tls=server_context(HOST)
    )
    address = await listener.start("127.0.0.1", 0)
    async with Dialogue.greeted(address) as idle, Dialogue.greeted(address) as busy:
        await busy.ask("HELO a.example")
        await begin_content(busy)
        busy.say(b"x\r\n.\r\n")
        await reception.entered.wait()
        stopping = asyncio.create_task(listener.stop(10))
        assert await idle.reply() == "421 4.3.2 Service is shutting down"
        reception.gate.set()
        assert (await busy.reply()).startswith("250 2.0.0 Accepted")
        assert (await busy.reply()).startswith("421 4.3.2")
        await stopping
    assert len(reception.accepted) == 1


async def test_a_listener_that_never_started_stops() -> None:
    listener = Listener(
        role=Role.EDGE, reception=MemoryReception(), hostname=HOST, tls=server_context(HOST)
    )
    await listener.stop(10)


async def test_stopping_cuts_off_what_outlasts_the_grace_time() -> None:
    reception = MemoryReception()
    listener = Listener(
        role=Role.BACKBONE, reception=reception, hostname=HOST, tls=server_context(HOST)
    )
    address = await listener.start("127.0.0.1", 0)
    async with Dialogue.greeted(address) as client:
        await client.ask("HELO a.example")
        await begin_content(client)
        await listener.stop(0.05)
        assert await client.ended()
    assert reception.sinks[0].discarded
    with pytest.raises(ConnectionError):
        await Dialogue.open(address)


async def test_a_disconnect_within_the_content_discards_it() -> None:
    reception = MemoryReception()
    async with listening(reception) as address:
        await play(address, HELLO + ENVELOPE + DATA + "C: x\nSHUT\nEOF\n")
    assert reception.accepted == []
    assert reception.sinks[0].discarded


async def test_an_internal_error_is_temporary_and_tells_nothing() -> None:
    reception = MemoryReception(failure=RuntimeError("password is hunter2"))
    async with conversing(reception) as client:
        await begin_content(client)
        client.say(b"x\r\n.\r\n")
        reply = await client.reply()
        assert reply.startswith("451 4.3.0 Internal error ")
        assert "hunter2" not in reply
        assert await client.ask("NOOP") == "250 2.0.0 OK"
    assert reception.sinks[0].discarded


async def test_a_connection_the_gateway_lost_is_not_taken_for_the_clients() -> None:
    reception = MemoryReception(failure=ConnectionResetError("the database"))
    async with listening(reception) as address:
        await play(
            address,
            HELLO + ENVELOPE + DATA + "C: x\nC: .\nS: 451 4.3.0 *\nC: NOOP\nS: 250 *\n",
        )


async def test_a_refusal_by_the_gateway_is_said_in_its_public_words() -> None:
    reception = MemoryReception(failure=DirectError(Reason.MESSAGE_MALFORMED, "a secret detail"))
    async with listening(reception) as address:
        await play(
            address,
            HELLO + ENVELOPE + DATA + "C: x\nC: .\nS: 554 5.6.0 Message is malformed\n",
        )


# --- TLS and authentication ---------------------------------------------------------------------


async def test_backbone_tls_is_optional_and_verifiable() -> None:
    reception = MemoryReception()
    context = client_context([server_certificate(HOST)])
    context.check_hostname = False
    async with conversing(reception) as client:
        assert (await client.ask("STARTTLS")).startswith("220")
        await client.start_tls(context)
        assert "STARTTLS" not in await client.ask("EHLO a.example")


async def test_commands_pipelined_behind_starttls_are_not_run() -> None:
    reception = MemoryReception()
    async with listening(reception) as address:
        await play(
            address,
            "S: 220 *\n"
            "RAW: STARTTLS\\r\\nHELO evil.example\\r\\nMAIL FROM:<evil@x.example>\\r\\n\n"
            "S: 220 2.0.0 *\nTLS\nC: NOOP\nS: 250 2.0.0 OK\n"
            "C: MAIL FROM:<anna@a.example>\nS: 503 5.5.1 Send EHLO first\n",
        )


async def test_starttls_takes_no_argument() -> None:
    async with listening(MemoryReception()) as address:
        await play(address, "S: 220 *\nC: STARTTLS now\nS: 501 5.5.4 *\nC: NOOP\nS: 250 *\n")


async def test_a_failed_handshake_ends_the_connection() -> None:
    async with conversing(MemoryReception()) as client:
        await client.ask("STARTTLS")
        client.say(b"EHLO this.is.not.tls\r\n")
        assert "250" not in await client.rest()


async def test_a_handshake_that_never_ends_is_cut_off() -> None:
    limits = Limits(handshake_s=0.05)
    async with conversing(MemoryReception(), limits) as client:
        await client.ask("STARTTLS")
        assert await client.ended()


async def test_a_client_that_leaves_during_the_handshake_is_counted_out() -> None:
    async with listening(MemoryReception(), limits=Limits(connections=1)) as address:
        for _ in range(3):
            async with Dialogue.greeted(address) as client:
                await client.ask("STARTTLS")
                client.shut()
                await client.rest()
            await counted_out(address)


async def test_stopping_cuts_off_a_handshake() -> None:
    listener = Listener(
        role=Role.BACKBONE,
        reception=MemoryReception(),
        hostname=HOST,
        tls=server_context(HOST),
    )
    async with Dialogue.greeted(await listener.start("127.0.0.1", 0)) as client:
        await client.ask("STARTTLS")
        await listener.stop(0.05)
        assert await client.ended()


async def test_content_arrives_unchanged_over_tls_and_a_close_after_it_still_commits() -> None:
    reception = MemoryReception()
    content = b"0123456789abcdef\r\n" * 100_000
    async with conversing(reception) as client:
        await client.ask("STARTTLS")
        await client.start_tls()
        await client.ask("EHLO a.example")
        await begin_content(client)
        client.say(content + b".\r\n")
        await client.close()
        await asyncio.wait_for(reception.left.wait(), 10)
    assert [a.content for a in reception.accepted] == [content]


async def counted_out(address: tuple[str, int]) -> None:
    """Wait until a listener that admits one client at a time admits us."""
    while True:
        async with await Dialogue.open(address) as client:
            if (await client.reply()).startswith("220"):
                await client.ask("QUIT")
                return


@asynccontextmanager
async def secured(address: tuple[str, int]) -> AsyncIterator[Dialogue]:
    """A client of the edge, under TLS."""
    async with Dialogue.greeted(address) as client:
        await client.ask("STARTTLS")
        await client.start_tls()
        await client.ask("EHLO ehr.a.example")
        yield client


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("lines", "replies"),
    [
        pytest.param([f"AUTH PLAIN {PLAIN}"], ["235 2.7.0"], id="plain-at-once"),
        pytest.param(["AUTH PLAIN", PLAIN], ["334 ", "235 2.7.0"], id="plain-in-two-steps"),
        pytest.param(["auth plain", PLAIN], ["334 ", "235 2.7.0"], id="mechanism-in-lower-case"),
        pytest.param(
            [f"AUTH PLAIN {b64(chr(0).join(('ehr', 'ehr', 'secret')))}"],
            ["235 2.7.0"],
            id="plain-acting-as-oneself",
        ),
        pytest.param(
            ["AUTH LOGIN", b64("ehr"), b64("secret")],
            ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 2.7.0"],
            id="login",
        ),
        pytest.param(
            [f"AUTH LOGIN {b64('ehr')}", b64("secret")],
            ["334 UGFzc3dvcmQ6", "235 2.7.0"],
            id="login-with-user",
        ),
        pytest.param(
            [f"AUTH PLAIN {b64(chr(0).join(('', 'ehr', 'guess')))}"],
            ["535 5.7.8"],
            id="wrong-password",
        ),
        pytest.param(
            [f"AUTH PLAIN {b64(chr(0).join(('root', 'ehr', 'secret')))}"],
            ["535 5.7.8"],
            id="acting-as-another",
        ),
        pytest.param(["AUTH PLAIN", "*"], ["334 ", "501 5.7.0"], id="cancelled"),
        pytest.param(["AUTH PLAIN ="], ["501 5.5.2"], id="empty-response"),
        pytest.param(["AUTH PLAIN ???"], ["501 5.5.2"], id="not-base64"),
        pytest.param([f"AUTH PLAIN {b64('a')}"], ["501 5.5.2"], id="not-three-fields"),
        pytest.param(["AUTH PLAIN AP8A/w=="], ["501 5.5.2"], id="not-utf8"),
        pytest.param(["AUTH LOGIN", "AA=="], ["334 ", "501 5.5.2"], id="login-nul"),
        pytest.param(["AUTH CRAM-MD5"], ["504 5.5.4"], id="unknown-mechanism"),
        pytest.param(["AUTH"], ["504 5.5.4"], id="no-mechanism"),
    ],
)
async def test_auth(lines: list[str], replies: list[str]) -> None:
    async with listening(MemoryReception(), Role.EDGE) as address, secured(address) as client:
        said = [await client.ask(line) for line in lines]
    for reply, expected in zip(said, replies, strict=True):
        assert reply.startswith(expected)


async def test_auth_once_and_not_inside_a_transaction_and_not_after_helo() -> None:
    async with listening(MemoryReception(), Role.EDGE) as address, secured(address) as client:
        assert (await client.ask("HELO x.example")).startswith("250")
        assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("503 5.5.1")
        await client.ask("EHLO x.example")
        assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235")
        assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("503 5.5.1")


async def test_an_edge_user_sends_as_itself_only() -> None:
    async with listening(MemoryReception(), Role.EDGE) as address, secured(address) as client:
        await client.ask(f"AUTH PLAIN {PLAIN}")
        reply = await client.ask("MAIL FROM:<ceo@a.example>")
        assert reply == "550 5.7.1 Not allowed to send as this address"
        assert (await client.ask("MAIL FROM:<anna@a.example>")).startswith("250")


async def test_guessing_passwords_ends_the_connection_and_then_puts_the_client_off() -> None:
    reception = MemoryReception()
    wrong = "AUTH PLAIN " + b64("\0ehr\0guess")
    limits = Limits(auth_failures=2, auth_failures_per_ip=3)
    async with listening(reception, Role.EDGE, limits) as address:
        async with secured(address) as client:
            assert (await client.ask(wrong)).startswith("535 5.7.8")
            assert (await client.ask(wrong)).startswith("421 4.7.0")
            assert await client.ended()
        async with secured(address) as client:
            assert (await client.ask(wrong)).startswith("535 5.7.8")
            assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("451 4.7.1")
    assert len(reception.asked) == 3


class ThinkingReception(MemoryReception):
    """Looks at passwords for a while, as one does that hashes them in a thread."""

    async def authenticate(self, user: str, password: str) -> bool:
        known = await super().authenticate(user, password)
        await asyncio.sleep(0.01)
        return known


async def test_no_more_passwords_are_looked_at_for_many_connections_at_once() -> None:
    reception = ThinkingReception()
    limits = Limits(auth_failures_per_ip=3)
    async with listening(reception, Role.EDGE, limits) as address, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(secured(address)) for _ in range(8)]
        for client in clients:
            assert (await client.ask("AUTH PLAIN")).startswith("334")
        guess = b64("\0ehr\0guess")
        said = await asyncio.gather(*(client.ask(guess) for client in clients))
    assert sorted(reply[:9] for reply in said) == ["451 4.7.1"] * 5 + ["535 5.7.8"] * 3
    assert len(reception.asked) == 3


async def test_many_who_know_the_password_come_in_at_once() -> None:
    limits = Limits(auth_failures_per_ip=1)
    async with (
        listening(ThinkingReception(), Role.EDGE, limits) as address,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(secured(address)) for _ in range(8)]
        said = await asyncio.gather(*(client.ask(f"AUTH PLAIN {PLAIN}") for client in clients))
    assert [reply[:3] for reply in said] == ["235"] * 8


async def test_a_user_who_is_guessed_at_is_let_in_later() -> None:
    reception = MemoryReception()
    limits = Limits(auth_failures_per_user=1, auth_delay_s=0.05)
    async with listening(reception, Role.EDGE, limits) as address, secured(address) as client:
        assert (await client.ask("AUTH PLAIN " + b64("\0ehr\0guess"))).startswith("535")
        before_s = asyncio.get_running_loop().time()
        assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235")
        assert asyncio.get_running_loop().time() - before_s > 0.04


# --- limits -------------------------------------------------------------------------------------


async def test_recipients_beyond_the_limit_are_put_off() -> None:
    more = "C: RCPT TO:<drsmith@b.example>\nS: 452 4.5.3 *\n" + DATA + "C: x\nC: .\nS: 250 *\n"
    async with listening(MemoryReception(), limits=Limits(recipients=1)) as address:
        await play(address, HELLO + ENVELOPE + more)


async def test_messages_beyond_the_limit_need_a_new_connection() -> None:
    once = ENVELOPE + DATA + "C: x\nC: .\nS: 250 *\n"
    end = "C: MAIL FROM:<anna@a.example>\nS: 421 4.7.0 *\nEOF\n"
    async with listening(MemoryReception(), limits=Limits(messages=2)) as address:
        await play(address, HELLO + once + once + end)


async def test_errors_beyond_the_limit_end_the_connection() -> None:
    async with listening(MemoryReception(), limits=Limits(errors=2)) as address:
        await play(address, "S: 220 *\n" + "C: X\nS: 500 *\n" * 2 + "C: X\nS: 421 4.7.0 *\nEOF\n")


@pytest.mark.parametrize(
    "command",
    ["NOOP", "RSET", "VRFY x", "EHLO a.example", "HELO a.example"],
)
async def test_commands_that_bring_no_message_further_end_the_connection(command: str) -> None:
    async with conversing(MemoryReception(), Limits(idle_commands=3)) as client:
        for _ in range(3):
            assert (await client.ask(command)).startswith("25")
        assert await client.ask(command) == "421 4.7.0 Too many commands without a message"
        assert await client.ended()


async def test_a_recipient_named_again_and_again_ends_the_connection() -> None:
    again = "C: RCPT TO:<drjones@b.example>\n"
    end = again + "S: 250 *\n" + again + "S: 421 4.7.0 *\nEOF\n"
    async with listening(MemoryReception(), limits=Limits(idle_commands=1)) as address:
        await play(address, HELLO + ENVELOPE + end)


async def test_a_connection_kept_for_many_messages_may_say_rset_between_them() -> None:
    once = ENVELOPE + DATA + "C: x\nC: .\nS: 250 *\nC: RSET\nS: 250 *\n"
    async with listening(MemoryReception(), limits=Limits(idle_commands=1)) as address:
        await play(address, HELLO + once * 4)


async def test_in_a_crowd_who_says_nothing_has_to_make_room() -> None:
    endless = 10**9
    limits = Limits(
        connections=2,
        crowd=1,
        crowd_idle_s=0.1,
        crowd_idle_commands=endless,
        idle_commands=endless,
    )
    async with (
        listening(MemoryReception(), limits=limits) as address,
        Dialogue.greeted(address) as first,
    ):
        assert (await first.ask("HELO a.example")).startswith("250")
        assert (await first.ask("MAIL FROM:<anna@a.example>")).startswith("250")
        async with Dialogue.greeted(address) as second:
            farewell = asyncio.create_task(first.reply())
            while not farewell.done():
                assert (await second.ask("NOOP")).startswith("250")
            assert farewell.result().startswith("421 4.4.2")


async def test_in_a_crowd_fewer_commands_may_bring_no_message_further() -> None:
    limits = Limits(connections=2, crowd=1, crowd_idle_commands=1)
    async with (
        listening(MemoryReception(), limits=limits) as address,
        Dialogue.greeted(address) as first,
    ):
        for _ in range(5):
            assert (await first.ask("NOOP")).startswith("250")
        async with Dialogue.greeted(address):
            assert (await first.ask("NOOP")).startswith("421 4.7.0")


async def test_one_clients_commands_change_no_limit_of_anothers() -> None:
    before = dict(SMTP.command_size_limits)
    async with conversing(MemoryReception()) as client:
        for number in range(5):
            await client.ask("EHLO a.example")
            await client.ask(f"VERB{number}")
        assert dict(SMTP.command_size_limits) == before


async def test_a_long_line_is_skipped_and_refused() -> None:
    async with listening(MemoryReception()) as address:
        await play(
            address,
            "S: 220 *\n"
            f"C: NOOP {'x' * 2042}\nS: 250 *\n"
            f"C: NOOP {'x' * 2044}\nS: 500 5.5.2 Line too long\n"
            f"C: NOOP {'x' * 100_000}\nS: 500 5.5.2 Line too long\n"
            f"C: NOOP {'x' * 1_000_000}\nS: 500 5.5.2 Line too long\n"
            "C: NOOP\nS: 250 *\n",
        )


async def test_connections_beyond_the_limit_are_put_off() -> None:
    async with (
        listening(MemoryReception(), limits=Limits(connections_per_ip=2)) as address,
        Dialogue.greeted(address) as first,
        Dialogue.greeted(address),
    ):
        await play(address, "S: 421 4.7.0 *\nEOF")
        await first.ask("QUIT")
        assert await first.ended()
        await play(address, "S: 220 *\nC: QUIT\nS: 221 *\nEOF")


async def test_an_idle_client_is_told_and_left() -> None:
    async with listening(MemoryReception(), limits=Limits(idle_s=0.05)) as address:
        await play(address, "S: 220 *\nS: 421 4.4.2 *\nEOF\n")


async def test_a_session_ends_at_a_command_once_it_was_long_enough() -> None:
    async with listening(MemoryReception(), limits=Limits(session_s=0.05)) as address:
        await play(address, "S: 220 *\nS: 421 4.3.2 Connection was open long enough\nEOF\n")


async def test_content_that_trickles_is_cut_off() -> None:
    reception = MemoryReception()
    limits = Limits(data_grace_s=0.1, data_octets_per_s=1024)
    async with listening(reception, limits=limits) as address:
        await play(address, HELLO + ENVELOPE + DATA + "C: x\nS: 421 4.4.2 *\nEOF\n")
    assert reception.sinks[0].discarded


async def test_content_has_a_time_in_all() -> None:
    async with listening(MemoryReception(), limits=Limits(data_s=0)) as address:
        await play(address, HELLO + ENVELOPE + DATA + "S: 421 4.4.2 *\nEOF\n")


async def test_a_client_that_does_not_read_is_not_served_on() -> None:
    async with listening(
        MemoryReception(), limits=Limits(idle_s=0.5, idle_commands=10**9)
    ) as address:
        with socket.socket() as small:
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            small.setblocking(False)
            await asyncio.get_running_loop().sock_connect(small, address)
            _, writer = await asyncio.open_connection(sock=small)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(_flood(writer), 20)
            writer.transport.abort()


async def _flood(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"EHLO a.example\r\n" * 5_000)
        await writer.drain()


@pytest.mark.parametrize("seed", range(20))
async def test_random_octets_never_stop_the_listener(seed: int) -> None:
    async with listening(MemoryReception(), limits=Limits(connections_per_ip=100)) as address:
        async with await Dialogue.open(address) as client:
            client.say(os.urandom(2000) + b"\r\nQUIT\r\n" * 30)
            client.shut()
            await client.reply()
        await play(address, "S: 220 *\nC: QUIT\nS: 221 *\nEOF")
