"""Connections under each TLS policy, and those that are kept for the next message."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway.dane import Tlsa
from gateway.ports import Delivery
from gateway.smtp_auth import Credentials
from gateway.smtp_client import Timeouts
from gateway.smtp_out import SmtpSender
from gateway.smtp_pool import (
    IDLE_CONNECTIONS,
    REUSE_MESSAGES,
    REUSE_S,
    Connections,
    Target,
    UnreachableError,
)
from gateway.tls_policy import OPPORTUNISTIC, Demand, Source, TlsPolicy
from tests.helpers.listeners import HOST, listening
from tests.helpers.memory_reception import MemoryReception
from tests.helpers.scripted_smtp import HANG_UP, ScriptedServer, serving
from tests.helpers.tls import NOT_AFTER, issued_context, server_certificate, server_context

QUICK = Timeouts(connect_s=2, handshake_s=2, command_s=2, data_s=2, block_s=2, end_s=2, quit_s=1)
CONTENT = b"Subject: x\r\n\r\nx\r\n"
CERTIFICATE = server_certificate(HOST).certificate.public_bytes(Encoding.DER)
RIGHT = Tlsa(3, 0, 1, hashlib.sha256(CERTIFICATE).digest())
WRONG = Tlsa(3, 0, 1, bytes(32))

VERIFY = TlsPolicy(Demand.VERIFY, Source.MTA_STS)
ENCRYPT = TlsPolicy(Demand.ENCRYPT, Source.CONFIGURED)
CLEAR = TlsPolicy(Demand.NONE, Source.CONFIGURED)


@dataclass
class World:
    """Policies by host, and hosts that are all on loopback."""

    hosts: Sequence[tuple[str, int]]
    policies: Mapping[str, TlsPolicy | None] = field(default_factory=dict)
    configured_policy: TlsPolicy | None = None
    dns_works: bool = True
    bogus: str = ""

    async def mx(self, domain: str) -> Sequence[tuple[str, int]]:
        return self.hosts

    async def addresses(self, host: str) -> Sequence[str]:
        return ["127.0.0.1"]

    def configured(self, domain: str) -> TlsPolicy | None:
        return self.configured_policy

    async def policy(self, domain: str, host: str, port: int) -> TlsPolicy | None:
        if not self.dns_works or host == self.bogus:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "bogus TLSA")
        return self.policies.get(host, OPPORTUNISTIC)


def sender_in(
    world: World,
    *,
    routes: Mapping[str, tuple[str, int]] | None = None,
    anchors: Path | None = None,
) -> SmtpSender:
    return SmtpSender(
        hostname="mx.a.example",
        routes=routes or {},
        resolver=world,
        policies=world,
        anchors=anchors,
        timeouts=QUICK,
    )


async def send(sender: SmtpSender, domain: str = "b.example") -> Delivery:
    return await sender.send(
        domain=domain,
        sender=parse_address("anna@a.example"),
        recipients=[parse_address("drjones@b.example")],
        message=BytesIO(CONTENT),
        size=len(CONTENT),
    )


async def send_once(sender: SmtpSender) -> Delivery:
    try:
        return await send(sender)
    finally:
        await sender.close()


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    certificate, _ = server_certificate(HOST).write(tmp_path)
    return certificate


def status_of(delivery: Delivery) -> str:
    (attempt,) = delivery.attempts
    return attempt.status


@pytest.mark.parametrize(
    ("policy", "verified", "source"),
    [
        pytest.param(OPPORTUNISTIC, False, "default", id="opportunistic"),
        pytest.param(ENCRYPT, False, "configured", id="encrypt"),
        pytest.param(VERIFY, True, "mta-sts", id="verify"),
        pytest.param(TlsPolicy(Demand.DANE, Source.DANE, (WRONG, RIGHT)), True, "dane", id="dane"),
    ],
)
async def test_delivers_under_tls_and_records_how(
    policy: TlsPolicy, source: str, anchors: Path, *, verified: bool
) -> None:
    reception = MemoryReception()
    async with listening(reception) as (_, port):
        world = World([(HOST, port)], {HOST: policy})
        delivery = await send_once(sender_in(world, anchors=anchors))
    assert status_of(delivery) == "2.0.0"
    assert (delivery.tls or "").startswith("TLSv1.3 ")
    assert (delivery.verified, delivery.tls_policy) == (verified, source)
    assert reception.accepted[0].session.tls == delivery.tls


PAST = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("issued_to", "not_after", "right_ca", "verified"),
    [
        pytest.param(HOST, NOT_AFTER, True, True, id="issued-under-the-ca"),
        pytest.param(HOST, NOT_AFTER, False, False, id="another-ca"),
        pytest.param("mx.c.example", NOT_AFTER, True, False, id="another-host"),
        pytest.param(HOST, PAST, True, False, id="expired"),
    ],
)
async def test_dane_may_name_the_ca_of_the_host(
    issued_to: str, not_after: datetime, *, right_ca: bool, verified: bool
) -> None:
    tls, ca = issued_context(issued_to, not_after=not_after)
    record = Tlsa(2, 0, 1, hashlib.sha256(ca).digest() if right_ca else bytes(32))
    server = ScriptedServer({"EHLO": "250-b\r\n250 STARTTLS"}, tls=tls)
    async with serving(server) as (_, port):
        policy = TlsPolicy(Demand.DANE, Source.DANE, (record,))
        delivery = await send_once(sender_in(World([(HOST, port)], {HOST: policy})))
    assert (delivery.verified, delivery.tls_policy) == (verified, "dane")
    assert status_of(delivery) == ("2.0.0" if verified else "4.4.1")


async def test_tls_that_fails_without_a_policy_is_on_the_attempt() -> None:
    server = ScriptedServer({"EHLO": "250-b\r\n250 STARTTLS", "STARTTLS": "454 not today"})
    async with serving(server) as (_, port):
        delivery = await send_once(sender_in(World([(HOST, port)])))
    assert (status_of(delivery), delivery.tls) == ("2.0.0", None)
    assert delivery.tls_failure is not None
    assert "not today" in delivery.tls_failure


async def test_tls_that_failed_once_is_tried_again_for_the_next_message() -> None:
    replies = {"EHLO": "250-b\r\n250 STARTTLS", "STARTTLS": "454 not today"}
    server = ScriptedServer(replies, tls=server_context(HOST))
    async with serving(server) as (_, port):
        sender = sender_in(World([(HOST, port)]))
        assert (await send(sender)).tls is None
        del replies["STARTTLS"]
        assert (await send(sender)).tls is not None
        await sender.close()


async def test_a_private_line_is_used_in_clear_where_it_is_configured_so() -> None:
    reception = MemoryReception()
    async with listening(reception) as (_, port):
        delivery = await send_once(sender_in(World([(HOST, port)], {HOST: CLEAR})))
    assert delivery.tls is None
    assert reception.accepted[0].session.tls is None


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        pytest.param(VERIFY, "mta-sts demands TLS", id="unknown-ca"),
        pytest.param(
            TlsPolicy(Demand.DANE, Source.DANE, (WRONG,)), "no TLSA record matches", id="wrong-tlsa"
        ),
    ],
)
async def test_the_wrong_certificate_gets_nothing(policy: TlsPolicy, said: str) -> None:
    reception = MemoryReception()
    async with listening(reception) as (_, port):
        delivery = await send_once(sender_in(World([(HOST, port)], {HOST: policy})))
    (attempt,) = delivery.attempts
    assert attempt.reason is Reason.BACKBONE_UNAVAILABLE
    assert said in attempt.reply
    assert delivery.tls_policy == policy.source.value
    assert reception.accepted == []


async def test_a_certificate_of_another_name_gets_nothing(anchors: Path) -> None:
    reception = MemoryReception()
    async with listening(reception) as (_, port):
        world = World([("mx.c.example", port)], {"mx.c.example": VERIFY})
        delivery = await send_once(sender_in(world, anchors=anchors))
    assert status_of(delivery) == "4.4.1"
    assert reception.accepted == []


@pytest.mark.parametrize("policy", [ENCRYPT, VERIFY], ids=["encrypt", "verify"])
@pytest.mark.parametrize(
    "replies",
    [
        pytest.param({}, id="offers-none"),
        pytest.param({"EHLO": "250-b\r\n250 STARTTLS", "STARTTLS": "454 No"}, id="takes-it-back"),
        pytest.param({"EHLO": "250-b\r\n250 STARTTLS", "STARTTLS": "220 but"}, id="cannot"),
    ],
)
async def test_nothing_goes_in_clear_where_tls_is_demanded(
    policy: TlsPolicy, replies: Mapping[str, str]
) -> None:
    server = ScriptedServer(replies)
    async with serving(server) as (_, port):
        delivery = await send_once(sender_in(World([(HOST, port)], {HOST: policy})))
    assert status_of(delivery) == "4.4.1"
    assert not any(command.startswith("MAIL") for command in server.commands)


async def test_a_host_the_policy_does_not_name_is_passed_over() -> None:
    other, reception = ScriptedServer(), MemoryReception()
    async with serving(other) as (_, evil), listening(reception) as (_, port):
        world = World([("mx.evil.example", evil), (HOST, port)], {"mx.evil.example": None})
        delivery = await send_once(sender_in(world))
    assert status_of(delivery) == "2.0.0"
    assert other.connections == 0


async def test_a_domain_whose_policy_allows_no_host_has_to_wait() -> None:
    world = World([("mx.evil.example", 25)], {"mx.evil.example": None})
    assert status_of(await send_once(sender_in(world))) == "4.7.5"


async def test_a_host_whose_policy_cannot_be_learnt_securely_is_passed_over() -> None:
    """RFC7672 2.1.2: nothing is sent to it, but the other hosts have policies of their own."""
    other, reception = ScriptedServer(), MemoryReception()
    async with serving(other) as (_, dark), listening(reception) as (_, port):
        world = World([("mx.dark.example", dark), (HOST, port)], bogus="mx.dark.example")
        delivery = await send_once(sender_in(world))
    assert (status_of(delivery), delivery.host) == ("2.0.0", HOST)
    assert other.connections == 0


async def test_a_policy_that_cannot_be_learnt_securely_has_to_wait() -> None:
    assert status_of(await send_once(sender_in(World([(HOST, 25)], dns_works=False)))) == "4.4.3"


async def test_a_route_follows_only_what_is_configured() -> None:
    reception = MemoryReception()
    async with listening(reception) as address:
        world = World([], dns_works=False)
        routes = {"b.example": address}
        delivery = await send_once(sender_in(world, routes=routes))
        assert (status_of(delivery), delivery.tls_policy) == ("2.0.0", "default")
        world.configured_policy = VERIFY
        assert status_of(await send_once(sender_in(world, routes=routes))) == "4.4.1"


async def test_a_connection_to_anybody_is_not_used_where_a_certificate_is_demanded() -> None:
    reception = MemoryReception()
    async with listening(reception) as (_, port):
        world = World([(HOST, port)])
        sender = sender_in(world)
        assert status_of(await send(sender)) == "2.0.0"
        world.policies = {HOST: VERIFY}
        assert status_of(await send(sender)) == "4.4.1"
        world.policies = {}
        assert status_of(await send(sender)) == "2.0.0"
        await sender.close()
    assert len(reception.accepted) == 2


# --- connections that are kept ------------------------------------------------------------------


def target_of(server: ScriptedServer) -> Target:
    return Target("b", *server.address, CLEAR)


def connections(idle_s: float = 15, reuse_s: float = REUSE_S) -> Connections:
    return Connections(hostname="mx.a.example", timeouts=QUICK, idle_s=idle_s, reuse_s=reuse_s)


async def test_a_connection_is_kept_for_its_target_and_then_let_go() -> None:
    server = ScriptedServer()
    async with serving(server):
        pool, target = connections(idle_s=0.05), target_of(server)
        client = await pool.new(target)
        assert pool.kept(target) is None
        pool.keep(target, client)
        assert pool.kept(target) is client
        pool.keep(target, client)
        await asyncio.wait_for(server.left.wait(), 10)
        assert pool.kept(target) is None
        await pool.close()
    assert server.commands == ["EHLO mx.a.example", "QUIT"]


async def test_a_connection_that_is_used_is_not_let_go() -> None:
    server = ScriptedServer()
    async with serving(server):
        pool, target = connections(idle_s=0.05), target_of(server)
        client = await pool.new(target)
        pool.keep(target, client)
        assert pool.kept(target) is client
        await asyncio.sleep(0.1)
        assert client.alive
        pool.keep(target, client)
        await pool.close()
        assert not client.alive


async def test_a_connection_is_kept_for_so_many_messages_only() -> None:
    server = ScriptedServer()
    async with serving(server):
        pool, target = connections(), target_of(server)
        client = await pool.new(target)
        for _ in range(REUSE_MESSAGES - 1):
            pool.keep(target, client)
            assert pool.kept(target) is client
        pool.keep(target, client)
        assert pool.kept(target) is None
        await asyncio.wait_for(server.left.wait(), 10)
        await pool.close()


async def test_a_connection_that_is_old_is_not_kept() -> None:
    server = ScriptedServer()
    async with serving(server):
        pool, target = connections(reuse_s=0), target_of(server)
        pool.keep(target, await pool.new(target))
        assert pool.kept(target) is None
        await asyncio.wait_for(server.left.wait(), 10)
        await pool.close()


async def test_only_some_connections_to_one_target_are_kept() -> None:
    server = ScriptedServer()
    async with serving(server):
        pool, target = connections(), target_of(server)
        clients = [await pool.new(target) for _ in range(IDLE_CONNECTIONS + 2)]
        for client in clients:
            pool.keep(target, client)
        await asyncio.wait_for(server.left.wait(), 10)
        kept = [pool.kept(target) for _ in range(IDLE_CONNECTIONS)]
        assert kept == clients[:1:-1]
        assert pool.kept(target) is None
        for client in clients:
            client.abort()
        await pool.close()


async def test_a_connection_that_the_server_closed_is_forgotten() -> None:
    server = ScriptedServer()
    async with serving(server):
        pool, target = connections(), target_of(server)
        client = await pool.new(target)
        pool.keep(target, client)
        client.abort()
        assert pool.kept(target) is None
        await pool.close()


@pytest.mark.parametrize("reply", ["535 5.7.8 No", HANG_UP])
async def test_a_server_that_does_not_let_us_in_is_unreachable(reply: str) -> None:
    server = ScriptedServer(
        {"EHLO": "250-b\r\n250-STARTTLS\r\n250 AUTH PLAIN", "AUTH": reply},
        tls=server_context(HOST),
    )
    async with serving(server):
        target = Target("b", *server.address, ENCRYPT, login=Credentials("ehr", "secret"))
        pool = connections()
        with pytest.raises(UnreachableError) as caught:
            await pool.new(target)
        await pool.close()
    assert "secret" not in str(caught.value)


async def test_a_server_without_a_certificate_satisfies_no_tlsa() -> None:
    # A TLSA record of a whole key, and a server whose certificate shows none.
    server = ScriptedServer({"EHLO": "250-b\r\n250 STARTTLS"})
    async with serving(server):
        policy = TlsPolicy(Demand.DANE, Source.DANE, (Tlsa(3, 1, 1, bytes(32)),))
        pool = connections()
        with pytest.raises(UnreachableError, match="dane demands TLS"):
            await pool.new(Target("b", *server.address, policy))
        await pool.close()
