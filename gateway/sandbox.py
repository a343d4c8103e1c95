"""Two complete HISPs on loopback, with their own PKI and DNS: the main job, for newcomers.

Talks to loopback only. `Sandbox` is also what the end-to-end tests run on.
"""

from __future__ import annotations

import base64
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

import dns.name
import dns.zone
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection

from certs import keys
from certs.address import DirectAddress
from certs.issue import KeyKind
from certs.kek import read_kek
from fhir_bridge import clients
from fhir_bridge.scopes import ALL
from gateway import domains
from gateway.app import Listening, running
from gateway.clock import utc_now
from gateway.config import Config, Discovery, Fhir, Gateway, Mailbox, Smtp, Tracking
from gateway.database import SqlDatabase
from gateway.dns_responder import DnsResponder
from gateway.host_port import HostPort
from gateway.initialise import initialise
from gateway.own_ca import OwnCa
from trust_bundles import store
from trust_bundles.policy import Direction

__all__ = ["Hisp", "Sandbox", "free_port", "open_sandbox"]

LOOPBACK: Final = "127.0.0.1"
CERT_DAYS: Final = 90
PORTS: Final = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Hisp:
    """One running HISP and what a person needs to use it by hand."""

    name: str
    domain: str
    user: DirectAddress  # has an address-bound certificate
    desk: DirectAddress  # is served by the domain-bound certificate
    config: Config
    config_file: Path
    anchor: x509.Certificate
    listening: Listening
    token: str
    password: str

    @property
    def base_url(self) -> str:
        """The base of its FHIR API."""
        host, port = self.listening.fhir or (LOOPBACK, 0)
        return f"http://{host}:{port}/fhir/R4"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Both HISPs and the DNS that they share; `zones` may be changed while it is served."""

    hillside: Hisp
    lakeview: Hisp
    resolver: tuple[str, int]
    zones: dict[dns.name.Name, dns.zone.Zone]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one HISP is to be."""

    name: str
    domain: str
    user: DirectAddress
    folder: Path
    backbone: HostPort

    @property
    def desk(self) -> DirectAddress:
        return DirectAddress("frontdesk", self.domain)


@dataclass(frozen=True, slots=True)
class _Made:
    """What was made of a plan, before it runs."""

    config: Config
    anchor: x509.Certificate
    certificates: tuple[tuple[str, x509.Certificate], ...]  # owner name in DNS, certificate
    token: str
    password: str


@asynccontextmanager
async def open_sandbox(
    folder: Path,
    *,
    window_s: float = 3600.0,
    mailboxes: Mapping[str, Mailbox] = MappingProxyType({}),
    hook_hosts: Sequence[str] = (),
    envelopes: bool = False,
) -> AsyncIterator[Sandbox]:
    """Run two HISPs that trust each other, with all their data under `folder`.

    `window_s`: how many seconds a sender waits for a notification. `mailboxes`: addresses that
    have a mail server of their own. `hook_hosts`: where subscriptions may send. `envelopes`: what
    mail cannot carry travels beside it.
    """
    now = utc_now()
    fhir = Fhir(
        listen=HostPort(host=LOOPBACK, port=0),
        hook_hosts=tuple(hook_hosts),
        fhir_envelope=envelopes,
    )
    plans = (
        _plan("Hillside Clinic", "direct.hillside.example", "dr.rivera", folder / "hillside"),
        _plan("Lakeview Hospital", "direct.lakeview.example", "dr.chen", folder / "lakeview"),
    )
    async with AsyncExitStack() as stack:
        zones: dict[dns.name.Name, dns.zone.Zone] = {}
        responder = DnsResponder(zones)
        resolver = await responder.start(LOOPBACK, 0)
        stack.push_async_callback(responder.stop)
        made = [
            await _set_up(plan, _config(plan, plans, resolver, window_s, mailboxes, fhir), now)
            for plan in plans
        ]
        for plan, one in zip(plans, made, strict=True):
            zones[dns.name.from_text(plan.domain)] = _zone(plan, one)
        await _trust(made[0], plans[0], made[1].anchor, now)
        await _trust(made[1], plans[1], made[0].anchor, now)
        hisps = [
            _hisp(plan, one, await stack.enter_async_context(running(one.config)))
            for plan, one in zip(plans, made, strict=True)
        ]
        yield Sandbox(hisps[0], hisps[1], resolver, zones)


def _plan(name: str, domain: str, user: str, folder: Path) -> _Plan:
    backbone = HostPort(host=LOOPBACK, port=free_port())
    return _Plan(name, domain, DirectAddress(user, domain), folder, backbone)


