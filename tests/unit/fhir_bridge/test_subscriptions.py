from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from fhir_bridge.notifier import Notifier
from fhir_bridge.subscriptions import ATTEMPTS_MAX, next_try
from tests.unit.fhir_bridge.conftest import ANNA, BEN, NOW, TERMS, World, communication

MAIL = f"From: {BEN}\r\nTo: {ANNA}\r\nMessage-ID: <1@x.example>\r\n\r\nsecret text\r\n".encode()


class Bot:
    """The other end of a hook: what it was called with, and what it answers."""

    def __init__(self) -> None:
        self.calls: list[httpx.Request] = []
        self.status = 200
        self.called = asyncio.Event()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request)
        self.called.set()
        if self.status == 0:
            raise httpx.ConnectError("refused")
        return httpx.Response(self.status)


@pytest.fixture
def bot() -> Bot:
    return Bot()


@pytest.fixture
async def notifier(world: World, bot: Bot) -> AsyncIterator[Notifier]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(bot)) as http:
        yield Notifier(database=world.database, http=http, clock=lambda: world.now, poll_s=60)


def subscription(**channel: Any) -> dict[str, Any]:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "tell the bot",
        "criteria": "Communication?direction=inbound",
        "channel": {"type": "rest-hook", "endpoint": "https://bot.example/hook", **channel},
    }


async def subscribed(world: World, **channel: Any) -> dict[str, Any]:
    answer = await world.http.post("/Subscription", json=subscription(**channel))
    assert answer.status_code == 201, answer.text
    resource: dict[str, Any] = answer.json()
    assert resource["status"] == "active"
    return resource


async def drained(notifier: Notifier) -> None:
    while await notifier.run_once():
        pass


async def test_a_new_message_calls_the_hook_without_its_content(
    world: World, bot: Bot, notifier: Notifier
) -> None:
    made = await subscribed(world)
    identity = await world.receive(MAIL)
    await world.http.post("/Communication", json=communication())
    await drained(notifier)
    [call] = bot.calls
    assert (call.method, str(call.url), call.content) == ("POST", "https://bot.example/hook", b"")
    assert call.headers["x-direct-resource"] == f"Communication/{identity}/_history/1"
    assert call.headers["x-direct-subscription"] == f"Subscription/{made['id']}"


async def test_a_payload_is_put_and_signed(world: World, bot: Bot, notifier: Notifier) -> None:
    secret = {"url": TERMS.extension("hook-secret"), "valueString": "s3cret"}
    await subscribed(
        world, payload="application/fhir+json", header=["X-Key: k"], extension=[secret]
    )
    identity = await world.receive(MAIL)
    await drained(notifier)
    [call] = bot.calls
    assert (call.method, call.url.path) == ("PUT", f"/hook/Communication/{identity}")
    assert call.headers["x-key"] == "k"
    assert b"secret text" in call.content
    expected = hmac.new(b"s3cret", call.content, "sha256").hexdigest()
    assert call.headers["x-direct-signature"] == f"sha256={expected}"


async def test_nothing_of_another_mailbox_is_told(
    world: World, bot: Bot, notifier: Notifier
) -> None:
    theirs = await world.add_client("other", "eve@direct.hillside.example")
    answer = await world.http.post("/Subscription", json=subscription(), headers=theirs)
    assert answer.status_code == 201
    url = f"/Subscription/{answer.json()['id']}"
    assert (await world.http.get(url)).status_code == 404
    await world.receive(MAIL)
    await drained(notifier)
    assert not bot.calls


@pytest.mark.parametrize("status", [500, 302, 0])
async def test_a_failing_hook_is_called_again_and_then_given_up(
    world: World, bot: Bot, notifier: Notifier, status: int
) -> None:
    made = await subscribed(world)
    await world.receive(MAIL)
    bot.status = status
    for _ in range(ATTEMPTS_MAX + 3):
        await drained(notifier)
        world.now += timedelta(hours=1)
    assert len(bot.calls) == ATTEMPTS_MAX
    shown = (await world.http.get(f"/Subscription/{made['id']}")).json()
    assert shown["status"] == "error"
    assert shown["error"] == ("ConnectError" if status == 0 else f"HTTP {status}")
    bot.status = 200
    again = {**shown, "status": "requested"}
    await world.http.put(f"/Subscription/{made['id']}", json=again)
    await world.receive(MAIL.replace(b"<1@", b"<2@"))
    await drained(notifier)
    assert len(bot.calls) == ATTEMPTS_MAX + 1


async def test_a_hook_that_recovers_is_told(world: World, bot: Bot, notifier: Notifier) -> None:
    await subscribed(world)
    await world.receive(MAIL)
    bot.status = 503
    await drained(notifier)
    bot.status = 204
    await drained(notifier)
    assert len(bot.calls) == 1
    world.now += timedelta(seconds=10)
    await drained(notifier)
    assert len(bot.calls) == 2


async def test_an_ended_subscription_is_not_served(
    world: World, bot: Bot, notifier: Notifier
) -> None:
    made = await subscribed(world)
    await world.receive(MAIL)
    bot.status = 503
    await drained(notifier)
    await world.http.delete(f"/Subscription/{made['id']}")
    world.now += timedelta(hours=1)
    await drained(notifier)
    assert len(bot.calls) == 1


async def test_a_running_notifier_is_woken_and_stopped(
    world: World, bot: Bot, notifier: Notifier
) -> None:
    await subscribed(world)
    running = asyncio.create_task(notifier.run())
    await world.receive(MAIL)
    notifier.wake()
    await asyncio.wait_for(bot.called.wait(), 10)
    notifier.stop()
    await asyncio.wait_for(running, 10)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"criteria": "Nothing?x=1"}, "criteria"),
        ({"criteria": "Communication?nothing=1"}, "criteria"),
        ({"channel": {"type": "email", "endpoint": "https://bot.example/"}}, "channel.type"),
        ({"channel": {"type": "rest-hook"}}, "channel.endpoint"),
        (
            {"channel": {"type": "rest-hook", "endpoint": "https://elsewhere.example/"}},
            "channel.endpoint",
        ),
        ({"channel": {"type": "rest-hook", "endpoint": "ftp://bot.example/"}}, "channel.endpoint"),
        (
            {"channel": {"type": "rest-hook", "endpoint": "https://bot.example@evil.example/"}},
            "channel.endpoint",
        ),
        (
            {"channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1:8080/"}},
            "channel.endpoint",
        ),
        (
            {
                "channel": {
                    "type": "rest-hook",
                    "endpoint": "https://bot.example/",
                    "payload": "text/html",
                }
            },
            "channel.payload",
        ),
        (
            {
                "channel": {
                    "type": "rest-hook",
                    "endpoint": "https://bot.example/",
                    "header": ["a: b\r\nc: d"],
                }
            },
            "channel.header",
        ),
    ],
)
async def test_what_cannot_be_served_is_refused(
    world: World, change: dict[str, Any], place: str
) -> None:
    answer = await world.http.post("/Subscription", json={**subscription(), **change})
    assert answer.status_code == 422, answer.text
    assert [f"Subscription.{place}"] in [i["expression"] for i in answer.json()["issue"]]


def test_the_wait_grows_and_ends() -> None:
    waits = [next_try(n, NOW) for n in range(1, ATTEMPTS_MAX + 1)]
    assert waits[0] == NOW + timedelta(seconds=10)
    assert waits[-1] is None
    assert waits[:-1] == sorted(w for w in waits if w)
