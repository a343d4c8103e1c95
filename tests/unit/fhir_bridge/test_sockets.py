"""Websockets over a real server: uvicorn on loopback, and the websockets client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fhir_bridge import matching
from fhir_bridge.api import create_app
from fhir_bridge.backend_clients import issue_token
from fhir_bridge.clients import disable_client, named_client
from fhir_bridge.hooks import Hooks, SystemResolver
from fhir_bridge.mail_channel import MailChannel
from fhir_bridge.notifier import Notifier
from fhir_bridge.scopes import parse_scopes
from fhir_bridge.socket_protocol import Bind, BindById, Ping, Unbind, spoken
from fhir_bridge.socket_tokens import LIFETIME
from fhir_bridge.sockets import SOCKET_PATH, Sockets
from fhir_bridge.tables import fhir_client
from gateway.http_server import HttpServer
from tests.unit.fhir_bridge.conftest import ANNA, BASE, BEN, World, communication

MAIL = f"From: {BEN}\r\nTo: {ANNA}\r\nMessage-ID: <1@x.example>\r\n\r\nsecret text\r\n".encode()


@pytest.fixture
async def where(world: World) -> AsyncIterator[str]:
    """Serve the world's API once more, by uvicorn; return the URL of its websockets."""
    server = HttpServer(tls=None)
    host, port = server.bind("127.0.0.1", 0)
    app = create_app(
        database=world.database,
        bodies=world.bodies,
        outbox=world.outbox,
        clock=lambda: world.now,
        base_url=BASE,
        decision_wait_s=0,
    )
    await server.start(app)
    yield f"ws://{host}:{port}{SOCKET_PATH}"
    await server.stop(10)


async def matched(world: World) -> None:
    hooks = Hooks(hosts=(), resolver=SystemResolver(allow_private=False))
    mail = MailChannel(bodies=world.bodies, outbox=world.outbox, base_url=BASE)
    notifier = Notifier(
        database=world.database,
        deliveries=world.deliveries,
        hooks=hooks,
        mail=mail,
        clock=lambda: world.now,
    )
    while await notifier.run_once():
        pass
    await hooks.aclose()


async def subscribed(world: World, **elements: Any) -> str:
    answer = await world.http.post(
        "/Subscription",
        json={
            "resourceType": "Subscription",
            "status": "active",
            "reason": "live list",
            "criteria": "Communication?direction=inbound",
            "channel": {"type": "websocket"},
            **elements,
        },
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "active"
    identity: str = answer.json()["id"]
    return identity


async def narrowed(world: World, scopes: str) -> dict[str, str]:
    """Return the headers of an issued token that opens less than its client may have."""

    def work(connection: sa.Connection) -> str:
        client = named_client(connection, "ehr")
        assert client is not None
        return issue_token(connection, client, parse_scopes(scopes), world.now)

    return {"authorization": f"Bearer {await world.database.write(work)}"}


async def token_of(world: World, identity: str) -> str:
    answer = await world.http.get(f"/Subscription/{identity}/$get-ws-binding-token")
    assert answer.status_code == 200, answer.text
    parameters = {p["name"]: p for p in answer.json()["parameter"]}
    assert parameters["websocket-url"]["valueUrl"] == f"wss://gw.hillside.example{SOCKET_PATH}"
    token: str = parameters["token"]["valueString"]
    return token


def bind(token: str) -> str:
    return json.dumps({"type": "bind-with-token", "payload": {"token": token}})


async def heard(socket: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), 10))


@asynccontextmanager
async def bound(world: World, where: str, identity: str) -> AsyncIterator[ClientConnection]:
    async with connect(where) as socket:
        await socket.send(bind(await token_of(world, identity)))
        handshake = await heard(socket)
        status = handshake["entry"][0]["resource"]
        assert (handshake["type"], status["type"]) == ("history", "handshake")
        assert status["subscription"]["reference"] == f"Subscription/{identity}"
        yield socket


async def silent(socket: ClientConnection) -> None:
    """Say that nothing was sent: the pong to a ping comes next, after several looks for news."""
    await asyncio.sleep(0.6)
    await socket.send('{"type":"ping"}')
    assert await heard(socket) == {"type": "pong"}


