"""What was read, made as durable as what was written: before it is promised to anybody.

Talks to the database.

A read sees what is committed, and a commit is on the disk a moment later (`gateway.wal`). Whoever
is answered from a read alone, as if it were a write of its own, waits for that moment.
"""

from __future__ import annotations

from certs.ports import Database

__all__ = ["made_durable"]


async def made_durable(database: Database) -> None:
    """Return when all that was committed before is on the disk.

    Raises:
        DirectError: INTERNAL; it is not known to be.
    """
    await database.write(lambda _: None)
