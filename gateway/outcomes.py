"""What the steps of the pipeline write, each within the transaction that ends its job.

Talks to the database through the connection it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.issuers import sha256_of
from certs.ports import Database
from gateway import audit, capabilities, mdn, messages, progress, spool
from gateway.held import is_any_paused
from gateway.judgement import Judgement, Opened
from gateway.messages import Kind, Message, MessageState, NewMessage, Source
from gateway.ports import StoredBody
from gateway.progress import Change
from gateway.queue import Job, NewJob
from gateway.queue_control import GIVE_UP
from gateway.recipients import Recipient, recipients_of, set_recipient
from gateway.tracking import Event, State
from gateway.unsealed import Algorithms
from trust_bundles.decision import Decision, Verdict

__all__ = [
    "Sealed",
    "Task",
    "evidence_of",
    "expired",
    "give_up",
    "load",
    "must_go_on",
    "put_off",
    "refuse",
    "send",
    "send_on",
    "take_in",
    "task_of",
    "too_big",
    "undecided",
    "without_key",
]


@dataclass(frozen=True, slots=True)
class Task:
    """A job's message and its recipients, in the order of the envelope."""

    message: Message
    recipients: tuple[Recipient, ...]

    @property
    def author(self) -> DirectAddress:
        """The author; known of every message that is to go out."""
        if self.message.author is None:
            raise DirectError(Reason.INTERNAL, "an outgoing message without an author")
        return self.message.author

    @property
    def body_key(self) -> str:
        """Where the message lies as it came in."""
        if self.message.body_key is None:
            raise DirectError(Reason.INTERNAL, "the body is no longer kept")
        return self.message.body_key

    @property
    def waiting(self) -> tuple[DirectAddress, ...]:
        """The recipients of a received message on whom nothing is decided yet."""
        return tuple(r.address for r in self.recipients if r.state == State.QUEUED.value)

    @property
    def addresses(self) -> tuple[DirectAddress, ...]:
        """The recipients' addresses."""
        return tuple(recipient.address for recipient in self.recipients)


@dataclass(frozen=True, slots=True)
class Sealed:
    """One sealed copy: where it goes, for whom, and what it was made with."""

    domain: str
    recipients: tuple[Decision, ...]
    body: StoredBody
    algorithms: Algorithms


def load(connection: Connection, job: Job) -> Task:
    """Return the message that `job` is about.

    Raises:
        DirectError: INTERNAL; there is none.
    """
    identifier = UUID(job.payload["message"])
    message = messages.get(connection, identifier)
    if message is None:
        raise DirectError(Reason.INTERNAL, f"no message {identifier}")
    return Task(message, tuple(recipients_of(connection, identifier)))


async def task_of(database: Database, job: Job) -> Task:
    """Return the message that `job` is about, and do not ask for what is known already.

    Raises:
        DirectError: as `load`.
    """
    if isinstance(job.known, Task):
        return job.known
    return await database.read(lambda c: load(c, job))


def must_go_on(job: Job) -> None:
    """Return where `job` is to be done.

    Raises:
        DirectError: DELIVERY_EXPIRED; an administrator gave it up.
    """
    if job.payload.get(GIVE_UP):
        raise DirectError(Reason.DELIVERY_EXPIRED, "given up by an administrator")


def send_on(
    connection: Connection,
    message: Message,
    copies: Sequence[Sealed],
    *,
    now: datetime,
) -> None:
    """Record each sealed copy and for whom it is."""
    for copy in copies:
        spool.record(connection, copy.body, now)
        for decision in copy.recipients:
            set_recipient(
                connection,
                message.id,
                decision.address,
                state=State.QUEUED.value,
                was=State.QUEUED.value,
                now=now,
                sealed=copy.body,
            )
    if copies:
        # Earlier tries sealed for others.
        before = dict(message.evidence or {}).get("recipients", {})
        messages.set_outcome(
            connection,
            message.id,
            state=MessageState.PROCESSING,
            now=now,
            evidence={
                "algorithms": _algorithms(copies[0].algorithms),
                "recipients": {
                    **before,
                    **{
                        decision.address.key: [
                            _encrypted_to(v, copy.algorithms)
                            for v in decision.verdicts
                            if v.reason is None
                        ]
                        for copy in copies
                        for decision in copy.recipients
                    },
                },
            },
        )
    if message.source is Source.FHIR and is_any_paused(connection, [c.domain for c in copies]):
        progress.announce(connection, message, now)


def put_off(
    connection: Connection,
    message: Message,
    decisions: Sequence[Decision],
    *,
    now: datetime,
) -> None:
    """Note why these recipients wait; they stay queued, and their window runs (R-006)."""
    for decision in decisions:
        set_recipient(
            connection,
            message.id,
            decision.address,
            state=State.QUEUED.value,
            was=State.QUEUED.value,
            now=now,
            reason=decision.reason,
            detail=decision.detail,
        )


def give_up(
    connection: Connection,
    message: Message,
    decisions: Sequence[Decision],
    *,
    now: datetime,
) -> None:
    """Fail these recipients at once (DN-019); the others still go out (AS-062)."""
    changes = [
        Change(
            decision.address,
            Event.GAVE_UP if decision.reason is Reason.DELIVERY_EXPIRED else Event.REFUSED,
            decision.reason,
            decision.detail,
        )
        for decision in decisions
    ]
    progress.advance(connection, message, changes, now=now)


