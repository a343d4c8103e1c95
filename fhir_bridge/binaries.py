"""Binaries as they are kept: stretches of stored bodies.

Store functions: plain synchronous SQL on the caller's connection; they never commit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from certs.ids import new_id
from fhir_bridge.binary_rows import BinaryRow
from fhir_bridge.tables import fhir_binary

__all__ = ["add_binaries", "attach", "find_binary"]


def add_binaries(connection: sa.Connection, rows: Iterable[BinaryRow], now: datetime) -> None:
    """Store `rows`; the bodies they point to are recorded by the caller."""
    values = [{**{name: getattr(row, name) for name in _NAMES}, "created_at": now} for row in rows]
    if values:
        connection.execute(_ADD, values)


def find_binary(
    connection: sa.Connection, identity: UUID, owners: Collection[str]
) -> BinaryRow | None:
    """Return the Binary; None where it is not theirs to see."""
    row = connection.execute(
        sa.select(fhir_binary).where(fhir_binary.c.id == identity, fhir_binary.c.owner.in_(owners))
    ).one_or_none()
    return _row(row) if row else None


def attach(
    connection: sa.Connection, row: BinaryRow, *, communication: UUID, owner: str, now: datetime
) -> BinaryRow:
    """Make `row` part of a Communication of mailbox `owner`; return the Binary to refer to.

    That is a second Binary over the same octets where the first belongs elsewhere already.
    """
    # Another message may have taken it since it was looked at.
    taken = fhir_binary.update().where(
        fhir_binary.c.id == row.id, fhir_binary.c.communication_id.is_(None)
    )
    values = {"communication_id": communication, "owner": owner}
    if row.communication_id is None and connection.execute(taken.values(**values)).rowcount:
        return row
    present = sa.select(fhir_binary.c.owner).where(fhir_binary.c.id == row.id)
    if connection.execute(present).scalar() == owner:
        return row
    copy = replace(row, id=new_id(now), communication_id=communication, owner=owner)
    add_binaries(connection, [copy], now)
    return copy


def _row(row: sa.Row[Any]) -> BinaryRow:
    values = row._asdict()
    del values["created_at"]
    return BinaryRow(**values)


_ADD: Final = fhir_binary.insert()
_NAMES: Final = tuple(field.name for field in fields(BinaryRow))
