"""Let one transaction at a time pass a point, on every database.

Talks to the database through the connection it is handed.

SQLite has one writer at a time anyway. On PostgreSQL two transactions can both look for something,
both find nothing and both write it; the lock makes the second look again after the first is done.
"""

from __future__ import annotations

import hashlib
from typing import Final

import sqlalchemy as sa

__all__ = ["lock"]


def lock(connection: sa.Connection, name: str) -> None:
    """Wait until no other transaction holds the lock `name`, and hold it to this one's end."""
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        connection.execute(_LOCK, {"number": number})


# The type is told because the driver would take a small number for another type.
_LOCK: Final = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number", type_=sa.BigInteger)))
