"""A gateway's store alone, as a process that a test may kill or whose disk it may break.

`python -m tests.helpers.accepting FOLDER COUNT` accepts COUNT messages, some of them large, and
works off their jobs at the same time. It prints a line per thing that is durable, never before:
    accepted ID SHA256      the message is committed
    refused REASON          it is not; the peer hears 451
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from certs.address import parse_address
from certs.errors import DirectError
from certs.ids import new_id
from gateway import audit, messages
from gateway.database import SqlDatabase
from gateway.logs import log_to
from gateway.messages import Direction, MessageState, NewMessage, Source
from gateway.queue import Job, NewJob
from gateway.results import Done, Result
from gateway.spool import INLINE_OCTETS, SpoolBodies
from gateway.worker import Worker
from tests.helpers.database import open_sqlite

__all__ = ["Store", "clock", "content_of", "open_store"]

CALLERS = 4
_SENDER = parse_address("drjones@direct.hillside.example")
_RECIPIENTS = (
    parse_address("smith@direct.lakeview.example"),
    parse_address("brown@direct.lakeview.example"),
)


def clock() -> datetime:
    """The real time: this process is killed in the midst of it."""
    return datetime.fromtimestamp(time.time(), UTC)


def content_of(number: int) -> bytes:
    """Return the body of the `number`th message; every fourth goes into a file."""
    size = INLINE_OCTETS + 1000 if number % 4 == 3 else 10_000
    return hashlib.sha256(str(number).encode()).digest() * (size // 32)


class Store:
    """The database and the spool in one folder."""

    def __init__(self, database: SqlDatabase, folder: Path, tell: Callable[[str], None]) -> None:
        self.database = database
        self.bodies = SpoolBodies(database=database, folder=folder / "spool", clock=clock)
        self._tell = tell

    async def accept(self, number: int) -> UUID | None:
        """Accept one message as the listeners do; None where it was refused."""
        sink = self.bodies.sink()
        try:
            sink.write(content_of(number))
            body = await sink.finish()
            now = clock()
            new = NewMessage(
                id=new_id(now),
                direction=Direction.INCOMING,
                source=Source.BACKBONE,
                actor="peer",
                envelope_sender=_SENDER,
                recipients=_RECIPIENTS,
                body=body,
            )
            job = NewJob("incoming", {"message": str(new.id)}, now)
            await self.database.write(lambda c: messages.accept(c, new, [job], now))
        except DirectError as error:
            self._tell(f"refused {error.reason.code}: {error.detail}")
            return None
        finally:
            await sink.discard()
        self._tell(f"accepted {new.id} {body.sha256}")
        return new.id

    async def incoming(self, job: Job) -> Result:
        """Process one message: read it, and record that it is finished."""
        message_id = UUID(job.payload["message"])
        message = await self.database.read(lambda c: messages.get(c, message_id))
        if message is None or message.body_key is None:
            raise LookupError("a job without its message")
        async with self.bodies.open(message.body_key) as body:
            digest = hashlib.sha256(body.read()).hexdigest()

        def record(connection: sa.Connection) -> None:
            messages.set_outcome(
                connection,
                message_id,
                state=MessageState.FINISHED,
                now=clock(),
                evidence={"sha256": digest},
            )
            audit.record(
                connection,
                now=clock(),
                actor="worker",
                action="message-finished",
                subject=str(message_id),
                outcome="done",
            )

        return Done(record)

    def worker(self) -> Worker:
        """Return a worker on this store; its leases are short, as its life may be."""
        return Worker(
            database=self.database,
            handlers={"incoming": self.incoming},
            clock=clock,
            concurrency=CALLERS,
            lease_s=0.5,
            poll_s=0.05,
        )


@asynccontextmanager
async def open_store(folder: Path, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    """Open the store in `folder`, made where it is not there."""
    async with open_sqlite(folder) as database:
        yield Store(database, folder, tell)


async def main(folder: Path, count: int) -> None:
    """Accept and work off at once, until all that was accepted is done."""
    numbers = iter(range(count))

    async with open_store(folder, _tell) as store:
        worker = store.worker()
        working = asyncio.create_task(worker.run())

        async def caller() -> None:
            for number in numbers:
                await store.accept(number)
                worker.wake()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        worker.stop()
        await working


def _tell(line: str) -> None:
    # Not write(2): tests let that one fail.
    os.writev(sys.stdout.fileno(), [line.encode(), b"\n"])


if __name__ == "__main__":
    log_to(sys.stderr, "error")  # standard output is for what is durable
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
