"""`trust replay`: which verdicts on the last messages would another trust have changed?

Talks to the database, the stored messages and the directory. The change is made as an
administrator would make it, in a transaction that is then rolled back: what is tried is what would
happen. Both verdicts are given anew, on the same evidence and at the same time, so that only the
change tells them apart.

Standards:
    AS  Applicability Statement v1.3, section 4
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, Protocol

from sqlalchemy import Connection

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.evidence import Evidence
from certs.identity import Identity
from certs.policy import CertificatePolicy, loosest
from certs.ports import Database
from gateway import messages
from gateway.explanation import Finder
from gateway.judgement import check_for_each, open_message, signer_evidence
from gateway.messages import Direction, Message
from gateway.policies import DomainPolicies
from gateway.ports import BodyStore, Envelope
from gateway.recipients import recipients_of
from gateway.scratch import scratch
from trust_bundles.anchors import Anchors
from trust_bundles.decision import decide
from trust_bundles.policy import Direction as Way
from trust_bundles.policy import Purpose
from trust_bundles.sets import AnchorSets

__all__ = ["Change", "Decrypting", "Flip", "Replayed", "replay"]

Change = Callable[[Connection], None]
AT_ONCE = 8


class Decrypting(Protocol):
    """Our identities that open mail; `certs.stored_keys.StoredKeys` has them."""

    async def decrypting(self, addresses: Sequence[DirectAddress]) -> Sequence[Identity]:
        """Return the identities that mail to these addresses may be encrypted for."""
        ...


@dataclass(frozen=True, slots=True)
class Flip:
    """A verdict that the change would have turned. None: trusted."""

    message: str
    received_at: datetime
    direction: str
    owner: DirectAddress
    other: DirectAddress
    before: Reason | None
    after: Reason | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was judged twice, what flipped, and what could not be judged, by message."""

    messages: int
    verdicts: int
    flips: tuple[Flip, ...]
    not_judged: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """One verdict to be given twice: does `owner` trust `evidence`'s address this way?"""

    message: Message
    owner: DirectAddress
    way: Way
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class _Trust:
    anchors: Anchors
    policy: CertificatePolicy


async def replay(
    database: Database,
    finder: Finder,
    keys: Decrypting,
    bodies: BodyStore,
    policies: DomainPolicies,
    *,
    change: Change,
    last: int,
    now: datetime,
    counting: Callable[[int], AbstractContextManager[Callable[[], None]]],
) -> Replayed:
    """Judge the last messages by the trust there is and by the trust there would be.

    `counting` is told how many messages there are, and what it gives is called as each is read.

    Raises:
        DirectError: what the change itself is refused with; INTERNAL where the database failed.
    """
    found = await database.read(lambda c: messages.list_messages(c, limit=last))
    gatherer = _Gatherer(database, finder, keys, bodies, policies)
    with counting(len(found)) as done:
        gathered = await gatherer.gather(found, done)
    questions = [q for some in gathered if not isinstance(some, DirectError) for q in some]
    failed = [
        (str(m.id), e.reason.code)
        for m, e in zip(found, gathered, strict=True)
        if isinstance(e, DirectError)
    ]
    wanted = list(dict.fromkeys((q.owner, q.way) for q in questions))

    def trust(c: Connection) -> Mapping[tuple[DirectAddress, Way], _Trust]:
        sets = AnchorSets()
        return {
            (owner, way): _Trust(
                sets.anchors_for(c, owner, way, now), policies.policy_for(c, owner.domain)
            )
            for owner, way in wanted
        }

    before = await database.read(trust)
    after = await _hypothetically(database, change, trust)
    flips: list[Flip] = []
    for question in questions:
        key = (question.owner, question.way)
        flip = await _compared(finder, question, before[key], after[key], now)
        flips += [flip] if flip else []
    return Replayed(len(found), len(questions), tuple(flips), tuple(failed))


