"""One gateway's agent, without sockets: the real database, spool, trust and cryptography.

What is around it is held in dicts: the certificates that discovery finds, our keys, the peers'
SMTP servers. Time stands still until a test moves it. `Agent.run` works off the queue.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress, parse_address
from certs.errors import Reason
from certs.evidence import Evidence, Found, Level
from certs.identity import Identity
from certs.ids import new_id
from certs.policy import CertificatePolicy
from fhir_bridge.tables import fhir_resource
from fhir_bridge.terms import Terms
from gateway import domains, messages, queue, smime
from gateway.acceptance import NO_PEERS, SmtpReception, first_job
from gateway.database import SqlDatabase
from gateway.edge_delivery import EdgeDelivery
from gateway.fhir_ports import FhirBodies, FhirOutbox
from gateway.inbox import Inbox
from gateway.mdn import Disposition, Seen
from gateway.messages import Direction, Kind, Message, NewMessage, Source
from gateway.metrics import Metrics
from gateway.notices import Notices
from gateway.notify import Wish
from gateway.peers import Peers as KnownPeers
from gateway.pipeline import Pipeline
from gateway.ports import Attempt, Delivery, Envelope, Role, Session
from gateway.queue import Job
from gateway.recipients import Recipient, recipients_of
from gateway.results import Done, Failed, Result, Retry
from gateway.retry import next_attempt
from gateway.sealer import Sealer
from gateway.spool import SpoolBodies
from gateway.transmission import Transmission
from gateway.trust import Trust
from gateway.worker import Handler
from tests.helpers.pki import NOW, Ca
from tests.helpers.places import FixedPlaces
from trust_bundles import store
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Direction as Way
from trust_bundles.verdicts import VerdictCache

__all__ = [
    "BACKBONE",
    "CHEN",
    "DAY",
    "DESK",
    "EDGE",
    "GP",
    "HOSTNAME",
    "NURSE",
    "RELAY",
    "RIVERA",
    "WANTS_DISPATCHED",
    "WINDOW",
    "Agent",
    "Clock",
    "Sent",
    "identity",
    "mail",
    "open_agent",
    "our_ca",
    "peer_ca",
    "retry_at",
    "seal",
]

HOSTNAME = "gw.hillside.example"
RIVERA = parse_address("dr.rivera@direct.hillside.example")
DESK = parse_address("frontdesk@direct.hillside.example")
CHEN = parse_address("dr.chen@direct.lakeview.example")
NURSE = parse_address("nurse@direct.lakeview.example")
GP = parse_address("gp@direct.oakdale.example")
WINDOW = timedelta(hours=1)
RELAY = timedelta(minutes=45)
DAY = timedelta(days=1)
EDGE = Session(Role.EDGE, "192.0.2.7", "ehr", "TLSv1.3", "ehr")
BACKBONE = Session(Role.BACKBONE, "192.0.2.8", "peer", None, None)
WANTS_DISPATCHED = (
    "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"
)


@cache
def our_ca() -> Ca:
    return Ca.create("Hillside CA")


@cache
def peer_ca() -> Ca:
    return Ca.create("Lakeview CA")


@cache
def identity(address: DirectAddress) -> Identity:
    """The address-bound identity of one of ours or of a peer."""
    ca = our_ca() if address.domain == RIVERA.domain else peer_ca()
    return ca.issue(address=str(address))


def mail(
    sender: DirectAddress,
    *recipients: DirectAddress,
    message_id: str | None = "<1@hillside.example>",
    more: Sequence[str] = (),
    body: str = "Please see the patient.",
) -> bytes:
    """A plain message, lines ended by CRLF; `more` are header fields."""
    lines = [
        f"From: {sender}",
        f"To: {', '.join(map(str, recipients))}",
        *([f"Message-ID: {message_id}"] if message_id else []),
        "Date: Fri, 02 Jan 2026 12:00:00 +0000",
        "Subject: Referral of Jane Roe",
        *more,
        "",
        body,
        "",
    ]
    return "\r\n".join(lines).encode()


def seal(message: bytes, signer: Identity, *recipients: DirectAddress) -> bytes:
    """`message` as a peer's STA sends it."""
    out = io.BytesIO()
    smime.seal(
        io.BytesIO(message),
        out,
        outer=b"MIME-Version: 1.0\r\n",
        signers=[signer],
        recipients=[identity(recipient).certificate for recipient in recipients],
        boundary="peer-7f3a",
        now=NOW,
    )
    return out.getvalue()


