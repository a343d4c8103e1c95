from __future__ import annotations

from dataclasses import replace

import pytest

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway.outcomes import Task, load
from gateway.peers import Peers
from gateway.queue import Job, JobState
from gateway.sealer import Sealer
from tests.helpers.agent import CHEN, GP, HOSTNAME, NURSE, RIVERA, Agent, identity, mail, peer_ca
from tests.helpers.pki import NOW
from tests.helpers.sealed import unseal
from trust_bundles.decision import Decision


def ready(address: DirectAddress, *, reader: DirectAddress | None = None) -> Decision:
    return Decision(address, (identity(reader or address).certificate,), (), None, None)


async def task(agent: Agent, content: bytes) -> Task:
    message = await agent.put(content, CHEN, GP)
    state, payload = JobState.READY, {"message": str(message)}
    job = Job(message, "outgoing", "", None, state, NOW, NOW, 1, None, None, None, None, payload)
    return await agent.database.read(lambda c: load(c, job))


def sealer(agent: Agent, peers: Peers | None = None) -> Sealer:
    return Sealer(
        database=agent.database,
        bodies=agent.bodies,
        hostname=HOSTNAME,
        peers=Peers() if peers is None else peers,
    )


async def test_one_durable_copy_for_each_domain(agent: Agent) -> None:
    work = await task(agent, mail(RIVERA, CHEN, GP, NURSE))
    decisions = [ready(CHEN), ready(GP), ready(NURSE)]
    copies = await sealer(agent).seal(work, decisions, [identity(RIVERA)], NOW)
    assert [(c.domain, [d.address for d in c.recipients]) for c in copies] == [
        (CHEN.domain, [CHEN, NURSE]),
        (GP.domain, [GP]),
    ]
    for copy, reader in zip(copies, (NURSE, GP), strict=True):
        assert copy.body.inline is not None
        assert b"Please see" in unseal(copy.body.inline, [identity(reader)]).content


async def test_trace_names_us_and_our_id_and_nothing_of_the_edge(agent: Agent) -> None:
    work = await task(agent, mail(RIVERA, CHEN))
    [copy] = await sealer(agent).seal(work, [ready(CHEN)], [identity(RIVERA)], NOW)
    assert copy.body.inline is not None
    assert copy.body.inline.startswith(
        f"Received: by {HOSTNAME} id {work.message.id.hex};\r\n"
        " Fri, 02 Jan 2026 12:00:00 +0000\r\n".encode()
    )


async def test_shared_certificate_makes_one_recipient_info(agent: Agent) -> None:
    work = await task(agent, mail(RIVERA, CHEN, NURSE))
    sizes = []
    for decisions in ([ready(CHEN)], [ready(CHEN), ready(NURSE, reader=CHEN)]):
        [copy] = await sealer(agent).seal(work, decisions, [identity(RIVERA)], NOW)
        sizes.append(copy.body.size)
    assert abs(sizes[1] - sizes[0]) < 50


async def test_nobody_to_seal_for_is_no_work(agent: Agent) -> None:
    work = await task(agent, mail(RIVERA, CHEN))
    assert await sealer(agent).seal(replace(work), [], [identity(RIVERA)], NOW) == ()


async def test_large_message_that_fails_leaves_no_file_behind(agent: Agent) -> None:
    work = await task(agent, mail(RIVERA, CHEN, GP, body="\r\n".join(["x" * 70] * 10_000)))
    before = {path.name for path in agent.spool.iterdir()}
    cannot_read = peer_ca().issue(address=str(GP), key="ed25519").certificate
    decisions = [ready(CHEN), Decision(GP, (cannot_read,), (), None, None)]
    with pytest.raises(DirectError) as caught:
        await sealer(agent).seal(work, decisions, [identity(RIVERA)], NOW)
    assert caught.value.reason is Reason.CERTIFICATE_UNFIT
    assert {path.name for path in agent.spool.iterdir()} == before


async def test_large_message_becomes_one_file(agent: Agent) -> None:
    work = await task(agent, mail(RIVERA, CHEN, body="\r\n".join(["x" * 70] * 10_000)))
    [copy] = await sealer(agent).seal(work, [ready(CHEN)], [identity(RIVERA)], NOW)
    assert copy.body.inline is None
    assert (agent.spool / copy.body.key).stat().st_size == copy.body.size
    assert list(agent.spool.glob("*.part")) == []
