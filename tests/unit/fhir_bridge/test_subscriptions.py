from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from certs.errors import DirectError, Reason
from fhir_bridge.access import Access, AccessLog, Recorded
from fhir_bridge.hook_calls import Event, signature
from fhir_bridge.hooks import Hooks
from fhir_bridge.inbound import NoticeShown
from fhir_bridge.mail_channel import MailChannel
from fhir_bridge.notifier import Notifier
from fhir_bridge.ports import Submission
from fhir_bridge.subscriptions import ATTEMPTS_MAX, INTERACTION, next_try
from fhir_bridge.tables import fhir_client, fhir_client_mailbox, fhir_notification
from tests.unit.fhir_bridge.conftest import (
    ANNA,
    BASE,
    BEN,
    NOW,
    TERMS,
    MemoryDeliveries,
    World,
    communication,
)

MAIL = f"From: {BEN}\r\nTo: {ANNA}\r\nMessage-ID: <1@x.example>\r\n\r\nsecret text\r\n".encode()
HOSTS = ["bot.example"]


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

    @property
    def events(self) -> list[httpx.Request]:
        return [call for call in self.calls if call.headers["x-direct-event"] == "event"]


class Names:
    """Resolves every name to one public address."""

    def __init__(self) -> None:
        self.found = ["93.184.215.14"]

    async def addresses(self, host: str) -> list[str]:
        return self.found


class MemoryTrail:
    """Keeps the tries as interaction, target and status."""

    def __init__(self) -> None:
        self.tries: list[tuple[str, str, int]] = []

    async def record(self, accesses: Sequence[Access]) -> None:
        self.tries += [(a.interaction, a.target, a.status) for a in accesses]

    async def one(self, number: int) -> Recorded | None:
        raise NotImplementedError

    async def events(
        self, *, before: int | None, limit: int, actor: str | None, action: str | None
    ) -> Sequence[Recorded]:
        raise NotImplementedError


@dataclass
class Bench:
    """A notifier and what lies around it."""

    world: World
    notifier: Notifier
    jobs: MemoryDeliveries
    names: Names
    trail: MemoryTrail
    log: AccessLog

    async def run(self) -> None:
        """Match, and run every job that is due, until nothing is left to do."""
        while True:
            more = await self.notifier.run_once()
            due = [s for s, at in self.jobs.due.items() if at <= self.world.now]
            for subscription in due:
                attempt = await self.notifier.deliver(subscription)
                del self.jobs.due[subscription]
                await self.world.database.write(attempt.record)
                if attempt.retry_at is not None:
                    assert attempt.error
                    self.jobs.due[subscription] = attempt.retry_at
            if not more and not due:
                return


@pytest.fixture
def bot() -> Bot:
    return Bot()


@pytest.fixture
async def bench(world: World, bot: Bot) -> AsyncIterator[Bench]:
    jobs, names, trail = world.deliveries, Names(), MemoryTrail()
    log = AccessLog(trail)
    hooks = Hooks(hosts=HOSTS, resolver=names, transport=httpx.MockTransport(bot))
    notifier = Notifier(
        database=world.database,
        deliveries=jobs,
        hooks=hooks,
        mail=MailChannel(bodies=world.bodies, outbox=world.outbox, base_url=BASE),
        clock=lambda: world.now,
        poll_s=60,
        log=log,
    )
    yield Bench(world, notifier, jobs, names, trail, log)
    await hooks.aclose()


def subscription(**channel: Any) -> dict[str, Any]:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "tell the bot",
        "criteria": "Communication?direction=inbound",
        "channel": {"type": "rest-hook", "endpoint": "https://bot.example/hook", **channel},
    }


async def subscribed(bench: Bench, **channel: Any) -> str:
    """Create a Subscription, let its handshake be, and return its URL."""
    answer = await bench.world.http.post("/Subscription", json=subscription(**channel))
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "requested"
    await bench.run()
    return f"/Subscription/{answer.json()['id']}"


async def shown(bench: Bench, url: str) -> dict[str, Any]:
    resource: dict[str, Any] = (await bench.world.http.get(url)).json()
    return resource


async def test_a_hook_shakes_hands_before_it_is_active(bench: Bench, bot: Bot) -> None:
    bot.status = 503
    url = await subscribed(bench)
    assert (await shown(bench, url))["status"] == "requested"
    bot.status = 200
    bench.world.now += timedelta(seconds=10)
    await bench.run()
    assert (await shown(bench, url))["status"] == "active"
    assert [c.headers["x-direct-event"] for c in bot.calls] == ["handshake", "handshake"]
    assert {c.headers["x-direct-delivery"] for c in bot.calls} == {
        bot.calls[0].headers["x-direct-delivery"]
    }


