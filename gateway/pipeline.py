"""What happens to a message, in order. Every step is one line; read this file first.

Talks to the database, the body store, the directory and the keys through its ports. A method is
the handler of one kind of job: the message was committed before, and what comes of the job is
recorded in one transaction with the job's end.

Standards:
    AS  Applicability Statement v1.3, sections 2 (outgoing), 3 (notifications), 4 (trust)
    DN  Delivery Notification in Direct v1.0, section 1
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import BinaryIO, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.policy import CertificatePolicy, loosest
from certs.ports import Clock, Database
from fhir_bridge.inbound import NoticeShown
from gateway import messages, progress, spool
from gateway.answers import Answers
from gateway.inbox import Arrival, Inbox, store, trust_shown
from gateway.judgement import (
    Judgement,
    Opened,
    check_for_each,
    is_notice,
    open_message,
    signer_evidence,
)
from gateway.notices import Notices
from gateway.notification import learn, read_notice
from gateway.observer import Observer
from gateway.outcomes import (
    Sealed,
    Task,
    expired,
    give_up,
    must_go_on,
    put_off,
    refuse,
    send_on,
    take_in,
    task_of,
    too_big,
    undecided,
    without_key,
)
from gateway.ports import BodyStore, Directory, Envelope, Keys, RetryAt, StoredBody
from gateway.progress import Change
from gateway.queue import Job
from gateway.results import Done, Result, Retry
from gateway.scratch import scratch
from gateway.sealer import Sealer
from gateway.transmission import deliveries
from gateway.trust import Trust
from trust_bundles.decision import Decision

__all__ = ["Pipeline"]

COPY_OCTETS: Final = 256 * 1024

_log = structlog.get_logger(__name__)


class Pipeline:
    """The security and trust agent (STA) of the domains this HISP serves."""

    def __init__(
        self,
        *,
        database: Database,
        bodies: BodyStore,
        directory: Directory,
        keys: Keys,
        trust: Trust,
        sealer: Sealer,
        inbox: Inbox,
        notices: Notices,
        observer: Observer,
        clock: Clock,
        retry_at: RetryAt,
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._directory = directory
        self._keys = keys
        self._trust = trust
        self._sealer = sealer
        self._inbox = inbox
        self._notices = notices
        self._observer = observer
        self._clock = clock
        self._retry_at = retry_at

    async def outgoing(self, job: Job) -> Result:
        """Secure one accepted message; say of each recipient whether it is sent on."""
        now = self._clock()
        task = await task_of(self._database, job)  # (io)
        waiting = [r.address for r in task.recipients if r.state == "queued" and not r.body_key]
        try:
            must_go_on(job)
            decisions, sealed = await self._secured(task, waiting, now)  # (io)
        except DirectError as error:
            # What cannot be made ready for one recipient cannot for any.
            decisions, sealed = [undecided(address, error) for address in waiting], ()
        self._observer.decided("outgoing", [d.reason for d in decisions])
        later = [d for d in decisions if d.reason is not None and d.reason.retryable]
        failed = [d for d in decisions if d.reason is not None and not d.reason.retryable]
        due = self._retry_at(job.attempts, task.message.received_at, now) if later else None
        if due is None:
            failed, later = [*failed, *map(expired, later)], []

        def record(connection: Connection) -> None:
            send_on(connection, task.message, sealed, now=now)
            put_off(connection, task.message, later, now=now)
            give_up(connection, task.message, failed, now=now)
            progress.announce(connection, task.message, now)

        then = deliveries(task, sealed, now)
        if due is not None and later and later[0].reason is not None:
            return Retry(due, later[0].reason, later[0].detail or "", record, then=then)
        return Done(record, then)

    async def _secured(
        self, task: Task, waiting: Sequence[DirectAddress], now: datetime
    ) -> tuple[list[Decision], tuple[Sealed, ...]]:
        """Decide on each recipient, and seal for those who can read it and are trusted."""
        signers = await self._keys.signing(task.author, now)  # (io)
        evidence = await asyncio.gather(  # (io)
            *(self._directory.evidence_for(address) for address in waiting)
        )
        decisions = await self._trust.recipients(task.author, evidence, now)  # (io)
        if not signers:
            decisions = [without_key(decision) for decision in decisions]
        ready = [decision for decision in decisions if decision.reason is None]
        with self._observer.timed("seal"):
            sealed = await self._sealer.seal(task, ready, signers, now)  # (io)
        made = {copy.domain for copy in sealed}
        decisions = [
            decision if decision.reason or decision.address.domain in made else too_big(decision)
            for decision in decisions
        ]
        return decisions, sealed

    async def incoming(self, job: Job) -> Result:
        """Open one message from the backbone; deliver it to those of its recipients who trust."""
        now = self._clock()
        task = await task_of(self._database, job)  # (io)
        if not task.waiting:
            return Done()
        envelope = Envelope(task.message.envelope_sender, task.addresses)
        identities = await self._keys.decrypting(task.addresses)  # (io)
        opened: Opened | None = None
        judgement: Judgement | None = None
        with scratch() as inner:
            try:
                must_go_on(job)
                trusting = await self._trust.of(task.waiting, now)  # (io)
                opened = await self._open(task, inner, identities, trusting.policies)  # (io)
                refusals = check_for_each(opened, envelope, trusting.policies)
                believed = await self._trust.signer(signer_evidence(opened), trusting, now)  # (io)
                judgement = believed.without(refusals)
                judgement.require_one()
                self._observer.decided("incoming", [d.reason for d in judgement.decisions.values()])
                take = self._notice if is_notice(opened.facts) else self._delivery
                due = None
                if judgement.unsettled:
                    due = self._retry_at(job.attempts, task.message.received_at, now)
                if due is None:
                    return await take(task, opened, judgement, inner, now)  # (io)
                taken = await take(task, opened, judgement.settled, inner, now)  # (io)
                return _for_the_others(judgement, due, taken)
            except DirectError as error:
                self._observer.decided("incoming", [error.reason] * len(task.waiting))
                return self._refused(job, task, error, now, opened, judgement)

    async def _open(
        self,
        task: Task,
        inner: BinaryIO,
        identities: Sequence[Identity],
        policies: Mapping[DirectAddress, CertificatePolicy],
    ) -> Opened:
        policy = loosest(policies.values())
        async with self._bodies.open(task.body_key) as sealed:
            with self._observer.timed("open"):
                return await asyncio.to_thread(
                    open_message, sealed, inner, identities=identities, policy=policy
                )

    async def _delivery(
        self, task: Task, opened: Opened, judgement: Judgement, inner: BinaryIO, now: datetime
    ) -> Done:
        """Hand the inner message to the recipients that trust it; answer with MDNs (AS-076)."""
        facts, message = opened.facts, task.message
        content = await self._keep(task, inner)  # (io)
        entries = []
        for mailbox in judgement.accepted:
            arrival = _arrival(task, opened, judgement, content, mailbox, now)
            entries.append(await self._inbox.entry(arrival, inner, mailbox))  # (io)
        notices = [
            notice
            for entry in entries
            for notice in await self._notices.answers(facts, entry, now)  # (io)
            if message.envelope_sender is not None  # AS-091
        ]
        answers = Answers(notices, now)

        def record(connection: Connection) -> None:
            take_in(connection, task, opened, judgement, content, now=now)
            for entry in entries:
                store(connection, entry, now)
            answers.record(connection)

        return Done(record, answers.then)

    async def _notice(
        self, task: Task, opened: Opened, judgement: Judgement, inner: BinaryIO, now: datetime
    ) -> Done:
        """Learn from a trusted MDN or DSN; it is never answered (AS-079, AS-091)."""
        notice = await asyncio.to_thread(read_notice, inner, opened.facts)
        content = await self._keep(task, inner)  # (io)
        entries = []
        told = NoticeShown(notice.kind.value, notice.original_message_id)
        for mailbox in judgement.accepted if self._inbox.shows_notices else ():
            arrival = _arrival(task, opened, judgement, content, mailbox, now)
            entries.append(await self._inbox.notice(arrival, inner, mailbox, told))  # (io)

        def record(connection: Connection) -> None:
            parent, changes = learn(connection, notice, judgement.accepted, now=now)
            self._learnt(connection, task, parent, changes, now)
            take_in(
                connection,
                task,
                opened,
                judgement,
                content,
                now=now,
                kind=notice.kind,
                parent=parent,
            )
            for entry in filter(None, entries):
                store(connection, entry, now)

        return Done(record)

    def _learnt(
        self,
        connection: Connection,
        task: Task,
        parent: UUID | None,
        changes: Sequence[Change],
        now: datetime,
    ) -> None:
        """Tell the log and the metrics what a notice has changed."""
        events = [change.event.value for change in changes]
        _log.info("notice read", message=str(task.message.id), about=str(parent), changes=events)
        original = messages.get(connection, parent) if parent and changes else None
        if original is not None:
            for event in events:
                self._observer.heard(event, now - original.received_at)

    async def _keep(self, task: Task, inner: BinaryIO) -> StoredBody:
        """Make the judged message durable, as it is, unless an earlier try has."""
        key = task.message.content_key
        if key is not None:
            return await self._database.read(lambda c: spool.stored(c, key))
        sink = self._bodies.sink()
        try:
            size = inner.seek(0, os.SEEK_END)
            inner.seek(0)
            if size <= spool.INLINE_OCTETS:  # from memory to memory
                sink.write(inner.read())
            else:
                await asyncio.to_thread(shutil.copyfileobj, inner, sink, COPY_OCTETS)
            inner.seek(0)
            return await sink.finish()
        finally:
            await sink.discard()

    def _refused(
        self,
        job: Job,
        task: Task,
        error: DirectError,
        now: datetime,
        opened: Opened | None,
        judgement: Judgement | None,
    ) -> Result:
        """Keep the message as evidence and answer nothing (AS-077); wait where that may help."""
        if error.reason.retryable:
            due = self._retry_at(job.attempts, task.message.received_at, now)
            if due is not None:
                return Retry(due, error.reason, error.detail)

        def record(connection: Connection) -> None:
            refuse(connection, task, error, now=now, opened=opened, judgement=judgement)

        return Done(record)


def _arrival(
    task: Task,
    opened: Opened,
    judgement: Judgement,
    content: StoredBody,
    mailbox: DirectAddress,
    now: datetime,
) -> Arrival:
    """Return the message as it arrives at `mailbox`."""
    # Why this one trusts the signer, not why others do.
    verdict, bundle = judgement.deciding_for(mailbox), judgement.bundles.get(mailbox)
    trust = trust_shown(opened, verdict, bundle, now)
    header, received_at = opened.facts.message_id, task.message.received_at
    return Arrival(task.message.id, content, header, trust, received_at)


def _for_the_others(judgement: Judgement, due: datetime, taken: Done) -> Retry:
    """Return the retry for recipients who cannot decide now; `taken` is of those who have."""
    decision = next(iter(judgement.unsettled.values()))
    reason = decision.reason or Reason.REVOCATION_UNKNOWN
    return Retry(due, reason, decision.detail or "", taken.record, then=taken.then)