@dataclass(frozen=True, slots=True)
class _Gatherer:
    """Finds anew, for a stored message, what its verdicts rested on."""

    database: Database
    finder: Finder
    keys: Decrypting
    bodies: BodyStore
    policies: DomainPolicies

    async def gather(
        self, found: Sequence[Message], done: Callable[[], None]
    ) -> list[Sequence[_Question] | DirectError]:
        """Return for each message its questions, or why there are none."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(message: Message) -> Sequence[_Question] | DirectError:
            async with room:
                try:
                    return await self.questions(message)
                except DirectError as error:
                    return error
                finally:
                    done()

        return await asyncio.gather(*map(one, found))

    async def questions(self, message: Message) -> Sequence[_Question]:
        recipients = await self.database.read(lambda c: recipients_of(c, message.id))
        addresses = tuple(recipient.address for recipient in recipients)
        if message.direction is Direction.OUTGOING:
            return await self._outgoing(message, addresses)
        return await self._incoming(message, addresses)

    async def _outgoing(
        self, message: Message, addresses: Sequence[DirectAddress]
    ) -> Sequence[_Question]:
        if message.author is None:
            raise DirectError(Reason.MESSAGE_MALFORMED, "the author is not known")
        evidence = await asyncio.gather(*map(self.finder.evidence_for, addresses))
        return [_Question(message, message.author, Way.OUTGOING, found) for found in evidence]

    async def _incoming(
        self, message: Message, addresses: Sequence[DirectAddress]
    ) -> Sequence[_Question]:
        if message.body_key is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, "the message is no longer kept")
        policies = await self.database.read(
            lambda c: {a: self.policies.policy_for(c, a.domain) for a in addresses}
        )
        identities = await self.keys.decrypting(addresses)
        policy = loosest(policies.values())
        with scratch() as inner:
            async with self.bodies.open(message.body_key) as sealed:
                opened = await asyncio.to_thread(
                    open_message, sealed, inner, identities=identities, policy=policy
                )
            refused = check_for_each(
                opened, Envelope(message.envelope_sender, tuple(addresses)), policies
            )
            evidence = signer_evidence(opened)
        return [
            _Question(message, a, Way.INCOMING, evidence) for a in addresses if a not in refused
        ]


async def _compared(
    finder: Finder, question: _Question, before: _Trust, after: _Trust, now: datetime
) -> Flip | None:
    if before.policy == after.policy and before.anchors.digest == after.anchors.digest:
        return None
    old = await _judged(finder, question, before, now)
    new = await _judged(finder, question, after, now)
    if (old is None) == (new is None):
        return None
    return Flip(
        str(question.message.id),
        question.message.received_at,
        question.message.direction.value,
        question.owner,
        question.evidence.address,
        old,
        new,
    )


async def _judged(
    finder: Finder, question: _Question, trust: _Trust, now: datetime
) -> Reason | None:
    evidence = await finder.complete(question.evidence, trust.anchors, now=now, policy=trust.policy)
    decision = await asyncio.to_thread(
        decide,
        evidence.address,
        evidence,
        trust.anchors,
        purpose=Purpose.ENCRYPT if question.way is Way.OUTGOING else Purpose.SIGN,
        now=now,
        policy=trust.policy,
    )
    return decision.reason


class _UndoneError(Exception):
    """Carries what was read out of a transaction that must not stay."""

    def __init__(self, read: Mapping[tuple[DirectAddress, Way], _Trust]) -> None:
        super().__init__("rolled back on purpose")
        self.read = read


async def _hypothetically(
    database: Database,
    change: Change,
    read: Callable[[Connection], Mapping[tuple[DirectAddress, Way], _Trust]],
) -> Mapping[tuple[DirectAddress, Way], _Trust]:
    def work(connection: Connection) -> NoReturn:
        change(connection)
        raise _UndoneError(read(connection))

    try:
        await database.write(work)
    except _UndoneError as undone:
        return undone.read
    raise DirectError(Reason.INTERNAL, "a transaction that must not stay was committed")