async def test_what_happens_before_the_handshake_is_told_after_it(bench: Bench, bot: Bot) -> None:
    bot.status = 503
    await subscribed(bench)
    await bench.world.receive(MAIL)
    await bench.run()
    bot.status = 200
    bench.world.now += timedelta(seconds=10)
    await bench.run()
    assert [c.headers["x-direct-event"] for c in bot.calls] == ["handshake", "handshake", "event"]


async def test_a_new_message_calls_the_hook_without_its_content(bench: Bench, bot: Bot) -> None:
    url = await subscribed(bench)
    identity = await bench.world.receive(MAIL)
    await bench.world.http.post("/Communication", json=communication())
    await bench.run()
    [call] = bot.events
    assert (call.method, call.content) == ("POST", b"")
    assert (call.url.host, call.url.path) == ("93.184.215.14", "/hook")
    assert call.headers["host"] == "bot.example"
    assert call.extensions["sni_hostname"] == "bot.example"
    assert call.headers["x-direct-resource"] == f"Communication/{identity}/_history/1"
    assert f"/{call.headers['x-direct-subscription']}" == url


async def test_a_payload_is_put_and_signed(bench: Bench, bot: Bot) -> None:
    secret = {"url": TERMS.extension("hook-secret"), "valueString": "s3cret"}
    await subscribed(
        bench, payload="application/fhir+json", header=["X-Key: k"], extension=[secret]
    )
    identity = await bench.world.receive(MAIL)
    await bench.run()
    [call] = bot.events
    assert (call.method, call.url.path) == ("PUT", f"/hook/Communication/{identity}")
    assert call.headers["x-key"] == "k"
    assert b"secret text" in call.content
    delivery = UUID(call.headers["x-direct-delivery"])
    event = Event(delivery, f"Communication/{identity}", 1)
    moment = str(int(NOW.timestamp()))
    expected = signature("s3cret", moment, event, call.content)
    assert call.headers["x-direct-time"] == moment
    assert call.headers["x-direct-signature"] == f"sha256={expected}"


async def test_a_call_without_a_body_is_signed_for_what_it_names(bench: Bench, bot: Bot) -> None:
    secret = {"url": TERMS.extension("hook-secret"), "valueString": "s3cret"}
    await subscribed(bench, extension=[secret])
    for number in (1, 2):
        await bench.world.receive(MAIL.replace(b"<1@", f"<{number}@".encode()))
    await bench.run()
    one, two = (call.headers["x-direct-signature"] for call in bot.events)
    assert one != two


async def test_a_payload_is_posted_where_the_subscriber_wants_that(bench: Bench, bot: Bot) -> None:
    method = {"url": TERMS.extension("hook-method"), "valueCode": "post"}
    await subscribed(bench, payload="application/fhir+json", extension=[method])
    await bench.world.receive(MAIL)
    await bench.run()
    [call] = bot.events
    assert (call.method, call.url.path) == ("POST", "/hook")


async def test_changes_are_told_in_their_order(bench: Bench, bot: Bot) -> None:
    await subscribed(bench)
    mails = [MAIL.replace(b"<1@", f"<{number}@".encode()) for number in range(5)]
    received = [str(await bench.world.receive(mail)) for mail in mails]
    await bench.run()
    told = [call.headers["x-direct-resource"].split("/")[1] for call in bot.events]
    assert told == received


async def test_nothing_of_another_mailbox_is_told(bench: Bench, bot: Bot) -> None:
    theirs = await bench.world.add_client("other", "eve@direct.hillside.example")
    answer = await bench.world.http.post("/Subscription", json=subscription(), headers=theirs)
    assert answer.status_code == 201
    url = f"/Subscription/{answer.json()['id']}"
    assert (await bench.world.http.get(url)).status_code == 404
    assert (await bench.world.http.post(f"{url}/$resend")).status_code == 404
    assert (await bench.world.http.get(f"{url}/$get-ws-binding-token")).status_code == 404
    identity = await bench.world.receive(MAIL)
    await bench.run()
    assert not bot.events
    again = f"{url}/$resend?resource=Communication/{identity}"
    assert (await bench.world.http.post(again, headers=theirs)).status_code == 409


