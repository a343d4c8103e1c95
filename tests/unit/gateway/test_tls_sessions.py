"""TLS sessions outward: resumed with the same host under the same policy, and never else."""

from __future__ import annotations

import hashlib
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.dane import Tlsa
from gateway.smtp_client import Timeouts
from gateway.smtp_pool import Connections, Target, UnreachableError
from gateway.tls import unverified_context
from gateway.tls_policy import OPPORTUNISTIC, Demand, Source, TlsPolicy
from gateway.tls_sessions import Resuming, TlsSessions
from tests.helpers.listeners import HOST, listening
from tests.helpers.memory_reception import MemoryReception
from tests.helpers.scripted_smtp import HANG_UP, ScriptedServer, serving
from tests.helpers.tls import issued_context, server_certificate, server_context

QUICK = Timeouts(connect_s=2, handshake_s=2, command_s=2, data_s=2, block_s=2, end_s=2, quit_s=1)
CERTIFICATE = server_certificate(HOST).certificate.public_bytes(Encoding.DER)
RIGHT = Tlsa(3, 0, 1, hashlib.sha256(CERTIFICATE).digest())
ALSO_RIGHT = Tlsa(3, 0, 0, CERTIFICATE)
WRONG = Tlsa(3, 0, 1, bytes(32))

ENCRYPT = TlsPolicy(Demand.ENCRYPT, Source.CONFIGURED)
VERIFY = TlsPolicy(Demand.VERIFY, Source.MTA_STS)
DANE = TlsPolicy(Demand.DANE, Source.DANE, (RIGHT,))

OFFERS_TLS = {"EHLO": "250-b\r\n250 STARTTLS"}
VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    """A PEM file with the CA that our listener's certificate is."""
    certificate, _ = server_certificate(HOST).write(tmp_path)
    return certificate


class Pool:
    """Connections, each a new one that is left at once."""

    def __init__(self, anchors: Path | None = None) -> None:
        self.connections = Connections(hostname="a.example", timeouts=QUICK, anchors=anchors)

    async def resumes(self, target: Target) -> bool:
        """Connect and say whether a session was resumed."""
        client = await self.connections.new(target)
        try:
            assert client.tunnel is not None
            assert client.verified == (target.policy.demand in (Demand.VERIFY, Demand.DANE))
            return bool(client.tunnel.session_reused)
        finally:
            client.abort()


def target_at(port: int, policy: TlsPolicy) -> Target:
    return Target(HOST, "127.0.0.1", port, policy)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(OPPORTUNISTIC, id="opportunistic"),
        pytest.param(ENCRYPT, id="encrypt"),
        pytest.param(VERIFY, id="verify"),
        pytest.param(DANE, id="dane"),
    ],
)
async def test_a_second_connection_is_resumed_and_as_good_as_the_first(
    policy: TlsPolicy, anchors: Path
) -> None:
    async with listening(MemoryReception()) as (_, port):
        pool = Pool(anchors)
        assert [await pool.resumes(target_at(port, policy)) for _ in range(3)] == [
            False,
            True,
            True,
        ]


@VERSIONS
async def test_every_tls_version_that_is_allowed_resumes(version: str) -> None:
    tls = server_context(HOST)
    tls.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
    async with serving(ScriptedServer(OFFERS_TLS, tls=tls)) as (_, port):
        pool, target = Pool(), target_at(port, OPPORTUNISTIC)
        assert [await pool.resumes(target) for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(VERIFY, id="verify"),
        pytest.param(replace(VERIFY, source=Source.CONFIGURED), id="verify-for-another-reason"),
        pytest.param(DANE, id="dane"),
        pytest.param(replace(DANE, tlsa=(ALSO_RIGHT,)), id="dane-after-a-change-of-records"),
        pytest.param(ENCRYPT, id="encrypt"),
    ],
)
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(OPPORTUNISTIC, id="opportunistic"),
        pytest.param(replace(DANE, tlsa=(RIGHT, WRONG)), id="dane"),
        pytest.param(replace(VERIFY, source=Source.NOBODY), id="verify"),
    ],
)
async def test_another_policy_does_not_resume(
    first: TlsPolicy, second: TlsPolicy, anchors: Path
) -> None:
    async with listening(MemoryReception()) as (_, port):
        pool = Pool(anchors)
        assert not await pool.resumes(target_at(port, first))
        assert not await pool.resumes(target_at(port, second))
        assert await pool.resumes(target_at(port, first))