@dataclass
class Clock:
    """Stands still."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Discovery:
    """The certificates that DNS and LDAP have, by address; `failing` look-ups fail for now."""

    published: dict[DirectAddress, Sequence[Identity]] = field(default_factory=dict)
    level: Level = Level.DNS_ADDRESS
    failing: set[DirectAddress] = field(default_factory=set)
    asked: list[DirectAddress] = field(default_factory=list)

    async def evidence_for(self, address: DirectAddress) -> Evidence:
        self.asked.append(address)
        if address in self.failing:
            return Evidence(address, (), failure=Reason.DIRECTORY_UNAVAILABLE)
        found = self.published.get(address, ())
        return Evidence(address, tuple(Found(i.certificate, self.level) for i in found))

    async def complete(
        self, evidence: Evidence, anchors: Anchors, *, now: datetime, policy: CertificatePolicy
    ) -> Evidence:
        return evidence


@dataclass
class OurKeys:
    """Our identities, by address."""

    held: dict[DirectAddress, Identity] = field(default_factory=dict)

    async def signing(self, address: DirectAddress, now: datetime) -> Sequence[Identity]:
        return [self.held[address]] if address in self.held else []

    async def decrypting(self, addresses: Sequence[DirectAddress]) -> Sequence[Identity]:
        return [self.held[address] for address in addresses if address in self.held]


@dataclass(frozen=True)
class Sent:
    """What a peer's SMTP server took or refused."""

    domain: str
    sender: DirectAddress | None
    recipients: tuple[DirectAddress, ...]
    content: bytes
    size: int

    def opened(self, *recipients: DirectAddress) -> bytes:
        """The inner message, as those recipients' HISP reads it."""
        out = io.BytesIO()
        identities = [identity(recipient) for recipient in recipients]
        smime.unseal(io.BytesIO(self.content), out, identities=identities)
        return out.getvalue()


OK = (None, "2.0.0", "Accepted")
DEFAULT_POLICY = CertificatePolicy()