def free_port() -> int:
    """Return a port that is free now, below those that the kernel gives out by itself.

    Both HISPs must know it before one of them listens, so it must not be given away meanwhile.
    """
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        try:
            socket.create_server((LOOPBACK, port)).close()
        except OSError:
            continue
        return port


def _config(
    plan: _Plan,
    plans: Sequence[_Plan],
    resolver: tuple[str, int],
    window_s: float,
    mailboxes: Mapping[str, Mailbox],
    fhir: Fhir,
) -> Config:
    anywhere = HostPort(host=LOOPBACK, port=0)
    return Config(
        gateway=Gateway(hostname=f"gw.{plan.domain}", data=plan.folder),
        backbone=Smtp(listen=plan.backbone),
        edge=Smtp(listen=anywhere),
        fhir=fhir,
        discovery=Discovery(
            resolver=HostPort(host=resolver[0], port=resolver[1]), private_addresses=True
        ),
        tracking=Tracking(window_s=window_s),
        # Stands in for port 25, which the MX records of a real domain lead to.
        routes={other.domain: other.backbone for other in plans},
        mailboxes=mailboxes,
    )


async def _set_up(plan: _Plan, config: Config, now: datetime) -> _Made:
    """Do what an administrator does with `init`, `domain`, `address`, `cert`, `client`, `user`."""
    await initialise(config, now)
    (plan.folder / "direct-gateway.toml").write_text(_toml(plan, config), encoding="utf-8")
    kek = read_kek(config.gateway.data / "kek")
    ca = OwnCa.open(config.gateway.data, keks=[kek], name=f"{plan.name} CA", now=now)
    bound = ca.issue(plan.user, kind=KeyKind.RSA_2048, days=CERT_DAYS, now=now)
    domain = ca.issue(plan.domain, kind=KeyKind.RSA_2048, days=CERT_DAYS, now=now)
    password = secrets.token_urlsafe(12)
    hashed = domains.hash_password(password)

    def work(c: Connection) -> str:
        domains.add_domain(c, plan.domain, now)
        for address in (plan.user, plan.desk):
            domains.add_address(c, address, now)
        keys.add(c, bound, subject=plan.user, kek=kek, now=now)
        keys.add(c, domain, subject=plan.domain, kek=kek, now=now)
        domains.add_edge_user(c, "ehr", hashed, [plan.user, plan.desk], now)
        # To try everything with: it may edit the directory too.
        return clients.add_client(c, "app", [plan.user, plan.desk], now, scopes=ALL)

    async with SqlDatabase.open(config.database_url) as database:
        token = await database.write(work)
    certificates = (
        (str(plan.user).replace("@", "."), bound.certificate),
        (plan.domain, domain.certificate),
    )
    return _Made(config, ca.certificate, certificates, token, password)


async def _trust(made: _Made, plan: _Plan, anchor: x509.Certificate, now: datetime) -> None:
    async with SqlDatabase.open(made.config.database_url) as database:
        await database.write(
            lambda c: store.add_anchor(
                c,
                certificate=anchor,
                domain_or_address=plan.domain,
                directions=frozenset(Direction),
                now=now,
            )
        )


def _zone(plan: _Plan, made: _Made) -> dns.zone.Zone:
    """Return the domain's zone: mail exchanger, certificates, and the word that it has no LDAP."""
    lines = [
        "@ 300 IN SOA ns hostmaster 1 3600 600 86400 60",
        "@ 300 IN NS ns",
        f"ns 300 IN A {LOOPBACK}",
        f"gw 300 IN A {LOOPBACK}",
        "@ 300 IN MX 10 gw",
        "_ldap._tcp 300 IN SRV 0 0 0 .",
    ]
    for name, certificate in made.certificates:
        der = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii")
        lines.append(f"{name}. 300 IN CERT PKIX 0 0 {der}")
    return dns.zone.from_text("\n".join(lines), origin=plan.domain, relativize=False)


def _hisp(plan: _Plan, made: _Made, listening: Listening) -> Hisp:
    return Hisp(
        name=plan.name,
        domain=plan.domain,
        user=plan.user,
        desk=plan.desk,
        config=made.config,
        config_file=plan.folder / "direct-gateway.toml",
        anchor=made.anchor,
        listening=listening,
        token=made.token,
        password=made.password,
    )


def _toml(plan: _Plan, config: Config) -> str:
    """Return the configuration as a file, so that every verb works on the sandbox too."""
    routes = "\n".join(f'"{domain}" = "{target}"' for domain, target in config.routes.items())
    return f"""\
[gateway]
hostname = "{config.gateway.hostname}"
data = "{plan.folder.absolute()}"

[backbone]
listen = "{plan.backbone}"

[discovery]
resolver = "{config.discovery.resolver}"
private_addresses = true

[routes]
{routes}
"""