async def test_a_bound_socket_is_told_with_the_resource_second(world: World, where: str) -> None:
    identity = await subscribed(world)
    async with bound(world, where, identity) as socket:
        received = await world.receive(MAIL)
        await matched(world)
        bundle = await heard(socket)
    status, resource = (entry["resource"] for entry in bundle["entry"])
    assert (status["type"], status["eventsSinceSubscriptionStart"]) == ("event-notification", "1")
    assert status["notificationEvent"][0]["focus"]["reference"] == f"Communication/{received}"
    assert (resource["resourceType"], resource["id"]) == ("Communication", str(received))


async def test_what_happened_between_the_token_and_the_bind_is_told(
    world: World, where: str
) -> None:
    identity = await subscribed(world)
    token = await token_of(world, identity)
    await world.receive(MAIL)
    await matched(world)
    async with connect(where) as socket:
        await socket.send(bind(token))
        assert (await heard(socket))["entry"][0]["resource"]["type"] == "handshake"
        assert (await heard(socket))["entry"][1]["resource"]["resourceType"] == "Communication"
        await silent(socket)


async def test_each_event_comes_once_to_each_socket(world: World, where: str) -> None:
    identity = await subscribed(world)
    async with (
        bound(world, where, identity) as one,
        bound(world, where, identity) as two,
    ):
        for number in range(3):
            await world.receive(MAIL.replace(b"<1@", f"<{number}@".encode()))
            world.now += timedelta(seconds=1)
            await matched(world)
        for socket in (one, two):
            numbers = [
                (await heard(socket))["entry"][0]["resource"]["eventsSinceSubscriptionStart"]
                for _ in range(3)
            ]
            assert numbers == ["1", "2", "3"]
            await silent(socket)


PATIENT = {"resourceType": "Patient", "name": [{"family": "Quux"}]}


