"""An installation to be benchmarked: one domain of ours, and one peer that it trusts.

Talks to the file system and the database in the folder it is given.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import dns.name
import dns.zone
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection

from certs import keys
from certs.address import DirectAddress
from certs.identity import Identity, SoftwareKey
from certs.issue import KeyKind
from certs.kek import read_kek
from gateway import domains
from gateway.config import load
from gateway.database import SqlDatabase
from gateway.initialise import initialise
from gateway.own_ca import OwnCa
from gateway.sandbox import free_port
from trust_bundles import store
from trust_bundles.policy import Direction

__all__ = ["PEER", "USER", "BenchSite", "make_site", "zones"]

USER: Final = DirectAddress("user", "bench.example")
PEER: Final = DirectAddress("user", "peer.example")
DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class BenchSite:
    """Where the installation lies and listens, and whom it talks to."""

    config: Path
    data: Path
    database_url: str
    backbone: int
    edge: int
    login: tuple[str, str]
    certificate: x509.Certificate  # of USER's domain
    peer: Identity  # of PEER's domain


async def make_site(folder: Path, *, resolver: int, sink: int, now: datetime) -> BenchSite:
    """Make the installation; `sink` is the port of the peer's mail server."""
    backbone, edge = free_port(), free_port()
    file = folder / "direct-gateway.toml"
    file.write_text(
        f'[gateway]\nhostname = "gw.{USER.domain}"\nlog_level = "warning"\n'
        f'[backbone]\nlisten = "127.0.0.1:{backbone}"\n'
        f'[edge]\nlisten = "127.0.0.1:{edge}"\n'
        f'[discovery]\nresolver = "127.0.0.1:{resolver}"\nprivate_addresses = true\n'
        f'[routes]\n"{PEER.domain}" = "127.0.0.1:{sink}"\n',
        encoding="utf-8",
    )
    config = load(file)
    await initialise(config, now)
    kek = read_kek(config.gateway.data / "kek")
    ca = OwnCa.open(config.gateway.data, keks=[kek], name="Bench CA", now=now)
    ours, theirs = (
        ca.issue(address.domain, kind=KeyKind.RSA_2048, days=DAYS, now=now)
        for address in (USER, PEER)
    )

    password = secrets.token_urlsafe(12)
    hashed = domains.hash_password(password)

    def work(connection: Connection) -> None:
        domains.add_domain(connection, USER.domain, now)
        domains.add_address(connection, USER, now)
        keys.add(connection, ours, subject=USER.domain, kek=kek, now=now)
        domains.add_edge_user(connection, "ehr", hashed, [USER], now)
        store.add_anchor(
            connection,
            certificate=ca.certificate,
            domain_or_address=USER.domain,
            directions=frozenset(Direction),
            now=now,
        )

    async with SqlDatabase.open(config.database_url) as database:
        await database.write(work)
    peer = Identity(theirs.certificate, (), SoftwareKey(theirs.key))
    return BenchSite(
        config=file,
        data=config.gateway.data,
        database_url=config.database_url,
        backbone=backbone,
        edge=edge,
        login=("ehr", password),
        certificate=ours.certificate,
        peer=peer,
    )


def zones(peer: x509.Certificate) -> Mapping[dns.name.Name, dns.zone.Zone]:
    """Return what DNS says of the peer: its certificate, and that it has no LDAP."""
    encoded = base64.b64encode(peer.public_bytes(Encoding.DER)).decode("ascii")
    lines = [
        "@ 3600 IN SOA ns hostmaster 1 3600 600 86400 60",
        "@ 3600 IN NS ns",
        f"@ 3600 IN CERT PKIX 0 0 {encoded}",
        "_ldap._tcp 3600 IN SRV 0 0 0 .",
    ]
    zone = dns.zone.from_text("\n".join(lines), origin=f"{PEER.domain}.", relativize=False)
    return {dns.name.from_text(PEER.domain): zone}
