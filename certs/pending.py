"""Keys whose certificate a CA has yet to issue.

Talks to the database through the connection it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from certs.address import DirectAddress
from certs.envelope import seal_envelope
from certs.errors import DirectError, Reason
from certs.identity import SupportedPrivateKey
from certs.ids import new_id
from certs.keys import HeldKey, public_sha256
from certs.tables import pending_key

__all__ = ["PendingKey", "add_pending", "add_pending_in_token", "list_pending", "take_pending"]


@dataclass(frozen=True, slots=True)
class PendingKey:
    """A key that waits for its certificate, named by the SHA-256 of its public half."""

    id: UUID
    subject: str
    public_sha256: str
    token_label: str | None
    created_at: datetime


def add_pending(
    connection: sa.Connection,
    key: SupportedPrivateKey,
    *,
    subject: DirectAddress | str,
    kek: bytes,
    now: datetime,
) -> None:
    """Keep a key that was made here until its certificate comes."""
    identifier = new_id(now)
    held = HeldKey(
        identifier, key.public_key(), seal_envelope(key, kek=kek, context=identifier.bytes)
    )
    _insert(connection, held, subject, now)


def add_pending_in_token(
    connection: sa.Connection,
    label: str,
    public: CertificatePublicKeyTypes,
    *,
    subject: DirectAddress | str,
    now: datetime,
) -> None:
    """Remember a key in the token until its certificate comes."""
    _insert(connection, HeldKey(new_id(now), public, None, label), subject, now)


def list_pending(connection: sa.Connection) -> Sequence[PendingKey]:
    """Return the keys that wait, the oldest first."""
    return [
        PendingKey(row.id, row.subject, row.public_sha256, row.token_label, row.created_at)
        for row in connection.execute(sa.select(pending_key).order_by(pending_key.c.created_at))
    ]


def take_pending(connection: sa.Connection, certificate: x509.Certificate) -> HeldKey:
    """Return the key that waited for `certificate`; it waits no more.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no key of ours waits for it.
    """
    public = certificate.public_key()
    query = sa.select(pending_key).where(pending_key.c.public_sha256 == public_sha256(public))
    row = connection.execute(query).first()
    if row is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, "no key made here waits for this certificate")
    connection.execute(sa.delete(pending_key).where(pending_key.c.id == row.id))
    return HeldKey(row.id, public, row.key_envelope, row.token_label)


def _insert(
    connection: sa.Connection, held: HeldKey, subject: DirectAddress | str, now: datetime
) -> None:
    name = subject.key if isinstance(subject, DirectAddress) else subject
    connection.execute(
        sa.insert(pending_key).values(
            id=held.id,
            subject=name,
            public_sha256=public_sha256(held.public),
            key_envelope=held.envelope,
            token_label=held.token_label,
            created_at=now,
        )
    )