async def wrote(world: World, *requests: tuple[str, str]) -> list[str]:
    """Do the requests in one transaction; return the ids of what was created, in its order."""
    entries = [
        {"request": {"method": m, "url": url}, **({"resource": PATIENT} if m != "DELETE" else {})}
        for m, url in requests
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    answer = await world.http.post("", json=bundle)
    assert answer.status_code == 200, answer.text
    return [e["resource"]["id"] for e in answer.json()["entry"] if "resource" in e]


async def test_one_clients_news_do_not_keep_anothers_waiting(world: World, where: str) -> None:
    eve = "eve@direct.hillside.example"
    theirs = await world.add_client("other", eve)
    [patient] = await wrote(world, ("POST", "Patient"))
    await matched(world)
    busy = [await subscribed(world, criteria="Patient?") for _ in range(41)]
    async with connect(where, additional_headers=theirs) as quiet:
        made = await world.http.post(
            "/Subscription",
            json={
                "resourceType": "Subscription",
                "status": "active",
                "reason": "live list",
                "criteria": "Communication?direction=inbound",
                "channel": {"type": "websocket"},
            },
            headers=theirs,
        )
        await quiet.send(f"bind {made.json()['id']}")
        assert "bound" in str(await asyncio.wait_for(quiet.recv(), 10))
        async with bound(world, where, await subscribed(world, criteria="Group?")) as socket:
            for identity in busy:
                await socket.send(bind(await token_of(world, identity)))
                assert (await heard(socket))["entry"][0]["resource"]["type"] == "handshake"
            for _ in range(5):
                await wrote(world, ("PUT", f"Patient/{patient}"))
            await matched(world)
            await world.receive(MAIL.replace(ANNA.encode(), eve.encode()), mailbox=eve)
            await matched(world)
            assert "ping" in str(await asyncio.wait_for(quiet.recv(), 10))
            told = [await heard(socket) for _ in range(5 * 41)]
            assert {e["entry"][0]["resource"]["type"] for e in told} == {"event-notification"}
            await silent(socket)


async def test_many_events_of_a_moment_are_told_in_their_order_and_once(
    world: World, where: str
) -> None:
    async with bound(world, where, await subscribed(world, criteria="Patient?")) as socket:
        written = await wrote(world, *(("POST", "Patient") for _ in range(250)))
        while await world.database.write(lambda c: matching.match(c, world.now)[0]):
            world.now += timedelta(milliseconds=1)
        told = [await heard(socket) for _ in range(250)]
        assert [bundle["entry"][1]["resource"]["id"] for bundle in told] == written
        await silent(socket)


async def test_a_reader_that_is_behind_loses_nothing_and_keeps_no_other_waiting(
    world: World, where: str
) -> None:
    identity = await subscribed(world, criteria="Patient?")
    large = {**PATIENT, "text": {"status": "additional", "div": f"<div>{'x' * 100_000}</div>"}}
    patient = UUID((await world.http.post("/Patient", json=large)).json()["id"])
    await matched(world)
    count = 450

    def owed(connection: sa.Connection) -> None:
        stored = matching.present(connection, UUID(identity))
        assert stored is not None
        for number in range(count):
            at = world.now + timedelta(microseconds=number)
            matching.owe(connection, stored, stored.resource(), patient, 1, at)

    world.now += timedelta(seconds=1)
    async with bound(world, where, identity) as slow, bound(world, where, identity) as quick:
        await world.database.write(owed)
        for socket in (quick, slow):
            told = [(await heard(socket))["entry"][0]["resource"] for _ in range(count)]
            numbers = [status["eventsSinceSubscriptionStart"] for status in told]
            assert numbers == [str(number) for number in range(1, count + 1)]
            await silent(socket)


async def test_what_is_gone_does_not_keep_what_follows_waiting(world: World, where: str) -> None:
    identity = await subscribed(world, criteria="Patient?")
    token = await token_of(world, identity)
    written = await wrote(world, *(("POST", "Patient") for _ in range(210)))
    await matched(world)
    await wrote(world, *(("DELETE", f"Patient/{each}") for each in written))
    [last] = await wrote(world, ("POST", "Patient"))
    await matched(world)
    async with connect(where) as socket:
        await socket.send(bind(token))
        assert (await heard(socket))["entry"][0]["resource"]["type"] == "handshake"
        status, resource = (entry["resource"] for entry in (await heard(socket))["entry"])
        assert (resource["id"], status["eventsSinceSubscriptionStart"]) == (last, "1")


async def test_what_is_written_a_little_late_is_told_also_where_nothing_was(
    world: World, where: str
) -> None:
    identity = await subscribed(world)
    async with bound(world, where, identity) as socket:
        started = world.now
        world.now += timedelta(seconds=9)
        await silent(socket)  # it was looked at, and nothing was there
        await world.receive(MAIL)
        await world.database.write(lambda c: matching.match(c, started) and None)
        assert (await heard(socket))["entry"][1]["resource"]["resourceType"] == "Communication"
        await silent(socket)


async def test_nothing_of_another_mailbox_comes_over_a_socket(world: World, where: str) -> None:
    identity = await subscribed(world)
    async with bound(world, where, identity) as socket:
        await world.receive(
            MAIL.replace(ANNA.encode(), b"eve@direct.hillside.example"),
            mailbox="eve@direct.hillside.example",
        )
        await matched(world)
        await silent(socket)


async def test_an_unbound_subscription_is_told_no_more(world: World, where: str) -> None:
    identity = await subscribed(world)
    token = await token_of(world, identity)
    async with connect(where) as socket:
        await socket.send(bind(token))
        await heard(socket)
        leave = {"type": "unbind-from-token", "payload": {"token": token}}
        await socket.send(json.dumps(leave))
        await socket.send('{"type":"ping"}')
        assert await heard(socket) == {"type": "pong"}
        await world.receive(MAIL)
        await matched(world)
        await silent(socket)


@pytest.mark.parametrize("way", ["off", "deleted", "disabled"])
async def test_a_subscription_that_ended_is_told_no_more(
    world: World, where: str, way: str
) -> None:
    identity = await subscribed(world)
    async with bound(world, where, identity) as socket:
        if way == "off":
            resource = (await world.http.get(f"/Subscription/{identity}")).json()
            await world.http.put(f"/Subscription/{identity}", json={**resource, "status": "off"})
        elif way == "deleted":
            await world.http.delete(f"/Subscription/{identity}")
        else:
            await world.database.write(lambda c: disable_client(c, "ehr"))
        await world.receive(MAIL)
        await matched(world)
        await silent(socket)


async def test_a_token_is_good_for_a_while_and_guesses_end_the_socket(
    world: World, where: str
) -> None:
    identity = await subscribed(world)
    token = await token_of(world, identity)
    world.now += LIFETIME
    async with connect(where) as socket:
        for wrong in (bind(token), bind("guess"), "hello", "[]"):
            await socket.send(wrong)
            assert (await heard(socket))["type"] == "error"
        await socket.send(f"bind {identity}")
        with pytest.raises(ConnectionClosed) as closed:
            await heard(socket)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


async def test_r4s_own_words_on_a_socket_with_a_bearer_token(world: World, where: str) -> None:
    identity = await subscribed(world)
    headers = {"authorization": world.http.headers["authorization"]}
    async with connect(where, additional_headers=headers) as socket:
        await socket.send(f"bind {identity}")
        assert await asyncio.wait_for(socket.recv(), 10) == f"bound {identity}"
        await world.receive(MAIL)
        await matched(world)
        assert await asyncio.wait_for(socket.recv(), 10) == f"ping {identity}"


async def test_another_clients_subscription_cannot_be_bound(world: World, where: str) -> None:
    identity = await subscribed(world)
    theirs = await world.add_client("other", "eve@direct.hillside.example")
    async with connect(where, additional_headers=theirs) as socket:
        await socket.send(f"bind {identity}")
        assert (await heard(socket))["type"] == "error"


@pytest.fixture
async def narrow(world: World) -> AsyncIterator[str]:
    """Serve websockets of which each client may have two."""
    server = HttpServer(tls=None)
    host, port = server.bind("127.0.0.1", 0)
    sockets = Sockets(database=world.database, clock=lambda: world.now, base_url=BASE, per_client=2)
    await server.start(Starlette(routes=[WebSocketRoute(SOCKET_PATH, sockets.serve)]))
    yield f"ws://{host}:{port}{SOCKET_PATH}"
    await server.stop(10)


async def test_a_client_has_so_many_sockets_and_leaves_room_for_others(
    world: World, narrow: str
) -> None:
    identity = await subscribed(world)
    theirs = await world.add_client("other", "eve@direct.hillside.example")
    headers = {"authorization": world.http.headers["authorization"]}
    async with bound(world, narrow, identity), connect(narrow, additional_headers=headers) as own:
        async with connect(narrow) as third:  # nobody's yet
            await third.send(bind(await token_of(world, identity)))
            assert (await heard(third))["type"] == "error"
        with pytest.raises(InvalidStatus):
            async with connect(narrow, additional_headers=headers):
                pass
        await own.send(f"bind {identity}")  # its second, which it has already
        assert await asyncio.wait_for(own.recv(), 10) == f"bound {identity}"
        async with connect(narrow, additional_headers=theirs) as other:
            await other.send('{"type":"ping"}')
            assert await heard(other) == {"type": "pong"}
    async with bound(world, narrow, identity):
        pass  # what was closed counts no more


BEYOND = [
    ("system/Subscription.ru", "Communication?direction=inbound"),
    ("system/Subscription.ru system/Communication.r", "Communication?direction=inbound"),
    ("system/Subscription.ru system/Communication.s", "Communication?direction=inbound"),
    ("system/Subscription.ru system/Communication.rs", "Communication?subject:Patient.family=Quux"),
]


@pytest.mark.parametrize(("scopes", "criteria"), BEYOND)
async def test_a_token_learns_by_no_subscription_what_it_may_not_search_and_read(
    world: World, where: str, scopes: str, criteria: str
) -> None:
    identity = await subscribed(world, criteria=criteria)
    received = await world.receive(MAIL)
    token = await narrowed(world, scopes)
    url = f"/Subscription/{identity}"
    assert (await world.http.get(url, headers=token)).status_code == 200
    for path in (f"$resend?resource=Communication/{received}", "$resend"):
        answer = await world.http.post(f"{url}/{path}", headers=token)
        assert answer.status_code == 403, answer.text
    answer = await world.http.get(f"{url}/$get-ws-binding-token", headers=token)
    assert answer.status_code == 403
    async with connect(where, additional_headers=token) as socket:
        await socket.send(f"bind {identity}")
        assert (await heard(socket))["type"] == "error"


async def test_a_token_that_opens_what_a_subscription_tells_may_bind_and_resend(
    world: World, where: str
) -> None:
    identity = await subscribed(world)
    received = await world.receive(MAIL)
    token = await narrowed(world, "system/Subscription.ru system/Communication.rs")
    url = f"/Subscription/{identity}"
    answer = await world.http.get(f"{url}/$get-ws-binding-token", headers=token)
    assert answer.status_code == 200
    async with connect(where, additional_headers=token) as socket:
        await socket.send(f"bind {identity}")
        assert await asyncio.wait_for(socket.recv(), 10) == f"bound {identity}"
        again = f"{url}/$resend?resource=Communication/{received}"
        assert (await world.http.post(again, headers=token)).status_code == 200
        assert await asyncio.wait_for(socket.recv(), 10) == f"ping {identity}"


async def test_a_binding_tells_no_more_than_its_token_opened_when_the_criteria_change(
    world: World, where: str
) -> None:
    identity = await subscribed(world, criteria="Patient?")
    url = f"/Subscription/{identity}"
    token = await narrowed(world, "system/Subscription.r system/Patient.rs")
    answer = await world.http.get(f"{url}/$get-ws-binding-token", headers=token)
    async with connect(where) as socket, connect(where, additional_headers=token) as own:
        await socket.send(bind(answer.json()["parameter"][0]["valueString"]))
        assert (await heard(socket))["entry"][0]["resource"]["type"] == "handshake"
        await own.send(f"bind {identity}")
        assert await asyncio.wait_for(own.recv(), 10) == f"bound {identity}"
        await wrote(world, ("POST", "Patient"))
        await matched(world)
        assert (await heard(socket))["entry"][1]["resource"]["resourceType"] == "Patient"
        assert await asyncio.wait_for(own.recv(), 10) == f"ping {identity}"
        resource = (await world.http.get(url)).json()
        wider = {**resource, "criteria": "Communication?direction=inbound"}
        assert (await world.http.put(url, json=wider)).status_code == 200
        await world.receive(MAIL)
        await matched(world)
        await silent(socket)
        await silent(own)


CHAINED = "Communication?subject:Patient.family=Quux"


@pytest.mark.parametrize("when", ["before it is matched", "before it is told"])
async def test_a_registration_that_lost_the_scope_of_a_chain_is_told_no_more_by_it(
    world: World, where: str, when: str
) -> None:
    patient = {"resourceType": "Patient", "name": [{"family": "Quux"}]}
    subject = (await world.http.post("/Patient", json=patient)).json()["id"]
    identity = await subscribed(world, criteria=CHAINED)
    draft = communication(status="preparation", subject={"reference": f"Patient/{subject}"})
    less = fhir_client.update().values(scopes="system/Communication.cruds system/Subscription.r")
    async with bound(world, where, identity) as socket:
        assert (await world.http.post("/Communication", json=draft)).status_code == 201
        if when == "before it is told":
            await matched(world)
            assert (await heard(socket))["entry"][1]["resource"]["status"] == "preparation"
            assert (await world.http.post("/Communication", json=draft)).status_code == 201

            def both(connection: sa.Connection) -> None:
                matching.match(connection, world.now)
                connection.execute(less)

            await world.database.write(both)
        else:
            await world.database.write(lambda c: c.execute(less) and None)
            await matched(world)
        await silent(socket)


async def test_a_wrong_bearer_token_opens_no_socket(world: World, where: str) -> None:
    with pytest.raises(InvalidStatus):
        async with connect(where, additional_headers={"authorization": "Bearer nobody"}):
            pass


@pytest.mark.parametrize("message", [b"octets", "x" * 5000])
async def test_what_is_no_message_ends_the_socket(
    world: World, where: str, message: bytes | str
) -> None:
    async with connect(where) as socket:
        await socket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_a_hook_has_no_binding_token(world: World) -> None:
    channel = {"type": "rest-hook", "endpoint": "https://bot.example/"}
    answer = await world.http.post(
        "/Subscription",
        json={
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "x",
            "criteria": "Communication?",
            "channel": channel,
        },
    )
    identity = answer.json()["id"]
    refused: httpx.Response = await world.http.get(
        f"/Subscription/{identity}/$get-ws-binding-token"
    )
    assert refused.status_code == 409


UUID_TEXT = "0199b3a0-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"type":"ping"}', Ping),
        ('{"type":"bind-with-token","payload":{"token":"t"}}', Bind),
        ('{"type":"unbind-from-token","payload":{"token":"t"}}', Unbind),
        (f"bind {UUID_TEXT}", BindById),
        (f"bind: {UUID_TEXT}", BindById),
        ("bind ------------------------------------", type(None)),
        ('{"type":"bind-with-token"}', type(None)),
        ('{"type":"bind-with-token","payload":{"token":1}}', type(None)),
        ('{"type":["ping"]}', type(None)),
        ('{"type":"bind-with-token","payload":{"token":"' + "x" * 300 + '"}}', type(None)),
        ("null", type(None)),
        ("", type(None)),
    ],
)
def test_what_a_client_says(text: str, kind: type) -> None:
    assert type(spoken(text)) is kind
