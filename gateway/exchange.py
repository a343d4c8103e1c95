"""The main job, performed on a sandbox as its users would: by FHIR and by mail.

Talks HTTP and SMTP to the two HISPs, and reads their databases to tell what they did.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from time import perf_counter
from typing import Any, Final, TypeVar

import aiosmtplib
import httpx

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway import messages
from gateway.messages import Direction, Kind, Message
from gateway.recipients import recipients_of
from gateway.sandbox import Hisp, Sandbox
from gateway.timeline import timeline

__all__ = ["Fhir", "Step", "exchange"]

T = TypeVar("T")

WAIT_S: Final = 30.0
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the exchange. `took_ms` is in milliseconds; None where nothing was waited for."""

    who: str
    what: str
    details: tuple[str, ...]
    took_ms: float | None = None


async def exchange(sandbox: Sandbox, document: bytes) -> AsyncIterator[Step]:
    """Send `document` both ways and yield what happened, step by step.

    Raises:
        DirectError: INTERNAL; a step did not do what it must, or not in 30 seconds.
    """
    async with httpx.AsyncClient(timeout=WAIT_S) as http:
        hillside, lakeview = Fhir(http, sandbox.hillside), Fhir(http, sandbox.lakeview)
        async for step in _send_by_fhir(hillside, lakeview, document):
            yield step
        async for step in _send_by_mail(hillside, lakeview):
            yield step
        async for step in _answer(hillside, lakeview):
            yield step


class Fhir:
    """A FHIR client of one HISP."""

    def __init__(self, http: httpx.AsyncClient, hisp: Hisp) -> None:
        self.hisp = hisp
        self._http = http
        self._headers = {"Authorization": f"Bearer {hisp.token}"}

    async def create(self, resource: dict[str, Any]) -> dict[str, Any]:
        """POST `resource` and return it as the server has it."""
        url = f"{self.hisp.base_url}/{resource['resourceType']}"
        response = await self._http.post(url, json=resource, headers=self._headers)
        if response.status_code != 201:
            raise _failed(f"POST {resource['resourceType']}: {response.status_code}")
        return dict(response.json())

    async def search(self, **parameters: str) -> list[dict[str, Any]]:
        """Return the messages that match; thread headers carry no message."""
        url = f"{self.hisp.base_url}/Communication"
        wanted = {"part-of:missing": "false", **parameters}
        response = await self._http.get(url, params=wanted, headers=self._headers)
        if response.status_code != 200:
            raise _failed(f"search: {response.status_code}")
        return [entry["resource"] for entry in response.json().get("entry", [])]

    async def read(self, reference: str) -> dict[str, Any]:
        """GET the resource that `reference` names."""
        url = f"{self.hisp.base_url}/{reference}"
        response = await self._http.get(url, headers=self._headers)
        if response.status_code != 200:
            raise _failed(f"read {reference}: {response.status_code}")
        return dict(response.json())

    async def content(self, url: str) -> bytes:
        """Return the octets of a Binary."""
        absolute = url if "://" in url else f"{self.hisp.base_url}/{url}"
        response = await self._http.get(absolute, headers={**self._headers, "Accept": "*/*"})
        if response.status_code != 200:
            raise _failed(f"Binary: {response.status_code}")
        return response.content


async def _send_by_fhir(sender: Fhir, receiver: Fhir, document: bytes) -> AsyncIterator[Step]:
    author, recipient = sender.hisp.user, receiver.hisp.user
    start = perf_counter()
    sent = await sender.create(_communication(author, recipient, document))
    yield Step(
        f"application of {sender.hisp.name}",
        "POST Communication, with a text and a C-CDA",
        (
            f"{author} to {recipient}, document of {len(document)} octets",
            f"201 Communication/{sent['id']}, status {sent['status']}",
        ),
        _since(start),
    )
    out = await _message(sender.hisp, Direction.OUTGOING, Kind.MESSAGE, _mid(sent))
    yield _secured(sender.hisp, out)
    received = await _eventually(lambda: _find(receiver, sent), "the message's arrival")
    arrived = await _message(receiver.hisp, Direction.INCOMING, Kind.MESSAGE, _mid(sent))
    yield await _relayed(sender.hisp, out)
    yield _opened(receiver.hisp, arrived)
    final = await _eventually(lambda: _completed(sender, sent["id"]), "the processed MDN")
    yield await _notified(sender.hisp, receiver.hisp, out)
    start = perf_counter()
    [attachment] = [p["contentAttachment"] for p in received["payload"] if "contentAttachment" in p]
    octets = await receiver.content(attachment["url"])
    digest = hashlib.sha256(octets).hexdigest()
    if octets != document:
        raise _failed("the document that arrived is another")
    yield Step(
        f"application of {receiver.hisp.name}",
        "searches Communication, reads it, fetches the attachment",
        (f"{attachment['url']}: {len(octets)} octets, identical", f"SHA-256 {digest}"),
        _since(start),
    )
    yield Step(
        f"application of {sender.hisp.name}",
        "reads what became of its message",
        (f"Communication/{sent['id']}: {final['status']}", *_deliveries(final)),
    )