async def test_a_mailbox_that_was_taken_away_is_not_told_of(bench: Bench, bot: Bot) -> None:
    await subscribed(bench)
    await bench.world.receive(MAIL)
    await bench.notifier.run_once()
    gone = fhir_client_mailbox.delete()
    await bench.world.database.write(lambda c: c.execute(gone) and None)
    await bench.run()
    assert not bot.events
    left = await bench.world.database.read(lambda c: c.execute(sa.select(fhir_notification)).all())
    assert not left


@pytest.mark.parametrize("status", [500, 302, 0])
async def test_a_failing_hook_is_called_again_and_then_given_up(
    bench: Bench, bot: Bot, status: int
) -> None:
    url = await subscribed(bench)
    await bench.world.receive(MAIL)
    bot.status = status
    for _ in range(ATTEMPTS_MAX + 3):
        await bench.run()
        bench.world.now += timedelta(hours=1)
    assert len(bot.events) == ATTEMPTS_MAX
    resource = await shown(bench, url)
    assert resource["status"] == "error"
    assert resource["error"] == ("ConnectError" if status == 0 else f"HTTP {status}")


async def test_each_try_is_an_event_of_the_audit(bench: Bench, bot: Bot) -> None:
    url = await subscribed(bench)
    bot.status = 503
    await bench.world.receive(MAIL)
    await bench.run()
    bot.status = 200
    bench.world.now += timedelta(seconds=10)
    await bench.run()
    await bench.log.flush()
    assert bench.trail.tries == [("notify", url[1:], status) for status in (200, 502, 200)]


@pytest.mark.parametrize(("wanted", "versions"), [("create", [1]), ("update", [2]), (None, [1, 2])])
async def test_only_the_wanted_interactions_are_told(
    bench: Bench, bot: Bot, wanted: str | None, versions: list[int]
) -> None:
    posted = subscription()
    if wanted is not None:
        posted["extension"] = [{"url": INTERACTION, "valueCode": wanted}]
    answer = await bench.world.http.post("/Subscription", json=posted)
    assert answer.status_code == 201, answer.text
    await bench.run()
    identity = await bench.world.receive(MAIL)
    await bench.run()
    url = f"/Communication/{identity}"
    whole = (await bench.world.http.get(url)).json()
    await bench.world.http.put(url, json={**whole, "note": [{"text": "x"}]})
    await bench.run()
    told = [call.headers["x-direct-resource"].rpartition("/")[2] for call in bot.events]
    assert told == [str(version) for version in versions]


async def test_of_a_deletion_nobody_can_be_told(bench: Bench) -> None:
    posted = {**subscription(), "extension": [{"url": INTERACTION, "valueCode": "delete"}]}
    answer = await bench.world.http.post("/Subscription", json=posted)
    assert answer.status_code == 422
    assert answer.json()["issue"][0]["expression"] == ["Subscription.extension"]


@pytest.mark.parametrize("way", ["put", "resend"])
async def test_what_was_not_told_is_told_when_the_subscription_begins_anew(
    bench: Bench, bot: Bot, way: str
) -> None:
    limit = {"url": TERMS.extension("max-attempts"), "valueInteger": 1}
    url = await subscribed(bench, extension=[limit])
    await bench.world.receive(MAIL)
    bot.status = 500
    await bench.run()
    failed = await shown(bench, url)
    assert failed["status"] == "error"
    await bench.world.receive(MAIL.replace(b"<1@", b"<2@"))  # nobody is told of this one
    await bench.run()
    bot.status = 200
    if way == "put":
        answer = await bench.world.http.put(url, json={**failed, "status": "requested"})
    else:
        answer = await bench.world.http.post(f"{url}/$resend")
    assert (answer.status_code, answer.json()["status"]) == (200, "requested"), answer.text
    assert "error" not in answer.json()
    await bench.run()
    kinds = [call.headers["x-direct-event"] for call in bot.calls]
    assert kinds == ["handshake", "event", "handshake", "event"]
    assert bot.events[0].headers["x-direct-delivery"] == bot.events[1].headers["x-direct-delivery"]
    assert (await shown(bench, url))["status"] == "active"


async def test_an_error_stays_while_the_client_changes_something_else(
    bench: Bench, bot: Bot
) -> None:
    bot.status = 500
    limit = {"url": TERMS.extension("max-attempts"), "valueInteger": 1}
    url = await subscribed(bench, extension=[limit])
    failed = await shown(bench, url)
    answer = await bench.world.http.put(url, json={**failed, "reason": "another"})
    assert (answer.json()["status"], answer.json()["error"]) == ("error", "HTTP 500")


