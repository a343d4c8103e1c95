"""Anchors and bundles for tests of trust."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cryptography import x509

from certs.address import parse_address
from certs.ports import Database
from tests.helpers.pki import NOW, Ca
from trust_bundles import store
from trust_bundles.policy import Direction

__all__ = ["ADDRESS", "BOTH", "COLLEAGUE", "NOW", "ONE", "TWO", "add", "cas"]

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


def cas(count: int, prefix: str = "Member") -> list[x509.Certificate]:
    """That many CA certificates, over one key."""
    return [Ca.create(f"{prefix} {n}", label="member").certificate for n in range(count)]