@dataclass
class Peers:
    """SMTP servers that take everything, but for what `replies` says of a recipient."""

    replies: dict[DirectAddress, tuple[Reason | None, str, str]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    meanwhile: Callable[[], object] | None = None

    async def send(
        self,
        *,
        domain: str,
        sender: DirectAddress | None,
        recipients: Sequence[DirectAddress],
        message: BinaryIO,
        size: int,
    ) -> Delivery:
        self.sent.append(Sent(domain, sender, tuple(recipients), message.read(), size))
        if self.meanwhile is not None:
            self.meanwhile()
        attempts = tuple(Attempt(r, *self.replies.get(r, OK)) for r in recipients)
        return Delivery(attempts, f"mx.{domain}", "TLSv1.3", False)


def retry_at(attempts: int, accepted_at: datetime, now: datetime) -> datetime | None:
    """Try again after ten minutes, for a day."""
    return now + timedelta(minutes=10) if now < accepted_at + DAY else None


@dataclass
class Agent:
    """The handlers of one gateway and what is around them."""

    database: SqlDatabase
    spool: Path
    bodies: SpoolBodies
    clock: Clock
    discovery: Discovery
    keys: OurKeys
    peers: Peers
    mail_servers: set[DirectAddress]
    reception: SmtpReception
    outbox: FhirOutbox
    fhir_bodies: FhirBodies
    notices: Notices
    pipeline: Pipeline
    transmission: Transmission
    edge: EdgeDelivery
    woken: list[None]
    metrics: Metrics

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "outgoing": self.pipeline.outgoing,
            "incoming": self.pipeline.incoming,
            "deliver": self.transmission.deliver,
            "report": self.edge.report,
            "delayed": self.edge.delayed,
            "confirm": self.edge.confirm,
            "relay": self.edge.relay,
        }

    async def accept(
        self,
        session: Session,
        content: bytes,
        sender: DirectAddress | None,
        *recipients: DirectAddress,
        wishes: Mapping[DirectAddress, Wish] | None = None,
    ) -> UUID:
        """Hand a message to the reception, as a listener does."""
        sink = self.reception.sink()
        sink.write(content)
        envelope = Envelope(sender, recipients, wishes=wishes or {})
        return await self.reception.accept(session, envelope, sink)

    async def submit(
        self,
        content: bytes,
        *recipients: DirectAddress,
        sender: DirectAddress = RIVERA,
        wishes: Mapping[DirectAddress, Wish] | None = None,
    ) -> UUID:
        """Accept a message at the mail edge."""
        return await self.accept(EDGE, content, sender, *recipients, wishes=wishes)

    async def receive(
        self,
        content: bytes,
        *recipients: DirectAddress,
        sender: DirectAddress | None = CHEN,
        signer: Identity | None = None,
    ) -> UUID:
        """Accept a message from the backbone, sealed by `signer` (the sender's, unless told)."""
        by = signer or identity(sender or CHEN)
        sealed = seal(content, by, *recipients)
        return await self.accept(BACKBONE, sealed, sender, *recipients)

    async def run(self, *kinds: str) -> list[tuple[str, Result]]:
        """Do the jobs that are due, of these kinds or of all, and those that come of them."""
        done: list[tuple[str, Result]] = []
        while claimed := await self.database.write(partial(self._claim, kinds=kinds)):
            for job in claimed:
                result = await self.handlers[job.kind](job)
                await self.database.write(
                    partial(_settle, job=job, result=result, now=self.clock())
                )
                done.append((job.kind, result))
        return done

    def _claim(self, connection: sa.Connection, kinds: Sequence[str]) -> Sequence[Job]:
        some = tuple(kinds or self.handlers)
        return queue.claim(connection, now=self.clock(), lease_s=60, limit=10, kinds=some)

    async def jobs(self) -> list[Job]:
        return list(await self.database.read(partial(queue.list_jobs, limit=100)))

    async def message(self, identifier: UUID) -> Message:
        found = await self.database.read(partial(messages.get, message_id=identifier))
        assert found is not None
        return found

    async def rows(self, identifier: UUID) -> dict[DirectAddress, Recipient]:
        """The recipients of a message, by address."""
        rows = await self.database.read(partial(recipients_of, message_id=identifier))
        return {row.address: row for row in rows}

    async def states(self, identifier: UUID) -> dict[DirectAddress, str]:
        return {address: row.state for address, row in (await self.rows(identifier)).items()}

    async def listed(
        self, direction: Direction | None = None, kind: Kind | None = None
    ) -> list[Message]:
        """Messages, the oldest first."""
        found = await self.database.read(
            lambda c: messages.list_messages(c, limit=100, direction=direction)
        )
        return [m for m in reversed(found) if kind is None or m.kind is kind]

    async def inbox(self, identifier: UUID) -> dict[str, str]:
        """The FHIR resource that each reader has for a received message, as text."""
        query = sa.select(fhir_resource.c.owner, fhir_resource.c.body).where(
            fhir_resource.c.message_id == identifier, fhir_resource.c.type == "Communication"
        )
        rows = await self.database.read(lambda c: c.execute(query).all())
        return {row.owner: row.body for row in rows}

    async def resources(self, kind: str, mailbox: DirectAddress) -> list[dict[str, Any]]:
        """The FHIR resources of one type that belong to a mailbox."""
        query = sa.select(fhir_resource.c.body).where(
            fhir_resource.c.owner == mailbox.key, fhir_resource.c.type == kind
        )
        bodies = await self.database.read(lambda c: c.execute(query).scalars().all())
        return [json.loads(body) for body in bodies]

    async def put(self, content: bytes, *recipients: DirectAddress) -> UUID:
        """Queue a message of our user's that the reception has not judged."""
        sink = self.bodies.sink()
        sink.write(content)
        new = NewMessage(
            id=new_id(self.clock()),
            direction=Direction.OUTGOING,
            source=Source.EDGE,
            actor="edge:ehr",
            envelope_sender=RIVERA,
            author=RIVERA,
            recipients=recipients,
            body=await sink.finish(),
        )
        job = first_job("outgoing", new, self.clock())
        await self.database.write(lambda c: messages.accept(c, new, [job], self.clock()))
        return new.id

    async def body(self, key: str | None) -> bytes:
        assert key is not None
        async with self.bodies.open(key) as file:
            return file.read()

    async def mdn(
        self,
        disposition: Disposition | Seen,
        about: str,
        *,
        speaker: DirectAddress = CHEN,
        to: DirectAddress = RIVERA,
        recipient: DirectAddress | None = None,
        final_destination: bool = False,
        sender: DirectAddress | None = CHEN,
    ) -> UUID:
        """Receive and judge an MDN by `speaker` about `recipient`, who is the speaker itself."""
        report = _report(
            speaker,
            to,
            "disposition-notification",
            [
                "Reporting-UA: peer; test",
                f"Final-Recipient: rfc822;{recipient or speaker}",
                f"Original-Message-ID: {about}",
                f"Disposition: automatic-action/MDN-sent-automatically;{disposition.value}",
                *(["X-DIRECT-FINAL-DESTINATION-DELIVERY:"] if final_destination else []),
            ],
        )
        from_ = speaker if sender is not None else None
        received = await self.receive(report, to, sender=from_, signer=identity(speaker))
        await self.run("incoming")
        return received

    async def dsn(
        self, about: str, *failed: DirectAddress, speaker: DirectAddress, to: DirectAddress = RIVERA
    ) -> UUID:
        """Receive and judge a failure report by `speaker`."""
        fields = ["Reporting-MTA: dns; peer", f"X-Original-Message-ID: {about}"]
        for each in failed:
            group = [f"Final-Recipient: rfc822;{each}", "Action: failed", "Status: 5.1.1"]
            fields += ["", *group]
        report = _report(speaker, to, "delivery-status", fields)
        received = await self.receive(report, to, sender=speaker)
        await self.run("incoming")
        return received


