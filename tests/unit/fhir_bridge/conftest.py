"""The FHIR API over a real SQLite database, with two small objects for its ports."""

from __future__ import annotations

import asyncio
import hashlib
import io
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from certs.address import DirectAddress, parse_address
from certs.errors import Reason
from certs.ids import new_id
from certs.ports import Database
from fhir_bridge.api import create_app
from fhir_bridge.clients import add_client
from fhir_bridge.delivery import RecipientState
from fhir_bridge.inbound import NoticeShown, Reading, view
from fhir_bridge.ports import Prospect, Submission
from fhir_bridge.records import delivery_changed, store_received
from fhir_bridge.scopes import ALL
from fhir_bridge.terms import InboundStatus, Terms
from fhir_bridge.trust import Trust
from gateway.database import SqlDatabase
from tests.helpers.database import open_sqlite

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
BASE = "https://gw.hillside.example/fhir/R4"
ANNA = "anna@direct.hillside.example"
BEN = "ben@direct.lakeview.example"
TERMS = Terms()
TRUST = Trust(
    status="trusted",
    signer="ab" * 32,
    binding="domain-bound",
    organization="Lakeview Hospital",
    anchor="cd" * 32,
    bundle=None,
    algorithms="sha256, aes256-cbc",
    checked=NOW,
    signed_at=NOW - timedelta(minutes=1),
    signature=b"the CMS",
)


@dataclass(frozen=True)
class MemoryBody:
    key: str
    size: int
    sha256: str
    octets: bytes


class MemorySink:
    def __init__(self, bodies: MemoryBodies) -> None:
        self._bodies = bodies
        self._buffer = io.BytesIO()

    @property
    def size(self) -> int:
        return self._buffer.tell()

    def write(self, data: bytes | memoryview, /) -> int:
        return self._buffer.write(data)

    async def finish(self) -> MemoryBody:
        octets = self._buffer.getvalue()
        return MemoryBody(new_id(NOW).hex, len(octets), hashlib.sha256(octets).hexdigest(), octets)

    async def discard(self) -> None:
        self._bodies.discarded += 1


class MemoryBodies:
    """Bodies in a dict: one can be opened only once it is recorded, as in the real store."""

    def __init__(self) -> None:
        self.recorded: dict[str, bytes] = {}
        self.discarded = 0

    def sink(self) -> MemorySink:
        return MemorySink(self)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[BinaryIO]:
        yield io.BytesIO(self.recorded[key])

    def record(self, connection: sa.Connection, body: Any) -> None:
        self.recorded[body.key] = body.octets

    def forget(self, connection: sa.Connection, key: str) -> None:
        del self.recorded[key]


class MemoryOutbox:
    """Keeps what was submitted; `decide` says what becomes of each recipient."""

    def __init__(self, database: Database, bodies: MemoryBodies) -> None:
        self._database = database
        self._bodies = bodies
        self.submissions: list[Submission] = []
        self.ids: list[UUID] = []
        self.codes: dict[str, tuple[str, Reason | None]] = {}

    async def submit(
        self, submission: Submission, record: Callable[[sa.Connection, UUID], None]
    ) -> UUID:
        every = (submission, *submission.copies)
        ids = [each.id or new_id(NOW) for each in every]

        def work(connection: sa.Connection) -> None:
            record(connection, ids[0])
            for each in every:
                self._bodies.record(connection, each.content)

        await self._database.write(work)
        self.submissions += every
        self.ids += ids
        return ids[0]

    async def settled(self, message: UUID, wait_s: float) -> None:
        states = [
            RecipientState(parse_address(address), code, NOW, reason)
            for address, (code, reason) in self.codes.items()
        ]
        await self._database.write(
            lambda c: delivery_changed(c, message=message, states=lambda: states, now=NOW)
        )

    def message(self, number: int = -1) -> bytes:
        return self._bodies.recorded[self.submissions[number].content.key]


