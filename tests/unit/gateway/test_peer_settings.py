"""The agent towards peers: what was configured, what they were seen to read, how much they take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from certs.address import DirectAddress
from certs.cms.algorithms import ContentEncryption, KeyTransport
from certs.errors import DirectError, Reason
from gateway import capabilities
from gateway.capabilities import AGE
from gateway.database import SqlDatabase
from gateway.messages import Kind
from gateway.peers import Peer, Peers, octets_at_most
from tests.helpers.agent import (
    CHEN,
    GP,
    NURSE,
    RIVERA,
    Agent,
    Sent,
    identity,
    mail,
    open_agent,
    peer_ca,
)
from tests.helpers.pki import Ca
from tests.helpers.sealed import unseal

CBC, GCM = "aes256-cbc", "aes256-gcm"
Open = Callable[[Peers], AbstractAsyncContextManager[Agent]]


@pytest.fixture
def opened(sqlite_database: SqlDatabase, tmp_path: Path) -> Open:
    """Open the agent with these peers configured."""

    @asynccontextmanager
    async def open_it(known: Peers) -> AsyncIterator[Agent]:
        async with open_agent(sqlite_database, tmp_path, known=known) as agent:
            yield agent

    return open_it


async def sent(agent: Agent, *recipients: DirectAddress, number: int = 1) -> list[Sent]:
    """Send to `recipients`; return what left for the peers."""
    del agent.peers.sent[:]
    content = mail(RIVERA, *recipients, message_id=f"<{number}@hillside.example>")
    await agent.submit(content, *recipients)
    await agent.run()
    return agent.peers.sent


def cipher_of(copy: Sent, reader: DirectAddress) -> str:
    return unseal(copy.content, [identity(reader)]).unsealed.algorithms.content_encryption


async def seen_of(agent: Agent, *addresses: DirectAddress) -> list[frozenset[ContentEncryption]]:
    work = partial(capabilities.seen, addresses=addresses, now=agent.clock())
    return list(await agent.database.read(work))


async def hear_from(agent: Agent, peer: DirectAddress, number: int = 1) -> None:
    """Take in a message of `peer`, which tells that it reads AES-GCM."""
    content = mail(peer, RIVERA, message_id=f"<{number}@peer.example>")
    await agent.receive(content, RIVERA, sender=peer)
    await agent.run()


async def test_default_is_cbc_until_a_peer_was_seen_to_read_gcm(agent: Agent) -> None:
    [copy] = await sent(agent, CHEN)
    assert cipher_of(copy, CHEN) == CBC
    await hear_from(agent, CHEN)
    [copy] = await sent(agent, CHEN, number=2)
    assert cipher_of(copy, CHEN) == GCM


async def test_one_recipient_that_was_not_seen_keeps_its_domains_copy_at_cbc(agent: Agent) -> None:
    await hear_from(agent, CHEN)
    [copy] = await sent(agent, CHEN, NURSE)
    assert cipher_of(copy, CHEN) == CBC
    await hear_from(agent, NURSE, 2)
    [copy] = await sent(agent, CHEN, NURSE, number=2)
    assert cipher_of(copy, NURSE) == GCM


async def test_each_domains_copy_is_chosen_for_itself(agent: Agent) -> None:
    await hear_from(agent, CHEN)
    copies = {copy.domain: copy for copy in await sent(agent, CHEN, GP)}
    assert cipher_of(copies[CHEN.domain], CHEN) == GCM
    assert cipher_of(copies[GP.domain], GP) == CBC
    [message] = [m for m in await agent.listed(kind=Kind.MESSAGE) if m.author == RIVERA]
    assert message.evidence is not None
    used = message.evidence["recipients"]
    assert used[CHEN.key][0]["content_encryption"] == GCM
    assert used[GP.key][0]["content_encryption"] == CBC


async def test_an_untrusted_signer_is_not_believed_about_the_address_it_claims(
    agent: Agent,
) -> None:
    stranger = Ca.create("Capable stranger").issue(address=str(CHEN))
    await agent.receive(mail(CHEN, RIVERA), RIVERA, signer=stranger)
    await agent.run()
    assert await seen_of(agent, CHEN) == [frozenset()]


async def test_what_nobody_has_repeated_for_long_counts_no_more(agent: Agent) -> None:
    await hear_from(agent, CHEN)
    agent.clock.now += AGE - timedelta(seconds=1)
    assert (await seen_of(agent, CHEN))[0] >= {ContentEncryption.AES256_GCM}
    agent.clock.now += timedelta(seconds=1)
    assert await seen_of(agent, CHEN) == [frozenset()]


async def test_the_newest_word_counts(agent: Agent) -> None:
    both = frozenset({ContentEncryption.AES256_CBC, ContentEncryption.AES256_GCM})
    for said in (both, both, frozenset({ContentEncryption.AES256_CBC}), frozenset(), both):
        note = partial(capabilities.remember, address=CHEN, capabilities=said, now=agent.clock())
        await agent.database.write(note)
        assert await seen_of(agent, GP, CHEN) == [frozenset(), said]


async def test_a_word_repeated_is_as_good_as_new(agent: Agent) -> None:
    gcm = frozenset({ContentEncryption.AES256_GCM})
    for _ in range(3):
        now = agent.clock()
        await agent.database.write(
            partial(capabilities.remember, address=CHEN, capabilities=gcm, now=now)
        )
        agent.clock.now += AGE / 2
    assert await seen_of(agent, CHEN) == [gcm]


async def test_a_peer_that_reads_only_the_default_is_not_remembered(agent: Agent) -> None:
    cbc = frozenset({ContentEncryption.AES256_CBC})
    note = partial(capabilities.remember, address=CHEN, capabilities=cbc, now=agent.clock())
    await agent.database.write(note)
    assert await seen_of(agent, CHEN) == [frozenset()]


async def test_configured_overrides_are_used(opened: Open) -> None:
    known = Peers(
        {
            CHEN.domain: Peer(content_encryption=ContentEncryption.AES128_CBC),
            GP.domain: Peer(content_encryption=ContentEncryption.AES256_GCM),
        }
    )
    async with opened(known) as agent:
        await hear_from(agent, CHEN)
        copies = {copy.domain: copy for copy in await sent(agent, CHEN, GP)}
        assert cipher_of(copies[CHEN.domain], CHEN) == "aes128-cbc"
        assert cipher_of(copies[GP.domain], GP) == GCM


@pytest.mark.parametrize("transport", KeyTransport, ids=lambda t: t.value)
async def test_configured_key_transport_is_used(opened: Open, transport: KeyTransport) -> None:
    reader = peer_ca().issue(address=str(CHEN), key="rsa2048", label="chen by rsa")
    async with opened(Peers({"*": Peer(key_transport=transport)})) as agent:
        agent.discovery.published[CHEN] = [reader]
        [copy] = await sent(agent, CHEN)
        assert unseal(copy.content, [reader]).unsealed.algorithms.key_transport == transport.value


LARGE = "x" * 70 + "\r\n"


def large(*recipients: DirectAddress) -> bytes:
    return mail(RIVERA, *recipients, body=LARGE * 2000)


async def test_what_fits_nowhere_sealed_is_refused_before_it_is_accepted(opened: Open) -> None:
    content = large(CHEN)
    limit = octets_at_most(len(content), 1)
    async with opened(Peers(size_octets=limit - 1)) as agent:
        with pytest.raises(DirectError) as caught:
            await agent.submit(content, CHEN)
        assert caught.value.reason is Reason.MESSAGE_TOO_BIG
        assert await agent.listed() == []


async def test_what_fits_to_the_octet_is_accepted_and_sent(opened: Open) -> None:
    content = large(CHEN)
    async with opened(Peers(size_octets=octets_at_most(len(content), 1))) as agent:
        await agent.submit(content, CHEN)
        await agent.run()
        assert len(agent.peers.sent) == 1


async def test_a_domain_that_takes_less_fails_alone_with_a_report(opened: Open) -> None:
    content = large(CHEN, GP)
    async with opened(Peers({GP.domain: Peer(size_octets=65536)})) as agent:
        message = await agent.submit(content, CHEN, GP)
        await agent.run()
        assert [copy.domain for copy in agent.peers.sent if copy.domain == CHEN.domain]
        assert not [copy for copy in agent.peers.sent if copy.domain == GP.domain]
        rows = await agent.rows(message)
        assert (rows[GP].state, rows[GP].reason) == ("failed", Reason.MESSAGE_TOO_BIG)
        assert rows[CHEN].reason is None
        [report] = await agent.listed(kind=Kind.DSN)
        assert b"Status: 5.3.4" in await agent.body(report.body_key)


async def test_what_grows_when_it_is_made_canonical_is_judged_by_what_it_grew_to(
    opened: Open,
) -> None:
    # 8-bit text becomes quoted-printable: three octets for one.
    content = mail(RIVERA, CHEN).replace(
        b"Please see the patient.", ("é" * 60 + "\r\n").encode() * 600
    )
    async with opened(Peers(size_octets=octets_at_most(len(content), 1))) as agent:
        message = await agent.submit(content, CHEN)
        await agent.run()
        rows = await agent.rows(message)
        assert rows[CHEN].reason is Reason.MESSAGE_TOO_BIG
        assert not agent.peers.sent
