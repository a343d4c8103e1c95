"""DANE with real servers: Knot signs, Unbound validates, our sender follows."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.address import parse_address
from certs.dns_client import DnsClient
from certs.errors import Reason
from gateway.dane_client import DaneClient
from gateway.mta_sts import StsPolicy
from gateway.mx import MxResolver
from gateway.ports import Delivery
from gateway.smtp_client import Timeouts
from gateway.smtp_out import SmtpSender
from gateway.tls_policies import PublishedPolicies
from tests.helpers.listeners import HOST, listening
from tests.helpers.memory_reception import MemoryReception
from tests.helpers.servers import free_port
from tests.helpers.tls import server_certificate

CONTENT = b"Subject: x\r\n\r\nx\r\n"
KEY = hashlib.sha256(
    server_certificate(HOST)
    .certificate.public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).hexdigest()
WRONG_DS = "DS 12345 13 2 " + "00" * 32


@dataclass(frozen=True)
class World:
    """A validating resolver, our listener, and what it has accepted."""

    resolver: tuple[str, int]
    port: int
    reception: MemoryReception


def zone(origin: str, port: int, key: str) -> str:
    return (
        f"{origin}. 60 SOA ns.{origin}. x.{origin}. 1 3600 600 86400 60\n"
        f"{origin}. 60 NS ns.{origin}.\nns.{origin}. 60 A 127.0.0.1\n"
        f"{origin}. 60 MX 10 mx.{origin}.\nmx.{origin}. 60 A 127.0.0.1\n"
        f"_{port}._tcp.mx.{origin}. 60 TLSA 3 1 1 {key}\n"
    )


@contextmanager
def running(command: list[str], log: Path, answers: Callable[[], bool]) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 20
        while not answers():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def signed(port: int, origin: str) -> bool:
    query = dns.message.make_query(origin, "DNSKEY")
    try:
        return bool(dns.query.udp(query, "127.0.0.1", timeout=0.5, port=port).answer)
    except (dns.exception.DNSException, OSError):
        return False


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True


@contextmanager
def validator(folder: Path, zones: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Knot signs every zone but unsigned.example; Unbound trusts each key but bogus.example's."""
    knot_port, unbound_port = free_port(), free_port()
    config = folder / "knot.conf"
    listed = ""
    for origin, text in zones.items():
        (folder / f"{origin}.zone").write_text(text)
        sign = "off" if origin == "unsigned.example" else "on"
        listed += f"  - domain: {origin}\n    file: {origin}.zone\n    dnssec-signing: {sign}\n"
    config.write_text(
        f"server:\n  listen: 127.0.0.1@{knot_port}\n  rundir: {folder}\n"
        f"database:\n  storage: {folder}\n"
        f"template:\n  - id: default\n    storage: {folder}\n    zonefile-sync: -1\n"
        f"    zonefile-load: difference-no-serial\n    journal-content: all\nzone:\n{listed}"
    )
    knot = ["/usr/sbin/knotd", "-c", str(config)]
    with ExitStack() as stack:
        stack.enter_context(
            running(knot, folder / "knot.log", lambda: signed(knot_port, "bogus.example"))
        )
        anchors = ""
        for origin in zones:
            if origin != "unsigned.example":
                anchors += f'  trust-anchor: "{origin}. {_ds(config, origin)}"\n'
        stubs = "".join(
            f"stub-zone:\n  name: {origin}\n  stub-addr: 127.0.0.1@{knot_port}\n"
            for origin in zones
        )
        unbound = folder / "unbound.conf"
        unbound.write_text(
            f"server:\n  interface: 127.0.0.1@{unbound_port}\n  chroot: ''\n  username: ''\n"
            f"  directory: {folder}\n  pidfile: {folder}/unbound.pid\n  use-syslog: no\n"
            f"  do-daemonize: no\n  do-not-query-localhost: no\n"
            f"  local-zone: 'example.' nodefault\n{anchors}{stubs}"
        )
        command = ["/usr/sbin/unbound", "-d", "-c", str(unbound)]
        stack.enter_context(running(command, folder / "unbound.log", lambda: listens(unbound_port)))
        yield "127.0.0.1", unbound_port


def _ds(config: Path, origin: str) -> str:
    if origin == "bogus.example":
        return WRONG_DS
    command = ["/usr/sbin/keymgr", "-c", str(config), origin, "ds"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    # One line for each digest: "b.example. DS 1234 13 2 ...".
    return next(line for line in said.splitlines() if " 13 2 " in line).partition(" ")[2]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    reception = MemoryReception()
    async with listening(reception) as (_, port):
        zones = {
            "b.example": zone("b.example", port, KEY),
            "wrong.example": zone("wrong.example", port, "ab" * 32),
            "unsigned.example": zone("unsigned.example", port, "ab" * 32),
            "bogus.example": zone("bogus.example", port, KEY),
        }
        with validator(tmp_path, zones) as resolver:
            yield World(resolver, port, reception)


class NoSts:
    """Nobody publishes MTA-STS."""

    async def policy(self, domain: str) -> StsPolicy | None:
        return None


async def send(world: World, domain: str) -> Delivery:
    sender = SmtpSender(
        hostname="mx.a.example",
        routes={},
        resolver=MxResolver(
            dns=DnsClient(resolver=world.resolver, allow_private=True), port=world.port
        ),
        policies=PublishedPolicies(
            configured={}, sts=NoSts(), dane=DaneClient(resolver=world.resolver)
        ),
        timeouts=Timeouts(connect_s=5, command_s=5, end_s=5, quit_s=1),
    )
    try:
        return await sender.send(
            domain=domain,
            sender=parse_address("anna@a.example"),
            recipients=[parse_address("drjones@b.example")],
            message=BytesIO(CONTENT),
            size=len(CONTENT),
        )
    finally:
        await sender.close()


async def test_what_a_domain_publishes_decides(world: World) -> None:
    secure = await send(world, "b.example")
    assert [(a.reason, a.status) for a in secure.attempts] == [(None, "2.0.0")]
    assert (secure.tls_policy, secure.verified) == ("dane", True)
    assert len(world.reception.accepted) == 1

    (wrong,) = (await send(world, "wrong.example")).attempts
    assert (wrong.reason, wrong.status) == (Reason.BACKBONE_UNAVAILABLE, "4.4.1")
    assert "no TLSA record matches" in wrong.reply

    (bogus,) = (await send(world, "bogus.example")).attempts
    assert (bogus.reason, bogus.status) == (Reason.BACKBONE_UNAVAILABLE, "4.4.3")
    assert len(world.reception.accepted) == 1

    insecure = await send(world, "unsigned.example")
    assert [(a.reason, a.status) for a in insecure.attempts] == [(None, "2.0.0")]
    assert (insecure.tls_policy, insecure.verified) == ("default", False)
