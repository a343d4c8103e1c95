"""What the log and the metrics tell of a message, from its acceptance to its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import LogCapture

from gateway.mdn import Disposition
from gateway.messages import Direction, Kind
from gateway.sandbox import open_sandbox
from tests.helpers.agent import CHEN, NURSE, RIVERA, WANTS_DISPATCHED, Agent, mail
from tests.integration.test_mt_cases import (
    REQUEST,
    agent,
    at_rest,
    eventually,
    listed,
    own_notices,
    submit,
)

__all__ = ["agent"]


@pytest.fixture
def log() -> Iterator[LogCapture]:
    captured = LogCapture()
    structlog.configure(processors=[captured])
    yield captured
    structlog.reset_defaults()


async def test_the_id_of_a_message_is_on_each_of_its_steps_and_nobodys_words_are(
    tmp_path: Path, log: LogCapture
) -> None:
    async with open_sandbox(tmp_path) as sandbox:
        chen = "dr.chen@direct.lakeview.example"
        await submit(sandbox.hillside, chen, options=REQUEST)

        async def confirmed() -> bool:
            return bool(await own_notices(sandbox.hillside)) and all(
                [await at_rest(hisp) for hisp in (sandbox.hillside, sandbox.lakeview)]
            )

        await eventually(confirmed)
        [out] = await listed(sandbox.hillside, Direction.OUTGOING, Kind.MESSAGE)
        [arrived] = await listed(sandbox.lakeview, Direction.INCOMING, Kind.MESSAGE)
    steps = [
        (entry["event"], entry.get("kind"))
        for entry in log.entries
        if str(out.id) in (entry.get("message"), entry.get("about"))
    ]
    assert steps[:2] == [("message accepted", None), ("job done", "outgoing")]
    # The first notice may overtake the record of the delivery.
    assert sorted(steps[2:], key=str) == [
        ("job done", "confirm"),
        ("job done", "deliver"),
        ("notice made", "mdn"),
        ("notice read", None),
        ("notice read", None),
    ]
    theirs = [entry["event"] for entry in log.entries if entry.get("message") == str(arrived.id)]
    assert theirs == ["message accepted", "job done"]
    for word in ("frontdesk", "dr.chen", "Hello", "1@direct.hillside.example"):
        assert word not in str(log.entries)


async def test_what_is_decided_and_how_long_it_took_is_counted(agent: Agent) -> None:
    agent.discovery.published.pop(NURSE)
    content = mail(RIVERA, CHEN, NURSE, more=[WANTS_DISPATCHED])
    await agent.submit(content, CHEN, NURSE)
    await agent.run("outgoing")
    agent.clock.now += timedelta(minutes=2)
    await agent.run("deliver")
    agent.clock.now += timedelta(minutes=3)
    await agent.mdn(Disposition.PROCESSED, "<1@hillside.example>")
    await agent.mdn(Disposition.PROCESSED, "<1@hillside.example>")

    def value(name: str, **labels: str) -> float | None:
        return agent.metrics.registry.get_sample_value(f"direct_gateway_{name}", labels)

    assert value("decisions_total", direction="outgoing", outcome="ok") == 1
    assert value("decisions_total", direction="outgoing", outcome="certificate-not-found") == 1
    assert value("decisions_total", direction="incoming", outcome="ok") == 2
    assert value("message_seconds_sum", event="relayed") == 120
    assert value("message_seconds_sum", event="mdn-processed") == 300
    assert value("message_seconds_count", event="mdn-processed") == 1
    assert value("crypto_seconds_count", step="seal") == 1
    assert value("crypto_seconds_count", step="open") == 2
