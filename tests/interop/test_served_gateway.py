"""The served gateway among real mail software: Postfix on both sides, swaks and smtp-source."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from gateway import messages
from gateway.database import SqlDatabase
from gateway.messages import Direction, MessageState
from tests.helpers.mail_servers import Postfix, postfix
from tests.helpers.neighbours import PEER, USER, Neighbours, neighbours
from tests.helpers.round_check import Round, settled

COUNT = 200


async def run(*command: str) -> tuple[int, str]:
    """Return exit status and what was said."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, said.decode()


async def test_messages_and_their_mdns_pass_through_postfix_both_ways(tmp_path: Path) -> None:
    relays: list[Postfix] = []

    @contextmanager
    def relay(hisp: tuple[str, int]) -> Iterator[tuple[str, int]]:
        with postfix(hostname="out.example", relayhost=hisp, outward="encrypt") as server:
            relays.append(server)
            yield server.address

    sent = Round(["<1@test.example>", "<2@test.example>"], ["<3@test.example>"])
    async with neighbours(tmp_path, relay=relay) as around:
        back = ("127.0.0.1", around.here.backbone)
        with postfix(hostname="in.example", relayhost=back, outward="encrypt") as inward:
            around.hisp.target = inward.address
            with around.here.served():
                await around.submit(sent.submitted[0], [PEER], 2000)
                await around.submit(sent.submitted[1], [PEER], 500_000)
                await around.receive(sent.received[0], 500_000)
                assert await settled(around, sent) is None
            # Two messages and an MDN out; a message and two MDNs in.
            assert relays[0].log.count("status=sent") == 3
            assert inward.log.count("status=sent") == 3


async def test_swaks_submits_and_the_other_hisp_receives(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as around:
        with around.here.served():
            status, said = await run(
                *("/usr/bin/swaks", "--server", "127.0.0.1", "--port", str(around.here.edge)),
                *("--tls", "--auth", "PLAIN", "--auth-user", "ehr"),
                *("--auth-password", around.password, "--from", USER, "--to", PEER),
                *("--header", "Message-Id: <swaks@test.example>", "--helo", "ehr.example"),
            )
            assert status == 0, said
            assert await settled(around, Round(["<swaks@test.example>"], [])) is None
    assert around.hisp.copies == {"<swaks@test.example>": 1}


async def test_smtp_source_loads_the_backbone_and_everything_is_kept(tmp_path: Path) -> None:
    """What it sends is not secured: it is accepted, refused and answered by nobody (AS-077)."""
    async with neighbours(tmp_path) as around:
        with around.here.served():
            status, said = await run(
                *("/usr/sbin/smtp-source", "-s", "10", "-m", str(COUNT), "-l", "10000"),
                *("-f", PEER, "-t", USER, f"127.0.0.1:{around.here.backbone}"),
            )
            assert (status, said) == (0, "")
            assert await _refused(around) == COUNT
    assert around.hisp.accepted == []


async def _refused(around: Neighbours) -> int:
    """Return how many messages were refused, when nothing is left to do."""
    assert await settled(around, Round([], [])) is None
    listed = partial(
        messages.list_messages,
        limit=2 * COUNT,
        direction=Direction.INCOMING,
        state=MessageState.REFUSED,
    )
    async with SqlDatabase.open(around.database_url) as database:
        return len(await database.read(listed))
