"""Who a served gateway has to do with: its EHR, its application, and a HISP that answers it.

All of them are patient: what is not acknowledged they send again, as real ones do.
"""

from __future__ import annotations

import asyncio
import io
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import aiosmtplib
import dns.name
import dns.zone
import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs import keys
from certs.address import parse_address
from certs.identity import Identity
from gateway import mdn, smime
from gateway.bench_site import zones
from gateway.clock import utc_now
from gateway.database import SqlDatabase
from gateway.dns_responder import DnsResponder
from gateway.judgement import is_notice
from gateway.mdn import Disposition
from gateway.message import Facts, facts_of
from gateway.ports import BodySink, Envelope, Role, Session
from gateway.smtp_in import Listener
from gateway.smtp_limits import Limits
from tests.helpers.console import Installation
from tests.helpers.memory_reception import MemoryReception
from tests.helpers.stranger import Stranger, deliver
from tests.helpers.tls import server_context

__all__ = ["DOMAIN", "NOBODY", "PEER", "USER", "Hisp", "Neighbours", "neighbours"]

DOMAIN = "direct.lakeview.example"
USER = f"dr.chen@{DOMAIN}"
PEER = "user@peer.example"
NOBODY = "nobody@nowhere.example"  # has no certificate
AGAIN_S = 0.3
Relay: TypeAlias = Callable[[tuple[str, int]], AbstractContextManager[tuple[str, int]]]
# On loopback one client makes all the connections.
LIMITS = Limits(connections_per_ip=1000, connections_per_minute=1_000_000, messages=1_000_000)


