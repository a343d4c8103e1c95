"""Our identities for the pipeline: which sign now, and which open mail.

Talks to the database for each message, so that a change counts for the next; keys are opened once
and kept.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, sections 1.4 and 2
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from typing import Any, Final, TypeAlias
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress
from certs.binding import Binding
from certs.envelope import open_any
from certs.errors import DirectError, Reason
from certs.identity import Identity, PrivateKey, SoftwareKey
from certs.keys import SELECT, described
from certs.ports import Database
from certs.tables import UtcDateTime, own_identity

__all__ = ["StoredKeys"]

IDENTITIES_CACHED: Final = 10_000
_Found: TypeAlias = tuple[str, Identity]  # with its kind


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question of every message: to build it anew would cost more than to ask it.

    First by names alone: certificates and keys are read where they are not open yet.
    """

    names: sa.Select[Any]
    whole: sa.Select[Any]


class StoredKeys:
    """Our identities, opened on first use and kept. Implements `gateway.ports.Keys`.

    `keks` reads the key-encryption key, and is asked again where it no longer fits: it may have
    been rotated. `token_key` finds a private key in a token. Keys that were retired before
    `opens_since()` open no more mail.
    """

    def __init__(
        self,
        *,
        database: Database,
        keks: Callable[[], Sequence[bytes]],
        token_key: Callable[[str], PrivateKey] | None = None,
        opens_since: Callable[[], datetime] | None = None,
    ) -> None:
        self._database = database
        self._keks = keks
        self._known: Sequence[bytes] = ()
        self._token_key = token_key
        self._opens_since = opens_since
        self._opened: OrderedDict[UUID, Identity] = OrderedDict()
        self._lock = Lock()

    async def signing(self, address: DirectAddress, now: datetime) -> Sequence[Identity]:
        """Return the identities that sign for `address` now, the newest first.

        The address's own, or its domain's where it has none: the narrower claim signs alone.
        """
        values = {"the_key": address.key, "the_domain": address.domain, "now": now}
        found = await self._found(_SIGNING, values)
        own = [identity for kind, identity in found if kind == Binding.ADDRESS.value]
        return own or [identity for _, identity in found]

    async def decrypting(self, addresses: Sequence[DirectAddress]) -> Sequence[Identity]:
        """Return every identity that may open mail to any of `addresses`.

        AS-071: expired and retired ones too, since mail outlives certificates.
        """
        subjects = {name for address in addresses for name in (address.key, address.domain)}
        since = self._opens_since() if self._opens_since is not None else _EVER
        values = {"since": since, **{f"name{n}": name for n, name in enumerate(sorted(subjects))}}
        return [identity for _, identity in await self._found(_decrypting(len(subjects)), values)]

    async def _found(self, asked: _Asked, values: Mapping[str, object]) -> Sequence[_Found]:
        """Return the identities asked for, each with its kind; those not open yet are opened."""
        opened, rows = await self._database.read(lambda c: self._look(c, asked, values))
        if rows:
            return await asyncio.to_thread(lambda: [(r["kind"], self._open(r)) for r in rows])
        return opened

    def _look(
        self, connection: sa.Connection, asked: _Asked, values: Mapping[str, object]
    ) -> tuple[Sequence[_Found], Sequence[sa.RowMapping]]:
        """Return what is open; where anything is not, all as it is stored instead."""
        names = connection.execute(asked.names, values).all()
        opened = [(name.kind, self._kept(name.id)) for name in names]
        whole = [(kind, identity) for kind, identity in opened if identity is not None]
        if len(whole) == len(names):
            return whole, ()
        return (), connection.execute(asked.whole, values).mappings().all()

    def _kept(self, identifier: UUID) -> Identity | None:
        with self._lock:
            identity = self._opened.get(identifier)
            if identity is not None:
                self._opened.move_to_end(identifier)
            return identity

    def _open(self, row: sa.RowMapping) -> Identity:
        identity = self._kept(row["id"])
        if identity is not None:
            return identity
        own = described(row)
        identity = Identity(own.certificate, own.chain, self._key(row))
        with self._lock:
            self._opened[own.id] = identity
            if len(self._opened) > IDENTITIES_CACHED:
                self._opened.popitem(last=False)
        return identity

    def _key(self, row: sa.RowMapping) -> PrivateKey:
        label, envelope = row["token_label"], row["key_envelope"]
        if label is not None:
            if self._token_key is None:
                detail = "the key is in a token, and none is configured"
                raise DirectError(Reason.CONFIGURATION_INVALID, detail)
            return self._token_key(label)
        context = row["id"].bytes
        with suppress(DirectError):
            return SoftwareKey(open_any(envelope, self._known, context=context))
        self._known = self._keks()
        return SoftwareKey(open_any(envelope, self._known, context=context))


def _both(*conditions: sa.ColumnElement[bool]) -> _Asked:
    whole = SELECT.where(*conditions).order_by(
        own_identity.c.kind, own_identity.c.not_before.desc()
    )
    return _Asked(whole.with_only_columns(own_identity.c.id, own_identity.c.kind), whole)


def _signing(table: Any, now: Any) -> _Asked:
    return _both(
        table.subject.in_((sa.bindparam("the_key"), sa.bindparam("the_domain"))),
        table.signs,
        table.not_before <= now,
        table.not_after >= now,
        sa.or_(table.retired_at.is_(None), table.retired_at > now),
        sa.or_(table.sign_from.is_(None), table.sign_from <= now),
        sa.or_(table.sign_until.is_(None), table.sign_until > now),
    )


@cache
def _decrypting(subjects: int) -> _Asked:
    """Return the question of every message to so many addresses and domains."""
    table = own_identity.c
    names = [sa.bindparam(f"name{n}", type_=sa.String) for n in range(subjects)]
    kept = table.retired_at > sa.bindparam("since", type_=UtcDateTime)
    return _both(table.subject.in_(names), table.decrypts, sa.or_(table.retired_at.is_(None), kept))


_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SIGNING: Final = _signing(own_identity.c, sa.bindparam("now", type_=UtcDateTime))