def _report(
    speaker: DirectAddress, to: DirectAddress, report_type: str, fields: Sequence[str]
) -> bytes:
    _NUMBERS.append(None)
    return mail(
        speaker,
        to,
        message_id=f"<report-{len(_NUMBERS)}@lakeview.example>",
        more=[
            "MIME-Version: 1.0",
            f"Content-Type: multipart/report; report-type={report_type}; boundary=b",
        ],
        body="\r\n".join(
            [
                "--b",
                "Content-Type: text/plain",
                "",
                "For people.",
                "--b",
                f"Content-Type: message/{report_type}",
                "",
                *fields,
                "",
                "--b--",
            ]
        ),
    )


_NUMBERS: list[None] = []


@asynccontextmanager
async def open_agent(
    database: SqlDatabase,
    folder: Path,
    *,
    policy: CertificatePolicy = DEFAULT_POLICY,
    known: KnownPeers = NO_PEERS,
    shows_notices: bool = False,
) -> AsyncIterator[Agent]:
    """An agent of `direct.hillside.example` that trusts the peers' CA, and is trusted.

    `known` is what is configured of peers.
    """
    clock, discovery, keys, peers = Clock(), Discovery(), OurKeys(), Peers()
    mail_servers: set[DirectAddress] = set()
    bodies = SpoolBodies(database=database, folder=folder / "spool", clock=clock)
    places = FixedPlaces(mail_servers)
    inbox = Inbox(places=places, terms=Terms(), shows_notices=shows_notices)
    notices = Notices(bodies=bodies, hostname=HOSTNAME)
    metrics = Metrics()
    woken: list[None] = []

    def wake() -> None:
        woken.append(None)

    for address in (RIVERA, DESK):
        keys.held[address] = identity(address)
    for address in (CHEN, NURSE, GP):
        discovery.published[address] = [identity(address)]
    await database.write(_set_up)
    yield Agent(
        database=database,
        spool=folder / "spool",
        bodies=bodies,
        clock=clock,
        discovery=discovery,
        keys=keys,
        peers=peers,
        mail_servers=mail_servers,
        reception=SmtpReception(
            database=database, bodies=bodies, clock=clock, wake=wake, peers=known
        ),
        outbox=FhirOutbox(database=database, clock=clock, wake=wake, peers=known),
        fhir_bodies=FhirBodies(bodies=bodies, clock=clock),
        notices=notices,
        pipeline=Pipeline(
            database=database,
            bodies=bodies,
            directory=discovery,
            keys=keys,
            trust=Trust(
                database=database, completion=discovery, policy=policy, cache=VerdictCache()
            ),
            sealer=Sealer(database=database, bodies=bodies, hostname=HOSTNAME, peers=known),
            inbox=inbox,
            notices=notices,
            observer=metrics,
            clock=clock,
            retry_at=retry_at,
        ),
        transmission=Transmission(
            database=database,
            bodies=bodies,
            sender=peers,
            observer=metrics,
            clock=clock,
            retry_at=retry_at,
        ),
        edge=EdgeDelivery(
            database=database,
            bodies=bodies,
            sender=peers,
            inbox=inbox,
            notices=notices,
            clock=clock,
            retry_at=retry_at,
            answer_by=partial(next_attempt, jitter=0.5, patience=RELAY),
        ),
        woken=woken,
        metrics=metrics,
    )


def _set_up(connection: sa.Connection) -> None:
    domains.add_domain(connection, RIVERA.domain, NOW)
    for address in (RIVERA, DESK):
        domains.add_address(connection, address, NOW)
    domains.add_edge_user(connection, "ehr", _hashed_secret(), [RIVERA, DESK], NOW)
    store.add_anchor(
        connection,
        certificate=peer_ca().certificate,
        domain_or_address=RIVERA.domain,
        directions=frozenset(Way),
        now=NOW,
    )


@cache
def _hashed_secret() -> str:
    return domains.hash_password("secret")


def _settle(connection: sa.Connection, job: Job, result: Result, now: datetime) -> None:
    match result:
        case Done():
            queue.finish(connection, job)
        case Retry():
            queue.retry(connection, job, result.due_at, result.reason, result.detail)
        case _:
            queue.fail(connection, job, result.reason, result.detail)
    result.record(connection)
    for one in () if isinstance(result, Failed) else result.then:
        if one.wanted():
            queue.put(connection, one.job, now)