async def _send_by_mail(sender: Fhir, receiver: Fhir) -> AsyncIterator[Step]:
    hisp = sender.hisp
    host, port = hisp.listening.edge or ("", 0)
    mail = EmailMessage()
    mail["From"], mail["To"] = str(hisp.desk), str(receiver.hisp.desk)
    mail["Subject"] = "Appointment confirmed"
    mail["Message-ID"] = (
        f"<mail-{hashlib.sha256(hisp.token.encode()).hexdigest()[:16]}@{hisp.domain}>"
    )
    mail.set_content("The patient is expected on Monday at nine.\r\n")
    start = perf_counter()
    await aiosmtplib.send(
        mail,
        hostname=host,
        port=port,
        start_tls=True,
        validate_certs=False,
        username="ehr",
        password=hisp.password,
    )
    yield Step(
        f"EHR of {hisp.name}",
        "submits plain mail at the edge: SMTP AUTH over STARTTLS",
        (f"{hisp.desk} to {receiver.hisp.desk}",),
        _since(start),
    )
    start = perf_counter()
    identifier = f"mid:{str(mail['Message-ID']).strip('<>')}"
    received = await _eventually(lambda: _by_identifier(receiver, identifier), "the mail's arrival")
    yield Step(
        receiver.hisp.name,
        "has it in its FHIR inbox",
        (f"Communication/{received['id']}: {received['topic']['text']}",),
        _since(start),
    )


async def _answer(asker: Fhir, answerer: Fhir) -> AsyncIterator[Step]:
    [question] = await answerer.search(recipient=f"mailto:{answerer.hisp.user}")
    start = perf_counter()
    reply = _communication(answerer.hisp.user, asker.hisp.user, None)
    reply["inResponseTo"] = [{"reference": f"Communication/{question['id']}"}]
    reply["topic"] = {"text": f"Re: {question['topic']['text']}"}
    sent = await answerer.create(reply)
    yield Step(
        f"application of {answerer.hisp.name}",
        "answers: POST Communication with inResponseTo",
        (f"201 Communication/{sent['id']}",),
        _since(start),
    )
    start = perf_counter()
    received = await _eventually(lambda: _find(asker, sent), "the answer's arrival")
    answered = received["inResponseTo"][0]["reference"]
    original = await asker.read(answered)
    if _mid(original) != _mid(question):
        raise _failed("the answer answers another message")
    yield Step(
        f"application of {asker.hisp.name}",
        "finds the answer under its question",
        (
            f"In-Reply-To and References lead to {answered}",
            f"same thread: {received['partOf'][0]['reference']}",
        ),
        _since(start),
    )


def _communication(
    author: DirectAddress, recipient: DirectAddress, document: bytes | None
) -> dict[str, Any]:
    payload: list[dict[str, Any]] = [{"contentString": "Please see the attached summary."}]
    if document is not None:
        payload.append(
            {
                "contentAttachment": {
                    "contentType": "text/xml",
                    "title": "summary.xml",
                    "data": base64.b64encode(document).decode("ascii"),
                }
            }
        )
    return {
        "resourceType": "Communication",
        "status": "in-progress",
        "topic": {"text": "Referral of a patient"},
        "sender": _reference(author),
        "recipient": [_reference(recipient)],
        "payload": payload,
    }


def _reference(address: DirectAddress) -> dict[str, Any]:
    return {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}}


