from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from certs.errors import DirectError, Reason
from certs.memory import RETRY, Kept, Memory
from tests.helpers.pki import NOW

HOUR = timedelta(hours=1)
Fetch = Callable[[], Awaitable[Kept[str]]]


class Source:
    """Answers with what it is given, and counts how often it was asked."""

    def __init__(self, *answers: str | DirectError | BaseException) -> None:
        self._answers = list(answers)
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def at(self, now: datetime) -> Fetch:
        """The fetch of one call."""

        async def fetch() -> Kept[str]:
            answer = self._answers[min(self.asked, len(self._answers) - 1)]
            self.asked += 1
            await self.gate.wait()
            if isinstance(answer, BaseException):
                raise answer
            return Kept(answer, now, now + HOUR)

        return fetch


DOWN = DirectError(Reason.DIRECTORY_UNAVAILABLE, "down")


async def test_answer_is_kept_until_its_end() -> None:
    memory, source = Memory[str](10), Source("one", "two")
    for now, answer in ((NOW, "one"), (NOW + HOUR / 2, "one"), (NOW + HOUR, "two")):
        assert (await memory.get("k", now, source.at(now))).answer == answer
    assert source.asked == 2


async def test_one_fetch_serves_all_who_wait() -> None:
    memory, source = Memory[str](10), Source("one")
    source.gate.clear()
    waiting = [asyncio.create_task(memory.get("k", NOW, source.at(NOW))) for _ in range(5)]
    await asyncio.sleep(0)
    source.gate.set()
    assert {kept.answer for kept in await asyncio.gather(*waiting)} == {"one"}
    assert source.asked == 1


async def test_cancelled_caller_does_not_cancel_the_others() -> None:
    memory, source = Memory[str](10), Source("one")
    source.gate.clear()
    first, second = (asyncio.create_task(memory.get("k", NOW, source.at(NOW))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    source.gate.set()
    assert (await second).answer == "one"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_failure_keeps_the_last_good_answer_and_is_not_asked_at_once() -> None:
    memory, source = Memory[str](10), Source("one", DOWN, "two")
    await memory.get("k", NOW, source.at(NOW))
    later = NOW + HOUR
    kept = await memory.get("k", later, source.at(later))
    assert (kept.answer, kept.failure) == ("one", "down")
    await memory.get("k", later, source.at(later))
    assert source.asked == 2
    again = later + RETRY
    assert (await memory.get("k", again, source.at(again))).answer == "two"


async def test_first_failure_has_no_answer() -> None:
    kept = await Memory[str](10).get("k", NOW, Source(DOWN).at(NOW))
    assert (kept.answer, kept.failure) == (None, "down")


async def test_answer_is_fetched_anew_before_its_end_while_the_old_serves() -> None:
    memory, source = Memory[str](10), Source("one", "two")
    await memory.get("k", NOW, source.at(NOW))
    late = NOW + HOUR * 0.95
    assert (await memory.get("k", late, source.at(late))).answer == "one"
    assert (await memory.get("k", NOW + HOUR, source.at(late))).answer == "two"
    assert source.asked == 2


async def test_oldest_go_first() -> None:
    memory, source = Memory[str](2), Source("one")
    for key in ("a", "b", "a", "c", "a", "b"):
        await memory.get(key, NOW, source.at(NOW))
    assert source.asked == 4


async def test_clock_set_back_asks_again() -> None:
    memory, source = Memory[str](10), Source("one", "two")
    await memory.get("k", NOW, source.at(NOW))
    before = NOW - HOUR
    assert (await memory.get("k", before, source.at(before))).answer == "two"


async def test_cleared_memory_asks_again() -> None:
    memory, source = Memory[str](10), Source("one", "two")
    await memory.get("k", NOW, source.at(NOW))
    memory.clear()
    assert (await memory.get("k", NOW, source.at(NOW))).answer == "two"