async def test_what_was_accepted_from_anybody_does_not_pass_for_verified() -> None:
    """Without the CA: the session of the first connection must not help the second."""
    async with listening(MemoryReception()) as (_, port):
        pool = Pool()
        assert not await pool.resumes(target_at(port, OPPORTUNISTIC))
        for policy in (VERIFY, replace(DANE, tlsa=(WRONG,))):
            with pytest.raises(UnreachableError):
                await pool.resumes(target_at(port, policy))


async def test_another_host_at_the_same_address_does_not_resume(anchors: Path) -> None:
    async with listening(MemoryReception()) as (_, port):
        pool = Pool(anchors)
        target = target_at(port, VERIFY)
        assert not await pool.resumes(target)
        with pytest.raises(UnreachableError):
            await pool.resumes(replace(target, host="mx.c.example"))
        assert await pool.resumes(target)


async def test_a_host_whose_ca_is_named_by_dane_shakes_hands_each_time() -> None:
    tls, ca = issued_context(HOST)
    policy = replace(DANE, tlsa=(Tlsa(2, 0, 1, hashlib.sha256(ca).digest()),))
    async with serving(ScriptedServer(OFFERS_TLS, tls=tls)) as (_, port):
        pool = Pool()
        assert [await pool.resumes(target_at(port, policy)) for _ in range(2)] == [False, False]


@dataclass
class Fickle(ScriptedServer):
    """Hangs up at the second connection's handshake."""

    def _reply(self, command: str, verb: str) -> str:
        if verb == "STARTTLS" and self.connections == 2:
            return HANG_UP
        return super()._reply(command, verb)


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, ENCRYPT], ids=["opportunistic", "encrypt"])
async def test_a_handshake_that_fails_with_a_session_is_tried_without_before_anything_else(
    policy: TlsPolicy,
) -> None:
    server = Fickle(OFFERS_TLS, tls=server_context(HOST))
    async with serving(server) as (_, port):
        pool, target = Pool(), target_at(port, policy)
        # Under TLS each time: that the session fails must not lead to clear text.
        assert [await pool.resumes(target) for _ in range(3)] == [False, False, True]
    assert server.connections == 4


# --- sessions by themselves ---------------------------------------------------------------------


@dataclass
class Seconds:
    """A clock that stands still."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


SERVER = server_context(HOST)


def connect(context: Resuming) -> ssl.SSLObject:
    """Shake hands in memory, let the server speak, and keep the session."""
    to_client, to_server = (ssl.MemoryBIO(), ssl.MemoryBIO()), (ssl.MemoryBIO(), ssl.MemoryBIO())
    client = context.wrap_bio(*to_client, server_hostname=HOST)
    server = SERVER.wrap_bio(*to_server, server_side=True)
    for side, (_, outgoing), (incoming, _) in [
        (client, to_client, to_server),
        (server, to_server, to_client),
    ] * 2:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
        incoming.write(outgoing.read())
    server.write(b"250 OK")
    to_client[0].write(to_server[1].read())
    assert client.read(10) == b"250 OK"
    context.keep(client)
    return client


def sessions(clock: Seconds, limit: int = 10) -> TlsSessions:
    return TlsSessions(clock=clock, lifetime_s=3600, limit=limit)


def test_a_session_ends_an_hour_after_the_certificate_was_judged_however_often_resumed() -> None:
    clock = Seconds()
    context = sessions(clock).context(HOST, 25, OPPORTUNISTIC, unverified_context())
    assert not connect(context).session_reused
    for clock.now in (1800, 3599):
        assert connect(context).session_reused
    clock.now = 3600
    assert not connect(context).session_reused
    clock.now = 7199
    assert connect(context).session_reused


def test_the_hosts_used_last_are_remembered() -> None:
    inner, some = unverified_context(), sessions(Seconds(), limit=2)
    a, b = (some.context(host, 25, OPPORTUNISTIC, inner) for host in ("a", "b"))
    assert some.context("a", 25, OPPORTUNISTIC, inner) is a
    some.context("c", 25, OPPORTUNISTIC, inner)
    assert some.context("a", 25, OPPORTUNISTIC, inner) is a
    assert some.context("b", 25, OPPORTUNISTIC, inner) is not b


def test_a_connection_made_elsewhere_is_not_kept() -> None:
    inner, some = unverified_context(), sessions(Seconds())
    ours, theirs = (some.context(host, 25, OPPORTUNISTIC, inner) for host in ("a", "b"))
    ours.keep(connect(theirs))
    assert not ours.forget()
    assert theirs.forget()
    assert not connect(theirs).session_reused


def test_the_context_itself_trusts_nobody() -> None:
    context = sessions(Seconds()).context(HOST, 25, OPPORTUNISTIC, unverified_context())
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.get_ca_certs() == []
