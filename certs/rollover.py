"""From one of our certificates to the next without a gap; retiring, removing, sealing anew.

Talks to the database through the connection it is handed.

    publish   peers find the new certificate, beside the old one
    switch    the new one signs, the old one no longer
    retire    peers find the old one no more; what was encrypted to it is still opened

Between publish and switch peers' caches fill; between switch and retire mail arrives that was
encrypted to the old one.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3 (AS-071: all key generations)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from certs.envelope import rewrap
from certs.errors import DirectError, Reason
from certs.issue import Use
from certs.keys import OwnIdentity, find, list_identities
from certs.tables import own_identity, pending_key

__all__ = ["Dates", "remove", "retire", "rewrap_all", "rewrap_any", "roll_over"]


@dataclass(frozen=True, slots=True)
class Dates:
    """When a rollover takes its steps, in this order."""

    publish: datetime
    switch: datetime
    retire: datetime


def roll_over(
    connection: sa.Connection, sha256: str, dates: Dates, now: datetime
) -> Sequence[OwnIdentity]:
    """Let the certificate take over from the others of its subject; return those others.

    One that serves a use that the new one does not goes on for that. The certificate may be an old
    one: so a rollover is taken back.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; CONFIGURATION_INVALID where the dates are out of order, or
            the certificate is not valid from the switch on.
    """
    new = find(connection, sha256)
    if not dates.publish <= dates.switch <= dates.retire:
        raise _invalid("publish, switch and retire must come in this order")
    certificate = new.certificate
    if not certificate.not_valid_before_utc <= dates.switch < certificate.not_valid_after_utc:
        raise _invalid("the new certificate is not valid at the switch")
    old = [
        one
        for one in list_identities(connection, [new.subject])
        if one.id != new.id and one.uses & new.uses and not one.is_retired(now)
    ]
    _set(
        connection,
        new,
        publish_at=dates.publish,
        sign_from=dates.switch,
        sign_until=None,
        retired_at=None,
    )
    for one in old:
        if Use.SIGN in one.uses & new.uses:
            _set(connection, one, sign_until=_earlier(one.sign_until, dates.switch))
        if one.uses <= new.uses:
            _set(connection, one, retired_at=_earlier(one.retired_at, dates.retire))
    return old


def retire(connection: sa.Connection, sha256: str, at: datetime, now: datetime) -> bool:
    """Sign with it no more and publish it no more from `at` on; return if it was in use.

    Mail that was encrypted to it is still opened. A later date that was set before is brought
    forward, never put off.
    """
    later = sa.or_(own_identity.c.retired_at.is_(None), own_identity.c.retired_at > max(at, now))
    query = (
        sa.update(own_identity).where(own_identity.c.sha256 == sha256, later).values(retired_at=at)
    )
    return connection.execute(query).rowcount == 1


def remove(connection: sa.Connection, sha256: str, *, opened_until: datetime) -> OwnIdentity:
    """Forget a certificate and its key, and return what it was.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; RESOURCE_CONFLICT unless it was retired before
            `opened_until`: mail may yet come in that only it opens.
    """
    own = find(connection, sha256)
    if own.retired_at is None:
        raise DirectError(Reason.RESOURCE_CONFLICT, "it is in use: retire it first")
    if own.retired_at > opened_until:
        raise DirectError(Reason.RESOURCE_CONFLICT, "it still opens mail")
    connection.execute(sa.delete(own_identity).where(own_identity.c.id == own.id))
    return own


def rewrap_all(connection: sa.Connection, *, old_keks: Iterable[bytes], new_kek: bytes) -> int:
    """Seal every private key in the database under `new_kek`; return how many there are.

    The keys stay sealed: only what seals their data keys changes.

    Raises:
        DirectError: CONFIGURATION_INVALID; none of `old_keks` opens one of them.
    """
    keks = [new_kek, *old_keks]
    count = 0
    for table in (own_identity, pending_key):
        query = sa.select(table.c.id, table.c.key_envelope).where(table.c.key_envelope.is_not(None))
        for row in connection.execute(query).all():
            sealed = rewrap_any(row.key_envelope, keks, new_kek)
            connection.execute(
                sa.update(table).where(table.c.id == row.id).values(key_envelope=sealed)
            )
            count += 1
    return count


def rewrap_any(envelope: bytes, keks: Sequence[bytes], new_kek: bytes) -> bytes:
    """Return the envelope under `new_kek`, whichever of `keks` it was sealed under.

    Raises:
        DirectError: CONFIGURATION_INVALID; under none of them.
    """
    failure: DirectError | None = None
    for kek in keks:
        try:
            return rewrap(envelope, old_kek=kek, new_kek=new_kek)
        except DirectError as error:
            failure = error
    raise failure or _invalid("there is no key-encryption key")


def _set(connection: sa.Connection, own: OwnIdentity, **values: datetime | None) -> None:
    connection.execute(sa.update(own_identity).where(own_identity.c.id == own.id).values(**values))


def _earlier(first: datetime | None, second: datetime) -> datetime:
    return second if first is None else min(first, second)


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, detail)