async def test_one_event_is_told_again(bench: Bench, bot: Bot) -> None:
    url = await subscribed(bench)
    identity = await bench.world.receive(MAIL)
    await bench.run()
    again = f"{url}/$resend?resource=Communication/{identity}"
    assert (await bench.world.http.post(again)).status_code == 200
    await bench.run()
    assert len(bot.events) == 2
    for wrong, status in (("Communication/x", 400), (f"Communication/{url[-36:]}", 409)):
        answer = await bench.world.http.post(f"{url}/$resend?resource={wrong}")
        assert answer.status_code == status


async def test_a_hook_that_recovers_is_told(bench: Bench, bot: Bot) -> None:
    await subscribed(bench)
    await bench.world.receive(MAIL)
    bot.status = 503
    await bench.run()
    bot.status = 204
    await bench.run()
    assert len(bot.events) == 1
    bench.world.now += timedelta(seconds=10)
    await bench.run()
    assert len(bot.events) == 2


@pytest.mark.parametrize("way", ["delete", "off", "end"])
async def test_an_ended_subscription_is_not_served(bench: Bench, bot: Bot, way: str) -> None:
    url = await subscribed(bench)
    await bench.world.receive(MAIL)
    bot.status = 503
    await bench.run()
    resource = await shown(bench, url)
    if way == "delete":
        await bench.world.http.delete(url)
    else:
        change = {"status": "off"} if way == "off" else {"end": "2026-01-02T12:00:00Z"}
        answer = await bench.world.http.put(url, json={**resource, **change})
        assert answer.status_code == 200, answer.text
    bench.world.now += timedelta(hours=1)
    await bench.run()
    assert len(bot.events) == 1
    left = await bench.world.database.read(lambda c: c.execute(sa.select(fhir_notification)).all())
    assert not left


async def test_another_endpoint_must_shake_hands_first(bench: Bench, bot: Bot) -> None:
    url = await subscribed(bench)
    resource = await shown(bench, url)
    channel = {**resource["channel"], "endpoint": "https://bot.example/other"}
    answer = await bench.world.http.put(url, json={**resource, "channel": channel})
    assert answer.json()["status"] == "requested"
    await bench.run()
    assert [call.url.path for call in bot.calls] == ["/hook", "/other"]
    assert (await shown(bench, url))["status"] == "active"


async def test_a_host_is_asked_for_at_each_call(bench: Bench, bot: Bot) -> None:
    await subscribed(bench)
    before = len(bot.calls)
    bench.names.found = []  # it leads into a private network now
    await bench.world.receive(MAIL)
    await bench.run()
    HOSTS.clear()  # the operator took it off the list
    try:
        bench.names.found = ["93.184.215.14"]
        bench.world.now += timedelta(minutes=1)
        await bench.run()
    finally:
        HOSTS.append("bot.example")
    assert len(bot.calls) == before


async def test_a_job_that_was_lost_is_put_again(bench: Bench, bot: Bot) -> None:
    await subscribed(bench)
    await bench.world.receive(MAIL)
    await bench.notifier.run_once()
    bench.jobs.due.clear()
    bench.world.now += timedelta(minutes=1)
    await bench.run()
    assert len(bot.events) == 1


async def test_a_client_has_a_limited_number(bench: Bench) -> None:
    channel = {"type": "websocket"}
    for _ in range(100):
        body = {**subscription(), "channel": channel}
        assert (await bench.world.http.post("/Subscription", json=body)).status_code == 201
    answer = await bench.world.http.post("/Subscription", json=subscription())
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (409, "too-costly")


def mail_to(address: str) -> dict[str, Any]:
    return {**subscription(), "channel": {"type": "email", "endpoint": f"mailto:{address}"}}


async def test_a_direct_message_tells_where_the_news_is_and_nothing_of_it(bench: Bench) -> None:
    answer = await bench.world.http.post("/Subscription", json=mail_to(BEN))
    assert answer.json()["status"] == "active"
    identity = await bench.world.receive(MAIL)
    await bench.run()
    [sent] = bench.world.outbox.submissions
    assert (str(sent.sender), [str(r) for r in sent.recipients]) == (ANNA, [BEN])
    message = bench.world.outbox.message()
    assert message.startswith(b"Auto-Submitted: auto-generated\r\n")
    assert f"{BASE}/Communication/{identity}/_history/1".encode() in message.replace(b"=\r\n", b"")
    assert b"secret" not in message


async def test_a_notice_is_not_answered_by_a_notice(bench: Bench) -> None:
    await bench.world.http.post("/Subscription", json=mail_to(BEN))
    await bench.world.receive(MAIL.replace(b"<1@x.example>", b"<subscription-notice.1@x.example>"))
    await bench.run()
    assert not bench.world.outbox.submissions


