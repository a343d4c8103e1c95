"""What each peer was last seen to decrypt, by address.

Talks to the database through the connection it is handed. Only what a trusted signer said in a
message that was accepted is remembered, the newest in the place of what was there before; what
nobody has repeated for half a year counts no more.

Standards:
    RFC8551  sections 2.5.2 (SMIMECapabilities) and 2.7.1 (remembering them)
    R-027 in our catalogue: it chooses among what we would use anyway, and nothing below
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from certs.address import DirectAddress
from certs.cms.algorithms import ContentEncryption
from gateway.locks import lock
from gateway.tables import peer_capability

__all__ = ["remember", "seen"]

AGE: Final = timedelta(days=182)
_REFRESH: Final = timedelta(days=7)  # nothing is written while the same is said every day
# The default is what everybody reads: a peer that reads no more is none to remember.
_WORTH_REMEMBERING: Final = ContentEncryption.AES256_GCM


def remember(
    connection: sa.Connection,
    address: DirectAddress,
    capabilities: frozenset[ContentEncryption],
    now: datetime,
) -> None:
    """Note what the signer for `address` says it can decrypt."""
    value = " ".join(sorted(one.value for one in capabilities))
    known = connection.execute(_KNOWN, {"the_key": address.key}).first()
    if known is None and _WORTH_REMEMBERING not in capabilities:
        return
    if known is not None and known.ciphers == value and known.seen_at > now - _REFRESH:
        return
    lock(connection, f"capability {address.key}")
    connection.execute(_FORGET, {"the_key": address.key})
    row = {"address_key": address.key, "ciphers": value, "seen_at": now}
    connection.execute(peer_capability.insert(), row)


def seen(
    connection: sa.Connection, addresses: Sequence[DirectAddress], now: datetime
) -> list[frozenset[ContentEncryption]]:
    """Return what each of `addresses` was seen to decrypt; nothing where nobody knows."""
    since = now - AGE
    return [_seen(connection, address, since) for address in addresses]


def _seen(
    connection: sa.Connection, address: DirectAddress, since: datetime
) -> frozenset[ContentEncryption]:
    row = connection.execute(_KNOWN, {"the_key": address.key}).first()
    if row is None or row.seen_at <= since:
        return frozenset()
    names = row.ciphers.split()
    return frozenset(cipher for cipher in ContentEncryption if cipher.value in names)


_KNOWN: Final = sa.select(peer_capability.c.ciphers, peer_capability.c.seen_at).where(
    peer_capability.c.address_key == sa.bindparam("the_key")
)
_FORGET: Final = peer_capability.delete().where(
    peer_capability.c.address_key == sa.bindparam("the_key")
)
