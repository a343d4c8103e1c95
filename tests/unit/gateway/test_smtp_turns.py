from __future__ import annotations

import asyncio

from gateway.congestion import WINDOW
from gateway.smtp_turns import Turns


class Work:
    """Deliveries that stay until they are let go, and how many there were at a time."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.running = 0
        self.most = 0
        self.order: list[int] = []

    async def deliver(self, number: int, *, reached: bool = True) -> bool:
        if not await self.turns.begin("b.example"):
            return False
        self.running += 1
        self.most = max(self.most, self.running)
        self.order.append(number)
        await asyncio.sleep(0)
        self.running -= 1
        self.turns.end("b.example", reached=reached)
        return True


async def test_many_deliveries_take_turns_in_order() -> None:
    work = Work()
    done = await asyncio.gather(*(work.deliver(number) for number in range(100)))
    assert all(done)
    assert work.most == WINDOW
    assert work.order == list(range(100))


async def test_those_who_wait_learn_that_it_is_down() -> None:
    work = Work()
    done = await asyncio.gather(*(work.deliver(number, reached=False) for number in range(10)))
    assert done == [True, *[False] * 9]


async def test_one_that_gives_up_waiting_holds_up_nobody() -> None:
    work = Work()
    assert await work.turns.begin("b.example")
    waiting = [asyncio.create_task(work.deliver(number)) for number in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    work.turns.end("b.example", reached=True)
    assert await waiting[1]
