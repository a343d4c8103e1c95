"""The API over each database: what is SQL of ours works on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from certs.ports import Database
from fhir_bridge.api import create_app
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


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    bodies = MemoryBodies()
    outbox = MemoryOutbox(database, bodies)
    preflight = MemoryPreflight()
    app = create_app(
        database=database, bodies=bodies, outbox=outbox, clock=lambda: NOW, base_url=BASE
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as http:
        world = World(database, bodies, outbox, http, preflight)
        http.headers.update(await world.add_client("ehr", ANNA))
        yield world


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
