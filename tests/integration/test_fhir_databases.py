"""The API over each database: what is SQL of ours works on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from certs.ports import Database
from fhir_bridge import matching
from fhir_bridge.api import create_app
from fhir_bridge.export_api import SETTLED
from fhir_bridge.socket_news import Wanted, bindable, news_of
from fhir_bridge.socket_tokens import issue_token
from tests.unit.fhir_bridge.conftest import (
    ANNA,
    BASE,
    BEN,
    NOW,
    MemoryBodies,
    MemoryOutbox,
    MemoryPreflight,
    World,
    communication,
)
from tests.unit.fhir_bridge.test_process_message import about


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    bodies = MemoryBodies()
    outbox = MemoryOutbox(database, bodies)
    made: list[World] = []
    async with process_of(database, bodies, outbox, made) as http:
        world = World(database, bodies, outbox, http, MemoryPreflight())
        made.append(world)
        http.headers.update(await world.add_client("ehr", ANNA))
        yield world


def process_of(
    database: Database, bodies: MemoryBodies, outbox: MemoryOutbox, made: list[World]
) -> httpx.AsyncClient:
    """Return a client of an API on this database, which shares nothing else with another."""
    app = create_app(
        database=database,
        bodies=bodies,
        outbox=outbox,
        clock=lambda: made[0].now,
        base_url=BASE,
        decision_wait_s=0,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=BASE)


async def entries(world: World, url: str) -> list[Any]:
    answer = await world.http.get(url)
    assert answer.status_code == 200, answer.text
    return list(answer.json().get("entry", []))


async def test_messages_are_kept_found_and_changed(world: World) -> None:
    for number in (1, 2, 3):
        mail = (
            f"From: {BEN}\r\nTo: {ANNA}\r\nSubject: s{number}\r\n"
            f"Date: Fri, 02 Jan 2026 0{number}:00:00 +0000\r\n"
            f"Message-ID: <{number}@x.example>\r\nReferences: <1@x.example>\r\n\r\nx\r\n"
        )
        await world.receive(mail.encode(), at=NOW + timedelta(minutes=number))
    patient = await world.http.post(
        "/Patient", json={"resourceType": "Patient", "name": [{"family": "Helberg"}]}
    )
    subject = {"reference": f"Patient/{patient.json()['id']}"}
    draft = await world.http.post(
        "/Communication", json=communication(status="preparation", subject=subject)
    )
    url = f"/Communication/{draft.json()['id']}"
    assert (await world.http.put(url, json=draft.json())).status_code == 200
    messages = "/Communication?part-of:missing=false"
    shown = await entries(world, f"{messages}&_sort=-sent")
    assert [e["resource"]["topic"]["text"] for e in shown] == ["s3", "s2", "s1"]
    first = (await world.http.get(f"{messages}&_sort=-sent&_count=2")).json()
    following = next(link["url"] for link in first["link"] if link["relation"] == "next")
    assert len(await entries(world, following)) == 1
    for query, count in (
        ("sent=gt2026-01-02T01:30:00Z", 2),
        ("identifier:not=mid:1@x.example", 2),
        ("sender=mailto:ben@direct.lakeview.example&_sort=received,status", 3),
        ("_lastUpdated=ge2026-01-02&_total=accurate", 3),
        ("_has:Provenance:target:_id:not=null", 3),
    ):
        assert len(await entries(world, f"{messages}&{query}")) == count, query
    included = await entries(
        world, "/Communication?patient.family=helberg&_include=Communication:subject"
    )
    assert len(included) == 2
    assert len(await entries(world, f"{url}/_history")) == 2
    assert len(await entries(world, "/_history?_count=3")) == 3
    [header, last] = await entries(world, "/Communication/$inbox")
    assert last["resource"]["topic"]["text"] == "s3"
    marked = await world.http.post(f"/Communication/{header['resource']['id']}/$mark-read")
    assert marked.json()["parameter"][0]["valueInteger"] == 3
    sent = await world.http.post("/Communication", json=communication())
    assert sent.status_code == 201, sent.text
    assert len(await entries(world, f"/Task?focus=Communication/{sent.json()['id']}")) == 1
    assert (await world.http.delete(url)).status_code == 204


async def test_subscriptions_are_matched_and_told(world: World) -> None:
    for channel in ({"type": "websocket"}, {"type": "email", "endpoint": f"mailto:{BEN}"}):
        made = await world.http.post(
            "/Subscription",
            json={
                "resourceType": "Subscription",
                "status": "requested",
                "reason": "x",
                "criteria": "Communication?direction=inbound",
                "channel": channel,
            },
        )
        assert made.status_code == 201, made.text
    mail = f"From: {BEN}\r\nTo: {ANNA}\r\nMessage-ID: <1@x.example>\r\n\r\nx\r\n"
    received = await world.receive(mail.encode())
    count, told = await world.database.write(lambda c: matching.match(c, NOW))
    assert (count >= 3, len(told)) == (True, 2)
    assert not await world.database.read(matching.anything_changed)
    [by_mail] = await world.database.read(matching.owing)
    owed = await world.database.read(lambda c: matching.first_owed(c, by_mail))
    assert owed is not None
    assert owed.resource == received
    [by_socket] = told - {by_mail}
    stored = await world.database.read(lambda c: matching.present(c, by_socket))
    assert stored is not None
    client = await world.database.read(lambda c: matching.subscriber_of(c, stored))
    assert client is not None
    token = await world.database.write(lambda c: issue_token(c, by_socket, client, NOW))
    found = await world.database.read(lambda c: bindable(c, token, None, None, NOW))
    assert found is not None
    wanted = {found.subscriber: Wanted(NOW)}
    news = await world.database.read(lambda c: news_of(c, wanted, NOW))
    [one] = news[found.subscriber].news
    assert one.event is not None
    assert one.event.resource == f"Communication/{received}"
    later = NOW + timedelta(hours=1)
    await world.database.write(lambda c: matching.forget_old(c, later))
    news = await world.database.read(lambda c: news_of(c, wanted, NOW))
    assert not news[found.subscriber].news


async def test_an_export_is_as_it_was_at_its_beginning_whichever_process_answers(
    world: World,
) -> None:
    made = []
    for number in range(5):
        patient = {"resourceType": "Patient", "active": True}
        made.append((await world.http.post("/Patient", json=patient)).json()["id"])
        world.now += timedelta(milliseconds=number % 2)
    draft = communication(status="preparation", subject={"reference": f"Patient/{made[0]}"})
    await world.http.post("/Communication", json=draft)
    group = {"resourceType": "Group", "type": "person", "actual": True,
             "member": [{"entity": {"reference": f"Patient/{made[0]}"}}]}  # fmt: skip
    url = f"/Group/{(await world.http.post('/Group', json=group)).json()['id']}/$export"
    found = []
    for path in ("/$export?_type=Patient&_since=2026-01-01", url, "/Patient/$export"):
        begun = await world.http.get(path, headers={"prefer": "respond-async"})
        assert begun.status_code == 202, begun.text
        found.append(begun.headers["content-location"])
    world.now += timedelta(seconds=1)
    changed = {"resourceType": "Patient", "id": made[1], "active": False}
    await world.http.put(f"/Patient/{made[1]}", json=changed)
    await world.http.delete(f"/Patient/{made[2]}")
    world.now += SETTLED
    async with process_of(world.database, world.bodies, world.outbox, [world]) as other:
        other.headers.update(world.http.headers)
        for status, patients, types in (
            (found[0], made, {"Patient"}),
            (found[1], made[:1], {"Patient", "Communication", "Group"}),
            (found[2], made, {"Patient", "Communication", "Group"}),
        ):
            manifest = (await other.get(status)).json()
            assert {file["type"] for file in manifest["output"]} == types
            assert manifest.get("deleted", []) == []
            lines = (await other.get(f"{status}/Patient.ndjson")).text.splitlines()
            shown = {p["id"]: p["active"] for p in map(json.loads, lines)}
            assert shown == dict.fromkeys(patients, True)
        since = "/$export?_type=Patient&_since=2026-01-02T12:00:00.500Z"
        later = await world.http.get(since, headers={"prefer": "respond-async"})
        status = later.headers["content-location"]
        world.now += SETTLED
        [file] = (await other.get(status)).json()["deleted"]
        [entry] = json.loads((await other.get(file["url"])).text)["entry"]
        assert entry["request"]["url"] == f"Patient/{made[2]}"


async def test_a_message_is_sent_once_whichever_processes_take_it(world: World) -> None:
    bundle = about()
    async with process_of(world.database, world.bodies, world.outbox, [world]) as other:
        other.headers.update(world.http.headers)
        answers = await asyncio.gather(
            *(http.post("/$process-message", json=bundle) for http in (world.http, other) * 4)
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert len(world.outbox.submissions) == 1
