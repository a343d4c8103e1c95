"""Anchors and bundles for tests of trust."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from certs.address import parse_address
from certs.ports import Database
from tests.helpers.pki import NOW, Ca
from trust_bundles import store
from trust_bundles.bundle import read_bundle
from trust_bundles.bundle_writer import write_p7b
from trust_bundles.bundles import Settings, add_bundle
from trust_bundles.policy import Direction
from trust_bundles.versions import Arrival, install

__all__ = ["ADDRESS", "BOTH", "COLLEAGUE", "NOW", "ONE", "TWO", "add", "install_bundle"]

BOTH = frozenset(Direction)
ONE = Ca.create("One").certificate
TWO = Ca.create("Two").certificate
ADDRESS = parse_address("DrJones@direct.example.org")
COLLEAGUE = parse_address("nurse@direct.example.org")


async def add(
    database: Database,
    certificate: x509.Certificate,
    owner: str,
    directions: Collection[Direction] = BOTH,
    **more: Any,
) -> None:
    """Make `certificate` an anchor of `owner`."""
    await database.write(
        lambda c: store.add_anchor(
            c,
            certificate=certificate,
            domain_or_address=owner,
            directions=directions,
            now=NOW,
            **more,
        )
    )


async def install_bundle(
    database: Database, name: str, anchors: Collection[x509.Certificate]
) -> None:
    """Add a bundle with these anchors in force; nobody uses it yet."""
    content = write_p7b(anchors)
    arrival = Arrival(content, read_bundle(content, now=NOW), None, "file", "test")

    def write(c: sa.Connection) -> None:
        add_bundle(c, name, Settings(), NOW)
        install(c, name, arrival, now=NOW)

    await database.write(write)