async def test_a_notification_that_is_shown_brings_no_notice(bench: Bench) -> None:
    # The notice would bring the next notification.
    await bench.world.http.post("/Subscription", json=mail_to(BEN))
    await bench.world.receive(MAIL, notice=NoticeShown("mdn", None))
    await bench.run()
    assert not bench.world.outbox.submissions


async def test_a_mailbox_is_not_told_of_itself_by_mail(bench: Bench) -> None:
    answer = await bench.world.http.post("/Subscription", json=mail_to(ANNA))
    url = f"/Subscription/{answer.json()['id']}"
    await bench.world.receive(MAIL)
    for _ in range(ATTEMPTS_MAX):
        await bench.run()
        bench.world.now += timedelta(hours=1)
    assert (await shown(bench, url))["status"] == "error"
    assert not bench.world.outbox.submissions


async def test_a_notice_that_cannot_be_sent_is_tried_again(bench: Bench, world: World) -> None:
    refusing = Refusing()
    notifier = Notifier(
        database=world.database,
        deliveries=bench.jobs,
        hooks=Hooks(hosts=(), resolver=bench.names),
        mail=MailChannel(bodies=world.bodies, outbox=refusing, base_url=BASE),
        clock=lambda: world.now,
    )
    await world.http.post("/Subscription", json=mail_to(BEN))
    await world.receive(MAIL)
    await notifier.run_once()
    [identity] = bench.jobs.due
    attempt = await notifier.deliver(identity)
    assert (attempt.error, attempt.retry_at) == ("throttled", NOW + timedelta(seconds=10))


class Refusing:
    """An outbox that takes nothing."""

    async def submit(
        self, submission: Submission, record: Callable[[sa.Connection, UUID], None]
    ) -> UUID:
        raise DirectError(Reason.THROTTLED, "not now")

    async def settled(self, message: UUID, wait_s: float) -> None:
        raise AssertionError


async def test_a_running_notifier_is_woken(bench: Bench) -> None:
    await subscribed(bench)
    running = asyncio.create_task(bench.notifier.run())
    bench.jobs.woken.clear()
    await bench.world.receive(MAIL)
    bench.notifier.wake()
    await asyncio.wait_for(bench.jobs.woken.wait(), 10)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert bench.jobs.due


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"criteria": "Nothing?x=1"}, "criteria"),
        ({"criteria": "Communication?nothing=1"}, "criteria"),
        ({"criteria": "Subscription?status=active"}, "criteria"),
        ({"channel": {"type": "sms", "endpoint": "tel:123"}}, "channel.type"),
        ({"channel": {"type": "email", "endpoint": "https://bot.example/"}}, "channel.endpoint"),
        ({"channel": {"type": "email", "endpoint": "mailto:nobody"}}, "channel.endpoint"),
        (
            {
                "channel": {
                    "type": "email",
                    "endpoint": f"mailto:{BEN}",
                    "payload": "application/fhir+json",
                }
            },
            "channel.payload",
        ),
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
            {"channel": {"type": "rest-hook", "endpoint": "http://bot.example/"}},
            "channel.endpoint",
        ),
        (
            {"channel": {"type": "rest-hook", "endpoint": "https://bot.example:8443/"}},
            "channel.endpoint",
        ),
        (
            {"channel": {"type": "rest-hook", "endpoint": "https://bot.example\\@evil.example/"}},
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
        *(
            (
                {
                    "channel": {
                        "type": "rest-hook",
                        "endpoint": "https://bot.example/",
                        "header": [header],
                    }
                },
                "channel.header",
            )
            for header in ("Host: evil.example", "Content-Length: 5", "X-Direct-Event: x", "a b: c")
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


async def test_a_scope_that_was_taken_away_ends_what_is_told(bench: Bench, bot: Bot) -> None:
    await subscribed(bench)
    await bench.world.receive(MAIL)
    await bench.notifier.run_once()
    less = fhir_client.update().values(scopes="system/Patient.rs")
    await bench.world.database.write(lambda c: c.execute(less) and None)
    await bench.run()
    assert not bot.events


async def test_a_query_of_the_endpoint_stays_behind_the_path(bench: Bench, bot: Bot) -> None:
    await subscribed(
        bench, endpoint="https://bot.example/hook?site=1", payload="application/fhir+json"
    )
    identity = await bench.world.receive(MAIL)
    await bench.run()
    [call] = bot.events
    assert call.url.raw_path == f"/hook/Communication/{identity}?site=1".encode()