class Hisp(MemoryReception):
    """Takes every message; opens it, and answers the first copy of one by a processed MDN."""

    def __init__(self, stranger: Stranger, identity: Identity) -> None:
        super().__init__(mailboxes=(PEER,))
        self._stranger = stranger
        self.identity = identity
        self.theirs: x509.Certificate | None = None
        self.target = ("127.0.0.1", 0)
        # By Message-ID: how many copies came, which MDNs came about it.
        self.copies: Counter[str] = Counter()
        self.answers: dict[str, set[tuple[Disposition, str]]] = defaultdict(set)
        self.sizes: Counter[str] = Counter()
        self.signed_by: dict[str, list[x509.Certificate]] = {}
        self._arrived = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()
        self._listener: Listener | None = None
        self._port = 0

    async def start(self) -> int:
        """Listen, where it listened before if it did, and return the port."""
        listener = Listener(
            role=Role.BACKBONE,
            reception=self,
            hostname="mx.peer.example",
            tls=server_context("mx.peer.example"),
            limits=LIMITS,
        )
        _, self._port = await listener.start("127.0.0.1", self._port)
        self._listener = listener
        return self._port

    async def stop(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            await self._listener.stop(5)

    async def accept(self, session: Session, envelope: Envelope, content: BodySink) -> UUID:
        accepted = await super().accept(session, envelope, content)
        sealed = self.accepted.pop().content
        facts, clear = await asyncio.to_thread(self._open, sealed)
        if is_notice(facts):
            notice = mdn.parse(io.BytesIO(clear))
            assert notice.disposition is not None
            about = str(notice.original_message_id)
            self.answers[about].add((notice.disposition, str(facts.message_id)))
        else:
            self.copies[str(facts.message_id)] += 1
            self._arrived.set()
            self.sizes[str(facts.message_id)] = len(clear)
            if self.copies[str(facts.message_id)] == 1:
                self._start(self._answer(facts))
        return accepted

    async def until(self, copies: int) -> None:
        """Return when so many messages, copies counted, have come in all."""
        while self.copies.total() < copies:
            self._arrived.clear()
            await self._arrived.wait()

    def seal(self, clear: bytes) -> bytes:
        assert self.theirs is not None
        return self._stranger.seal(clear, self.identity, self.theirs)

    async def send(self, sealed: bytes) -> None:
        """Send until it is acknowledged."""
        while True:
            try:
                await deliver(self.target, PEER, USER, sealed)
                break
            except (aiosmtplib.SMTPException, OSError):
                await asyncio.sleep(AGAIN_S)

    async def deliver_to(self, recipient: str, message_id: str) -> None:
        """Try once to deliver to another address than our user's."""
        sealed = self.seal(_mail(PEER, [recipient], message_id, 1000))
        await deliver(self.target, PEER, recipient, sealed)

    def repeated(self, message_ids: Sequence[str]) -> int:
        """How many of these came more than once."""
        return sum(self.copies[message_id] > 1 for message_id in message_ids)

    async def end(self) -> None:
        """Stop listening and answering."""
        await self.stop()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def _open(self, sealed: bytes) -> tuple[Facts, bytes]:
        clear = io.BytesIO()
        unsealed = smime.unseal(io.BytesIO(sealed), clear, identities=[self.identity])
        facts = facts_of(io.BytesIO(clear.getvalue()))
        self.signed_by[str(facts.message_id)] = [one.certificate for one in unsealed.signers]
        return facts, clear.getvalue()

    async def _answer(self, original: Facts) -> None:
        notice = mdn.build(
            disposition=Disposition.PROCESSED,
            original=original,
            recipient=parse_address(PEER),
            message_id=f"<mdn.{str(original.message_id).strip('<>')}>",
            boundary="mdn-of-the-peer",
            now=utc_now(),
            reporting_ua="peer.example; test",
        )
        await self.send(await asyncio.to_thread(self.seal, notice))


class Neighbours:
    """The EHR and the application of `here`, and the HISP beside it."""

    def __init__(
        self, here: Installation, password: str, token: str, hisp: Hisp, database: str = ""
    ) -> None:
        self.here = here
        self._database = database
        self.password = password
        self.hisp = hisp
        self._headers = {"Authorization": f"Bearer {token}"}

    @property
    def database_url(self) -> str:
        return self._database or f"sqlite:///{self.here.folder / 'data' / 'gateway.sqlite3'}"

    async def submit(self, message_id: str, recipients: Sequence[str], octets: int) -> None:
        """Submit a mail at the edge until it is acknowledged."""
        content = _mail(USER, recipients, message_id, octets)
        while True:
            try:
                async with aiosmtplib.SMTP(
                    hostname="127.0.0.1",
                    port=self.here.edge,
                    start_tls=True,
                    validate_certs=False,
                    username="ehr",
                    password=self.password,
                ) as client:
                    await client.sendmail(USER, recipients, content)
                break
            except (aiosmtplib.SMTPException, OSError):
                await asyncio.sleep(AGAIN_S)

    async def receive(self, message_id: str, octets: int) -> None:
        """Let the HISP send a message to our user until it is acknowledged."""
        await self.hisp.send(await self._sealed(message_id, octets))

    async def receive_once(self, message_id: str, octets: int) -> None:
        """Let the HISP send a message to our user, and raise what is answered to it."""
        await deliver(self.hisp.target, PEER, USER, await self._sealed(message_id, octets))

    async def _sealed(self, message_id: str, octets: int) -> bytes:
        return await asyncio.to_thread(self.hisp.seal, _mail(PEER, [USER], message_id, octets))

    async def create(self, text: str) -> str:
        """POST a Communication until one is created; return its Message-ID."""
        resource = {
            "resourceType": "Communication",
            "status": "in-progress",
            "sender": _reference(USER),
            "recipient": [_reference(PEER)],
            "payload": [{"contentString": text}],
        }
        while True:
            try:
                async with httpx.AsyncClient(timeout=20, verify=False) as http:
                    url = f"http://127.0.0.1:{self.here.fhir}/fhir/R4/Communication"
                    response = await http.post(url, json=resource, headers=self._headers)
                if response.status_code == 201:
                    return _message_id(response.json())
                assert response.status_code >= 500, response.text
            except httpx.HTTPError:
                pass
            await asyncio.sleep(AGAIN_S)

    async def inbox(self, message_id: str) -> list[dict[str, Any]]:
        """What the application finds under a Message-ID, its own and received."""
        async with httpx.AsyncClient(timeout=20, verify=False) as http:
            response = await http.get(
                f"http://127.0.0.1:{self.here.fhir}/fhir/R4/Communication",
                params={
                    "identifier": f"urn:ietf:rfc:3986|mid:{message_id.strip('<>')}",
                    "part-of:missing": "false",
                },
                headers=self._headers,
            )
        assert response.status_code == 200, response.text
        return [entry["resource"] for entry in response.json().get("entry", [])]


@asynccontextmanager
async def neighbours(
    folder: Path, *, database: str = "", relay: Relay | None = None
) -> AsyncIterator[Neighbours]:
    """Install a gateway in `folder`, not served yet, with all that it has to do with.

    `relay` runs a mail server on the way to the HISP, and yields where it listens.
    """
    now = utc_now()
    stranger = Stranger.create("Neighbour Root", now)
    hisp = Hisp(stranger, stranger.identity(domain=PEER.partition("@")[2]))
    known: dict[dns.name.Name, dns.zone.Zone] = dict(zones(hisp.identity.certificate))
    nowhere = "@ 3600 IN SOA ns hostmaster 1 1 1 1 60\n@ IN NS ns\n_ldap._tcp IN SRV 0 0 0 .\n"
    known[dns.name.from_text("nowhere.example")] = dns.zone.from_text(
        nowhere, origin="nowhere.example.", relativize=False
    )
    responder = DnsResponder(known)
    _, resolver = await responder.start()
    try:
        way = "127.0.0.1", await hisp.start()
        with relay(way) if relay else nullcontext(way) as route:
            made = await asyncio.to_thread(_install, folder, stranger, resolver, route, database)
            found = Neighbours(*made, hisp, database)
            async with SqlDatabase.open(found.database_url) as opened:
                [own] = await opened.read(keys.list_identities)
            hisp.theirs = own.certificate
            hisp.target = ("127.0.0.1", found.here.backbone)
            yield found
    finally:
        await hisp.end()
        await responder.stop()


def _install(
    folder: Path, stranger: Stranger, resolver: int, route: tuple[str, int], database: str
) -> tuple[Installation, str, str]:
    here = Installation.create(
        folder,
        f"gw.{DOMAIN}",
        f'[discovery]\nresolver = "127.0.0.1:{resolver}"\nprivate_addresses = true\n'
        f'[routes]\n"peer.example" = "{route[0]}:{route[1]}"\n',
        database=database,
    )
    anchor = folder / "anchor.pem"
    anchor.write_bytes(stranger.ca.certificate.public_bytes(Encoding.PEM))
    made = here.batch(
        ("domain", "add", DOMAIN),
        ("address", "add", USER),
        ("cert", "new", "--for", USER),
        ("anchor", "add", anchor, "--for", DOMAIN),
        ("user", "add", "ehr", "--address", USER),
        ("client", "add", "app", "--mailbox", USER),
    )
    assert {said.status for said in made} == {0}, made
    *_, user, client = made
    return here, user.output["password"], client.output["token"]


def _mail(sender: str, recipients: Sequence[str], message_id: str, octets: int) -> bytes:
    header = (
        f"From: {sender}\r\nTo: {', '.join(recipients)}\r\nMessage-ID: {message_id}\r\n"
        f"Date: {format_datetime(_day())}\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain\r\n\r\n"
    ).encode("ascii")
    return header + (b"x" * 70 + b"\r\n") * (octets // 72)


def _day() -> datetime:
    return utc_now().replace(hour=0, minute=0, second=0, microsecond=0)


def _reference(address: str) -> dict[str, Any]:
    return {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}}


def _message_id(communication: dict[str, Any]) -> str:
    values = (i["value"] for i in communication["identifier"])
    return next(f"<{v.removeprefix('mid:')}>" for v in values if v.startswith("mid:"))