class MemoryPreflight:
    """Knows what would become of a recipient; of others nothing is wrong."""

    def __init__(self) -> None:
        self.reasons: dict[str, Reason] = {}

    async def prospects(
        self, sender: DirectAddress, recipients: Sequence[DirectAddress]
    ) -> Sequence[Prospect]:
        return [
            Prospect(address, self.reasons[address.key])
            if address.key in self.reasons
            else Prospect(address, None, "domain-bound", "ab" * 32, NOW)
            for address in recipients
        ]


@dataclass
class MemoryDeliveries:
    """The job queue in memory: one job for each subscription, due at a time."""

    due: dict[UUID, datetime] = field(default_factory=dict)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, connection: sa.Connection, subscription: UUID, now: datetime) -> None:
        self.due.setdefault(subscription, now)

    def wake(self) -> None:
        self.woken.set()


@dataclass
class World:
    """One gateway's API and what lies behind it."""

    database: Database
    bodies: MemoryBodies
    outbox: MemoryOutbox
    http: httpx.AsyncClient
    preflight: MemoryPreflight
    deliveries: MemoryDeliveries = field(default_factory=MemoryDeliveries)
    tokens: dict[str, str] = field(default_factory=dict)
    now: datetime = NOW

    async def add_client(self, name: str, *addresses: str, scopes: str = ALL) -> dict[str, str]:
        """Return the headers of a new client, which may edit the directory too."""
        mailboxes = [parse_address(address) for address in addresses]
        token = await self.database.write(
            lambda c: add_client(c, name, mailboxes, NOW, scopes=scopes)
        )
        return {"authorization": f"Bearer {token}"}

    async def receive(
        self,
        message: bytes,
        *,
        mailbox: str = ANNA,
        trust: Trust = TRUST,
        at: datetime = NOW,
        status: InboundStatus = InboundStatus.COMPLETED,
        notice: NoticeShown | None = None,
        reading: Reading | None = None,
    ) -> UUID:
        key = new_id(NOW).hex
        self.bodies.recorded[key] = message
        received = view(
            io.BytesIO(message),
            message_uuid=new_id(NOW),
            mailbox=parse_address(mailbox),
            body_key=key,
            received_at=at,
            trust=trust,
            terms=TERMS,
            reading=reading or Reading(status=status),
            notice=notice,
        )
        return await self.database.write(lambda c: store_received(c, received, at))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated, empty SQLite file: migrating anew would take longer than most tests."""
    folder = tmp_path_factory.mktemp("fhir")

    async def migrate() -> None:
        async with open_sqlite(folder):
            pass

    asyncio.run(migrate())
    return folder / "gateway.db"


@pytest.fixture
async def sqlite_database(empty_database: Path, tmp_path: Path) -> AsyncIterator[Database]:
    shutil.copy(empty_database, tmp_path / "gateway.db")
    async with SqlDatabase.open(f"sqlite:///{tmp_path / 'gateway.db'}") as opened:
        yield opened


@pytest.fixture
async def world(sqlite_database: Database) -> AsyncIterator[World]:
    bodies = MemoryBodies()
    outbox = MemoryOutbox(sqlite_database, bodies)
    preflight = MemoryPreflight()
    deliveries = MemoryDeliveries()
    made: list[World] = []
    app = create_app(
        database=sqlite_database,
        bodies=bodies,
        outbox=outbox,
        clock=lambda: made[0].now,
        base_url=BASE,
        decision_wait_s=0,
        preflight=preflight,
        hook_hosts=["bot.example", "127.0.0.1:9"],
        deliveries=deliveries,
        resource_octets=2 * 1024 * 1024,
        binary_octets=2 * 1024 * 1024,
    )
    # An exception that no handler turns into an answer is a failure of the test.
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as http:
        world = World(sqlite_database, bodies, outbox, http, preflight, deliveries)
        made.append(world)
        http.headers.update(await world.add_client("ehr", ANNA))
        yield world


def communication(**elements: Any) -> dict[str, Any]:
    """Return a Communication from Anna to Ben, to be sent."""
    return {
        "resourceType": "Communication",
        "status": "in-progress",
        "sender": {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{ANNA}"}},
        "recipient": [{"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{BEN}"}}],
        "topic": {"text": "Referral"},
        "payload": [{"contentString": "Please see attached."}],
        **elements,
    }