def _secured(hisp: Hisp, message: Message) -> Step:
    evidence = message.evidence or {}
    lines = [
        f"{address}: certificate {_short(one['sha256'])}, {one['binding']}, by {one['level']}, "
        f"trusted by anchor {_short(one['anchor'])}"
        for address, found in evidence.get("recipients", {}).items()
        for one in found
    ]
    return Step(
        hisp.name,
        "finds and trusts the recipient's certificate; wraps, signs, encrypts, queues",
        (*lines, _algorithms(evidence)),
    )


async def _relayed(hisp: Hisp, message: Message) -> Step:
    [recipient], events = await hisp.listening.database.read(
        lambda c: (recipients_of(c, message.id), timeline(c, message.id))
    )
    attempts = (e.detail for e in events if e.what == "delivery-attempted")
    return Step(
        hisp.name,
        "delivers by SMTP with STARTTLS to the other HISP's backbone listener",
        (f"{recipient.address}: {next(attempts, 'not recorded')}",),
        _between(message.received_at, recipient.relayed_at),
    )


def _opened(hisp: Hisp, message: Message) -> Step:
    evidence = message.evidence or {}
    signer = evidence["signer"]
    return Step(
        hisp.name,
        "stores, answers 250, decrypts, verifies, checks trust, unwraps, makes the Communication",
        (
            f"signer {signer['subject']}, certificate {_short(signer['sha256'])}, "
            f"{signer['binding']}, trusted by anchor {_short(evidence['anchor'])}",
            _algorithms(evidence),
        ),
        _between(message.received_at, message.finished_at),
    )


async def _notified(sender: Hisp, receiver: Hisp, message: Message) -> Step:
    [recipient] = await sender.listening.database.read(lambda c: recipients_of(c, message.id))
    return Step(
        receiver.name,
        "returns a signed and encrypted MDN, which the sender matches to its message",
        (f"{recipient.address}: {recipient.state}",),
        _between(message.received_at, recipient.processed_at),
    )


def _algorithms(evidence: Mapping[str, Any]) -> str:
    names = evidence["algorithms"]
    return (
        f"{names['signature']} with {names['digest']}, {names['content_encryption']}, "
        f"{names['key_transport']}"
    )


def _deliveries(communication: dict[str, Any]) -> list[str]:
    lines = []
    for recipient in communication["recipient"]:
        parts = {
            part["url"]: next(value for key, value in part.items() if key != "url")
            for extension in recipient.get("extension", [])
            if extension["url"].endswith("/delivery")
            for part in extension["extension"]
        }
        lines.append(f"{recipient['identifier']['value']}: {parts.get('code')}")
    return lines


async def _find(client: Fhir, sent: dict[str, Any]) -> dict[str, Any] | None:
    return await _by_identifier(client, _mid(sent))


async def _by_identifier(client: Fhir, identifier: str) -> dict[str, Any] | None:
    found = await client.search(identifier=f"urn:ietf:rfc:3986|{identifier}")
    return found[0] if found else None


async def _completed(client: Fhir, identity: str) -> dict[str, Any] | None:
    communication = await client.read(f"Communication/{identity}")
    if communication["status"] in ("not-done", "stopped"):
        raise _failed(f"the message ended as {communication['status']}")
    return communication if communication["status"] == "completed" else None


async def _message(hisp: Hisp, direction: Direction, kind: Kind, mid: str) -> Message:
    header = f"<{mid.removeprefix('mid:')}>"

    async def look() -> Message | None:
        found = await hisp.listening.database.read(
            lambda c: messages.list_messages(c, limit=50, direction=direction)
        )
        matching = (
            m for m in found if m.kind is kind and m.message_id_header == header and m.evidence
        )
        return next(matching, None)

    return await _eventually(look, f"the {direction.value} message")


async def _eventually(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    end = perf_counter() + WAIT_S
    while perf_counter() < end:
        if (found := await look()) is not None:
            return found
        await asyncio.sleep(POLL_S)
    raise _failed(f"{what} did not come in {WAIT_S:.0f} seconds")


def _mid(communication: dict[str, Any]) -> str:
    values = (i["value"] for i in communication["identifier"])
    return str(next(value for value in values if value.startswith("mid:")))


def _short(sha256: str | None) -> str:
    return (sha256 or "none")[:16]


def _since(start: float) -> float:
    return (perf_counter() - start) * 1000


def _between(start: datetime, end: datetime | None) -> float | None:
    return (end - start).total_seconds() * 1000 if end else None


def _failed(detail: str) -> DirectError:
    return DirectError(Reason.INTERNAL, detail)
