"""A message to a Group or a CareTeam goes to its members."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_bridge.groups import MEMBERS_MAX
from tests.unit.fhir_bridge.conftest import BEN, TERMS, World, communication

CAROL = "carol@direct.lakeview.example"


async def put(world: World, **resource: Any) -> str:
    answer = await world.http.post(f"/{resource['resourceType']}", json=resource)
    assert answer.status_code == 201, answer.text
    return f"{resource['resourceType']}/{answer.json()['id']}"


async def person(world: World, address: str) -> str:
    telecom = [{"system": "email", "value": address}]
    return await put(world, resourceType="Practitioner", telecom=telecom)


async def group(world: World, *members: str, inactive: str | None = None) -> str:
    listed = [{"entity": {"reference": m}, "inactive": m == inactive} for m in members]
    return await put(
        world, resourceType="Group", type="practitioner", actual=True, member=listed
    )  # fmt: skip


def to(*references: str) -> dict[str, Any]:
    role = {"url": TERMS.extension("recipient-role"), "valueCode": "cc"}
    return communication(recipient=[{"extension": [role], "reference": r} for r in references])


@pytest.mark.parametrize("kind", ["Group", "CareTeam"])
async def test_each_member_is_a_recipient_with_its_own_delivery(world: World, kind: str) -> None:
    ben, carol = await person(world, BEN), await person(world, CAROL)
    if kind == "Group":
        named = await group(world, ben, carol)
    else:
        members = [{"member": {"reference": ben}}, {"member": {"reference": carol}}]
        named = await put(world, resourceType="CareTeam", participant=members)
    answer = await world.http.post("/Communication", json=to(named))
    assert answer.status_code == 201, answer.text
    [sent] = world.outbox.submissions
    assert {str(address) for address in sent.recipients} == {BEN, CAROL}
    assert b"Cc: " in world.outbox.message()
    for recipient in answer.json()["recipient"]:
        urls = {e["url"] for e in recipient["extension"]}
        assert {TERMS.extension("member-of"), TERMS.extension("delivery")} <= urls
    url = f"/Task?focus=Communication/{answer.json()['id']}"
    assert (await world.http.get(url)).json()["total"] == 2


async def test_an_inactive_member_gets_nothing(world: World) -> None:
    ben, carol = await person(world, BEN), await person(world, CAROL)
    named = await group(world, ben, carol, inactive=carol)
    await world.http.post("/Communication", json=to(named))
    assert [str(a) for a in world.outbox.submissions[0].recipients] == [BEN]


async def test_who_is_named_twice_gets_one_message(world: World) -> None:
    ben = await person(world, BEN)
    answer = await world.http.post("/Communication", json=to(await group(world, ben), ben))
    assert answer.status_code == 201, answer.text
    assert len(world.outbox.submissions[0].recipients) == 1


async def test_every_member_that_cannot_be_reached_is_told(world: World) -> None:
    nobody = [await put(world, resourceType="Practitioner", active=True) for _ in range(2)]
    named = await group(world, await person(world, BEN), *nobody)
    answer = await world.http.post("/Communication", json=to(named))
    assert answer.status_code == 422
    assert len(answer.json()["issue"]) == 2
    assert world.outbox.submissions == []


async def test_a_group_of_nobody_is_refused(world: World) -> None:
    named = await put(world, resourceType="Group", type="practitioner", actual=True)
    answer = await world.http.post("/Communication", json=to(named))
    assert answer.status_code == 422


async def test_a_group_of_too_many_is_refused(world: World) -> None:
    ben = await person(world, BEN)
    named = await group(world, *[ben] * (MEMBERS_MAX + 1))
    answer = await world.http.post("/Communication", json=to(named))
    assert answer.json()["issue"][0]["code"] == "too-costly"


async def test_a_preflight_tells_of_each_member(world: World) -> None:
    named = await group(world, await person(world, BEN), await person(world, CAROL))
    answer = await world.http.post("/Communication/$preflight", json=to(named))
    assert len(answer.json()["parameter"]) == 2