def take_in(
    connection: Connection,
    task: Task,
    opened: Opened,
    judgement: Judgement,
    content: StoredBody,
    *,
    now: datetime,
    kind: Kind | None = None,
    parent: UUID | None = None,
) -> None:
    """Record an accepted message; recipients that do not trust it do not get it (AS-074).

    Recipients without a decision wait for the next try, which finds `content` recorded.
    """
    facts = opened.facts
    messages.set_outcome(
        connection,
        task.message.id,
        state=MessageState.FINISHED,
        now=now,
        evidence=evidence_of(opened, judgement),
        content=content if task.message.content_key is None else None,
        kind=kind,
        author=facts.author,
        message_id_header=messages.kept_id(facts.message_id),
        wants_dispatched=mdn.wants_dispatched(facts.notification_options),
        parent=parent,
    )
    signer = judgement.deciding
    for one in opened.unsealed.signers:
        if signer is not None and one.certificate == signer.certificate:
            capabilities.remember(connection, facts.author, one.capabilities, now)
    for address, decision in judgement.decisions.items():
        set_recipient(
            connection,
            task.message.id,
            address,
            state=State.PROCESSED.value if decision.reason is None else "refused",
            now=now,
            reason=decision.reason,
            detail=decision.detail,
        )
    audit.record(
        connection,
        now=now,
        actor="agent",
        action="message-trusted",
        subject=str(task.message.id),
        outcome="accepted",
    )


def send(connection: Connection, new: NewMessage, now: datetime) -> None:
    """Accept a message of our own making, to go out as any other does (AS-040)."""
    job = NewJob("outgoing", {"message": str(new.id)}, now)
    messages.accept(connection, new, [job], now)


def refuse(
    connection: Connection,
    task: Task,
    error: DirectError,
    *,
    now: datetime,
    opened: Opened | None = None,
    judgement: Judgement | None = None,
) -> None:
    """Keep a received message as evidence, with its reason and without an answer (AS-077).

    Recipients that have it already, from an earlier try, keep it.
    """
    for address in task.waiting:
        set_recipient(
            connection,
            task.message.id,
            address,
            state="refused",
            now=now,
            reason=error.reason,
            detail=error.detail,
        )
    if task.message.content_key is None:
        messages.set_outcome(
            connection,
            task.message.id,
            state=MessageState.REFUSED,
            now=now,
            reason=error.reason,
            detail=error.detail,
            author=opened.facts.author if opened else None,
            message_id_header=messages.kept_id(opened.facts.message_id) if opened else None,
            evidence=evidence_of(opened, judgement) if opened else None,
        )
    audit.record(
        connection,
        now=now,
        actor="agent",
        action="message-refused",
        subject=str(task.message.id),
        outcome=error.reason.code,
    )


def evidence_of(opened: Opened, judgement: Judgement | None) -> dict[str, Any]:
    """Return what is kept about how a received message was secured, and by whom."""
    verdict = judgement.deciding if judgement else None
    signer = verdict.certificate if verdict else opened.unsealed.signers[0].certificate
    return {
        "wrapped": opened.unsealed.wrapped,
        "algorithms": _algorithms(opened.unsealed.algorithms),
        "signer": {
            "subject": signer.subject.rfc4514_string(),
            "sha256": sha256_of(signer).hex(),
            "binding": verdict.binding.value if verdict and verdict.binding else None,
        },
        "anchor": sha256_of(verdict.anchor).hex() if verdict and verdict.anchor else None,
        "revocation": verdict.revocation.value if verdict and verdict.revocation else None,
    }


def undecided(address: DirectAddress, error: DirectError) -> Decision:
    """Return what `error`, which spoils the whole message, means for one recipient."""
    return Decision(address, (), (), error.reason, error.detail)


def too_big(decision: Decision) -> Decision:
    """Return `decision` turned down: sealed, the message is larger than the peer's domain takes."""
    detail = "the sealed message is too large for the recipient's domain"
    return replace(decision, certificates=(), reason=Reason.MESSAGE_TOO_BIG, detail=detail)


def without_key(decision: Decision) -> Decision:
    """Return `decision` turned down: the author has no key to sign with (AS-060)."""
    detail = "no valid signing certificate for the sender"
    return replace(decision, certificates=(), reason=Reason.SENDER_NOT_ALLOWED, detail=detail)


def expired(decision: Decision) -> Decision:
    """Return `decision` made final: it could not be decided in all the time there was."""
    return replace(decision, reason=Reason.DELIVERY_EXPIRED)


def _encrypted_to(verdict: Verdict, algorithms: Algorithms) -> dict[str, str | None]:
    return {
        "subject": verdict.certificate.subject.rfc4514_string(),
        "sha256": sha256_of(verdict.certificate).hex(),
        "binding": verdict.binding.value if verdict.binding else None,
        "level": verdict.level.value,
        "anchor": sha256_of(verdict.anchor).hex() if verdict.anchor else None,
        "content_encryption": algorithms.content_encryption,
        "key_transport": algorithms.key_transport,
    }


def _algorithms(algorithms: Algorithms) -> dict[str, str]:
    return {
        "digest": algorithms.digest,
        "signature": algorithms.signature,
        "content_encryption": algorithms.content_encryption,
        "key_transport": algorithms.key_transport,
    }
