"""Received messages that are in progress until they are read (fhir.md 3.5; section 2 row 17)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from fhir_bridge.terms import InboundStatus
from tests.unit.fhir_bridge.conftest import BEN, World, communication
from tests.unit.fhir_bridge.test_inbound import HEADER, seen

UNREAD = "/Task?code=read-receipt&status=requested&_summary=count"


async def received(world: World, number: int = 1) -> UUID:
    message = HEADER.replace(b"<1@", b"<%d@" % number) + b"\r\nx"
    return await world.receive(message, status=InboundStatus.IN_PROGRESS)


async def shown(world: World, identity: UUID) -> dict[str, Any]:
    found: dict[str, Any] = (await world.http.get(f"/Communication/{identity}")).json()
    return found


async def unread(world: World) -> int:
    return int((await world.http.get(UNREAD)).json()["total"])


def test_a_message_is_completed_on_arrival_unless_the_operator_wants_otherwise() -> None:
    message = HEADER + b"\r\nx"
    assert seen(message).communication["status"] == "completed"
    wanted = seen(message, status=InboundStatus.IN_PROGRESS)
    assert wanted.communication["status"] == "in-progress"


@pytest.mark.parametrize("how", ["put", "patch"])
async def test_who_completes_a_message_has_read_it(world: World, how: str) -> None:
    identity = await received(world)
    assert await unread(world) == 1
    url = f"/Communication/{identity}"
    if how == "put":
        whole = {**await shown(world, identity), "status": "completed"}
        answer = await world.http.put(url, json=whole)
    else:
        change = [{"op": "replace", "path": "/status", "value": "completed"}]
        headers = {"content-type": "application/json-patch+json"}
        answer = await world.http.patch(url, json=change, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert await unread(world) == 0
    inbox = (await world.http.get("/Communication/$inbox")).text
    assert '"valueUnsignedInt":0' in inbox


async def test_who_reads_a_message_completes_it_and_who_unreads_it_opens_it(world: World) -> None:
    first, second = await received(world), await received(world, 2)
    await world.http.post(f"/Communication/{first}/$mark-read")
    assert (await shown(world, first))["status"] == "completed"
    assert (await shown(world, second))["status"] == "in-progress"
    await world.http.post(f"/Communication/{first}/$mark-read?read=false")
    assert (await shown(world, first))["status"] == "in-progress"


async def test_who_completes_the_task_completes_the_message(world: World) -> None:
    identity = await received(world)
    found = (await world.http.get(f"/Task?focus=Communication/{identity}")).json()
    task = found["entry"][0]["resource"]
    await world.http.put(f"/Task/{task['id']}", json={**task, "status": "completed"})
    assert (await shown(world, identity))["status"] == "completed"
    await world.http.put(f"/Task/{task['id']}", json={**task, "status": "requested"})
    assert (await shown(world, identity))["status"] == "in-progress"


@pytest.mark.parametrize("status", ["preparation", "on-hold", "not-done", "stopped", "unknown"])
async def test_a_received_message_comes_to_no_other_end(world: World, status: str) -> None:
    identity = await received(world)
    whole = {**await shown(world, identity), "status": status}
    answer = await world.http.put(f"/Communication/{identity}", json=whole)
    assert answer.status_code == 409


async def test_a_message_that_was_completed_on_arrival_stays_so(world: World) -> None:
    identity = await world.receive(HEADER + b"\r\nx")
    whole = {**await shown(world, identity), "status": "in-progress"}
    answer = await world.http.put(f"/Communication/{identity}", json=whole)
    assert answer.status_code == 409
    for read in ("true", "false"):
        await world.http.post(f"/Communication/{identity}/$mark-read?read={read}")
        assert (await shown(world, identity))["status"] == "completed"
        assert (await shown(world, identity))["meta"]["versionId"] == "1"


async def test_a_note_on_a_message_does_not_read_it(world: World) -> None:
    for identity in (await world.receive(HEADER + b"\r\nx"), await received(world, 2)):
        whole = {**await shown(world, identity), "note": [{"text": "call back"}]}
        answer = await world.http.put(f"/Communication/{identity}", json=whole)
        assert answer.status_code == 200
    assert await unread(world) == 2


async def test_what_was_retracted_stays_so_when_it_is_read(world: World) -> None:
    identity = await received(world)
    whole = {**await shown(world, identity), "status": "entered-in-error"}
    await world.http.put(f"/Communication/{identity}", json=whole)
    await world.http.post(f"/Communication/{identity}/$mark-read")
    assert (await shown(world, identity))["status"] == "entered-in-error"


async def test_nobody_completes_what_was_sent(world: World) -> None:
    world.outbox.codes = {BEN: ("relayed", None)}
    sent = (await world.http.post("/Communication", json=communication())).json()
    assert sent["status"] == "in-progress"
    answer = await world.http.put(
        f"/Communication/{sent['id']}", json={**sent, "status": "completed"}
    )
    assert answer.status_code == 409
