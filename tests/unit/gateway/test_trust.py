from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import pytest

from certs.address import DirectAddress
from certs.errors import Reason
from certs.evidence import Evidence, Found, Level
from certs.policy import CertificatePolicy
from gateway.database import SqlDatabase
from gateway.trust import Trust
from tests.helpers.agent import CHEN, DESK, GP, RIVERA, identity, peer_ca
from tests.helpers.pki import NOW, Ca
from trust_bundles import store
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Direction
from trust_bundles.verdicts import VerdictCache

POLICY = CertificatePolicy()


@dataclass
class Intermediates:
    """Fetches what is missing on a path, and remembers for which anchors it was asked."""

    known: tuple[Ca, ...] = ()
    asked: list[tuple[DirectAddress, Anchors]] = field(default_factory=list)

    async def complete(
        self, evidence: Evidence, anchors: Anchors, *, now: datetime, policy: CertificatePolicy
    ) -> Evidence:
        self.asked.append((evidence.address, anchors))
        fetched = tuple(ca.certificate for ca in self.known)
        return Evidence(evidence.address, evidence.found, intermediates=fetched)


def evidence(address: DirectAddress, *, level: Level = Level.DNS_ADDRESS) -> Evidence:
    return Evidence(address, (Found(identity(address).certificate, level),))


async def trust(
    database: SqlDatabase, owner: str, *directions: Direction, ca: Ca | None = None
) -> None:
    certificate = (ca or peer_ca()).certificate
    await database.write(
        lambda c: store.add_anchor(
            c, certificate=certificate, domain_or_address=owner, directions=directions, now=NOW
        )
    )


def agent(database: SqlDatabase, completion: Intermediates) -> Trust:
    return Trust(database=database, completion=completion, policy=POLICY, cache=VerdictCache())


async def test_recipients_are_judged_in_order_by_the_anchors_of_the_author(
    sqlite_database: SqlDatabase,
) -> None:
    await trust(sqlite_database, RIVERA.domain, Direction.OUTGOING)
    found = [evidence(CHEN), Evidence(GP, ()), evidence(GP)]
    decisions = await agent(sqlite_database, Intermediates()).recipients(RIVERA, found, NOW)
    assert [decision.address for decision in decisions] == [CHEN, GP, GP]
    assert [decision.reason for decision in decisions] == [
        None,
        Reason.CERTIFICATE_NOT_FOUND,
        None,
    ]


@pytest.mark.parametrize(
    ("direction", "outgoing", "incoming"),
    [
        (Direction.OUTGOING, None, Reason.NOT_TRUSTED),
        (Direction.INCOMING, Reason.NOT_TRUSTED, None),
    ],
)
async def test_anchor_holds_in_its_direction_only(
    sqlite_database: SqlDatabase,
    direction: Direction,
    outgoing: Reason | None,
    incoming: Reason | None,
) -> None:
    await trust(sqlite_database, RIVERA.domain, direction)
    judge = agent(sqlite_database, Intermediates())
    [decision] = await judge.recipients(RIVERA, [evidence(CHEN)], NOW)
    assert decision.reason is outgoing
    trusting = await judge.of([RIVERA], NOW)
    judgement = await judge.signer(evidence(CHEN, level=Level.MESSAGE), trusting, NOW)
    assert judgement.decisions[RIVERA].reason is incoming


async def test_signer_is_judged_for_each_recipient_by_its_own_anchors(
    sqlite_database: SqlDatabase,
) -> None:
    await trust(sqlite_database, str(DESK), Direction.INCOMING)
    completion = Intermediates()
    signer = evidence(CHEN, level=Level.MESSAGE)
    judge = agent(sqlite_database, completion)
    judgement = await judge.signer(signer, await judge.of([RIVERA, DESK], NOW), NOW)
    assert {a: d.reason for a, d in judgement.decisions.items()} == {
        RIVERA: Reason.NOT_TRUSTED,
        DESK: None,
    }
    # One fetch serves all: for a path to an anchor of any of them.
    [(address, anchors)] = completion.asked
    assert (address, list(anchors)) == (CHEN, [peer_ca().certificate])


async def test_what_is_missing_on_a_path_is_fetched(sqlite_database: SqlDatabase) -> None:
    root = Ca.create("Far root")
    below = Ca.create("Far intermediate", parent=root)
    await trust(sqlite_database, RIVERA.domain, Direction.OUTGOING, ca=root)
    leaf = below.issue(address=str(CHEN)).certificate
    found = Evidence(CHEN, (Found(leaf, Level.DNS_ADDRESS),))
    [missing] = await agent(sqlite_database, Intermediates()).recipients(RIVERA, [found], NOW)
    assert missing.reason is Reason.NOT_TRUSTED
    completion = Intermediates((below,))
    [complete] = await agent(sqlite_database, completion).recipients(RIVERA, [found], NOW)
    assert complete.reason is None


async def test_nobody_to_judge_is_no_question(sqlite_database: SqlDatabase) -> None:
    completion = Intermediates()
    assert await agent(sqlite_database, completion).recipients(RIVERA, [], NOW) == []
    assert completion.asked == []
