from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from tests.unit.fhir_bridge.conftest import ANNA, BEN, NOW, World, communication


def mail(number: int, *, subject: str = "x", sender: str = BEN, more: str = "") -> bytes:
    return (
        f"From: Ben <{sender}>\r\nTo: {ANNA}\r\nSubject: {subject}\r\n"
        f"Date: Fri, 02 Jan 2026 {number:02}:00:00 +0000\r\n"
        f"Message-ID: <{number}@lakeview.example>\r\n{more}\r\nx\r\n"
    ).encode()


async def found(world: World, query: str) -> list[Any]:
    answer = await world.http.get(f"/Communication?{query}")
    assert answer.status_code == 200, answer.text
    bundle = answer.json()
    get_fhir_model_class("Bundle").model_validate(bundle)
    return [e["resource"] for e in bundle.get("entry", [])]


@pytest.fixture
async def ids(world: World) -> list[str]:
    """Three messages received at 1, 2 and 3 o'clock, the last from somebody else."""
    senders = [BEN, BEN, "cara@direct.lakeview.example"]
    return [
        str(await world.receive(mail(n + 1, sender=sender), at=NOW + timedelta(minutes=n)))
        for n, sender in enumerate(senders)
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sender=mailto:ben@direct.lakeview.example", [0, 1]),
        ("sender=mailto:BEN@direct.lakeview.example", [0, 1]),
        ("sender:identifier=urn:ietf:rfc:3986|mailto:ben@direct.lakeview.example", [0, 1]),
        ("sender:identifier=|mailto:ben@direct.lakeview.example", []),
        ("sender:identifier=other|mailto:ben@direct.lakeview.example", []),
        ("sender:text=ben", [0, 1, 2]),
        ("recipient:identifier=mailto:anna@direct.hillside.example", [0, 1, 2]),
        ("sender=Practitioner/1", []),
        ("sender:Practitioner=1", []),
        ("identifier=mid:2@lakeview.example", [1]),
        ("identifier=urn:ietf:rfc:3986|mid:2@lakeview.example,mid:3@lakeview.example", [1, 2]),
        ("identifier=urn:ietf:rfc:3986|", [0, 1, 2]),
        ("identifier:not=mid:2@lakeview.example", [0, 2]),
        ("sent=2026-01-02", [0, 1, 2]),
        ("sent=2026-01-02T02:00:00Z", [1]),
        ("sent=2026-01-01T21:00:00-05:00", [1]),
        ("sent=2026-01-01T21:00:00.000-05:00", []),
        ("sent=gt2026-01-02T02:00:00Z", [2]),
        ("sent=ge2026-01-02T02:00:00Z", [1, 2]),
        ("sent=lt2026-01-02T02:00:00Z", [0]),
        ("sent=le2026-01-02T02:00:00Z", [0, 1]),
        ("sent=ne2026-01-02T02:00:00Z", [0, 2]),
        ("sent=sa2026-01-02T02:00Z", [2]),
        ("sent=eb2026-01-02T02:00Z", [0]),
        ("sent=ap2026-01-02T02:30:00Z", [1, 2]),
        ("sent=ge2026-01-02T02:00:00Z&sent=lt2026-01-02T03:00:00Z", [1]),
        ("sent=2025", []),
        ("sent=2026-01", [0, 1, 2]),
        ("received=ge2026-01-02T12:01:00Z", [1, 2]),
        ("_lastUpdated=ge2026-01-02T12:01:00Z", [1, 2]),
        ("status=completed", [0, 1, 2]),
        ("status=completed,stopped", [0, 1, 2]),
        ("status=no\\\\,completed", [0, 1, 2]),  # an escaped backslash, then "or"
        ("status=no\\,completed", []),
        ("status:not=completed", []),
        ("topic:text=X", [0, 1, 2]),
        ("medium=direct-project", [0, 1, 2]),
        ("direction=inbound", [0, 1, 2]),
        ("delivery-recipient=mailto:Anna@direct.hillside.example", [0, 1, 2]),
        ("delivery-recipient:identifier=mailto:nobody@direct.hillside.example", []),
        ("thread=<1@lakeview.example>", [0]),
        ("encounter:missing=true", [0, 1, 2]),
        ("encounter:missing=false", []),
        ("sender:missing=false", [0, 1, 2]),
        ("unknown=1", [0, 1, 2]),
        ("status=", [0, 1, 2]),
    ],
)
async def test_a_search_finds(
    world: World, ids: list[str], query: str, expected: list[int]
) -> None:
    results = await found(world, f"part-of:missing=false&_sort=sent&{query}")
    assert [r["id"] for r in results] == [ids[n] for n in expected]


async def test_the_thread_lists_of_medplum_clients_work(world: World, ids: list[str]) -> None:
    headers = await found(world, "part-of:missing=true&status:not=completed&_sort=-_lastUpdated")
    assert len(headers) == 3
    children = await found(world, f"part-of=Communication/{headers[2]['id']}&_sort=sent")
    assert [c["id"] for c in children] == [ids[0]]
    assert await found(world, f"part-of={headers[2]['id']}") == []


async def test_results_can_be_named_by_id(world: World, ids: list[str]) -> None:
    assert len(await found(world, f"_id={ids[0]},{ids[1]},nonsense")) == 2
    assert len(await found(world, f"_id:not={ids[0]}&part-of:missing=false")) == 2


async def test_a_search_may_be_posted(world: World, ids: list[str]) -> None:
    answer = await world.http.post(
        "/Communication/_search?_count=10", data={"identifier": "mid:2@lakeview.example"}
    )
    assert [e["resource"]["id"] for e in answer.json()["entry"]] == [ids[1]]
    refused = await world.http.post("/Communication/_search", json={"identifier": "x"})
    assert refused.status_code == 415


@pytest.mark.parametrize("order", ["sent", "-sent", "received", "-_lastUpdated", "status,-sent"])
async def test_pages_follow_each_other_and_new_mail_does_not_move_them(
    world: World, order: str
) -> None:
    for n in range(1, 10):
        await world.receive(mail(n), at=NOW + timedelta(minutes=n))
    query = f"part-of:missing=false&_sort={order}"
    expected = [r["id"] for r in await found(world, query)]
    answer = (await world.http.get(f"/Communication?{query}&_count=4")).json()
    seen = []
    newest = order.startswith("-")
    while True:
        seen += [e["resource"]["id"] for e in answer["entry"]]
        links = {link["relation"]: link["url"] for link in answer["link"]}
        if "next" not in links:
            break
        if newest and len(seen) == 4:
            await world.receive(mail(20), at=NOW + timedelta(hours=1))
        answer = (await world.http.get(links["next"])).json()
    assert seen == expected


async def test_a_total_is_told_when_asked_for(world: World, ids: list[str]) -> None:
    answer = (await world.http.get("/Communication?_count=1&part-of:missing=false")).json()
    assert "total" not in answer
    for query in ("_total=accurate&_count=1", "_summary=count", "_count=0"):
        answer = (await world.http.get(f"/Communication?part-of:missing=false&{query}")).json()
        assert answer["total"] == 3
    assert "entry" not in answer


async def test_elements_are_marked_as_a_part(world: World, ids: list[str]) -> None:
    [resource] = await found(world, f"_id={ids[0]}&_elements=sent")
    assert set(resource) == {"resourceType", "id", "meta", "status", "sent"}
    assert resource["meta"]["tag"][0]["code"] == "SUBSETTED"


async def test_the_self_link_shows_what_was_used(world: World) -> None:
    answer = (await world.http.get("/Communication?status=completed&nonsense=1")).json()
    assert answer["link"][0]["url"].endswith("/Communication?status=completed")
    answer = (await world.http.get("/Communication?nonsense=1")).json()
    assert answer["link"][0]["url"].endswith("/Communication")


@pytest.mark.parametrize(
    "query",
    [
        "sent=yesterday",
        "sent=2026-13",
        "sent=2026-02-30",
        "_count=many",
        "_count=-1",
        "_cursor=!!!",
        "_cursor=W10",
        "_cursor=WzFd",
        "_cursor=WyJ4IiwieSJd",
        "status:contains=x",
        "sender:above=x",
        "sender:medication=x",
        "sender:Medication=x",
        "sent:exact=2026",
        "encounter:missing=perhaps",
        "status=" + ",".join("x" * 101),
        "&".join("status=x" for _ in range(51)),
    ],
)
async def test_a_search_that_cannot_be_read_is_refused(world: World, query: str) -> None:
    answer = await world.http.get(f"/Communication?{query}")
    assert answer.status_code == 400
    get_fhir_model_class("OperationOutcome").model_validate(answer.json())


@pytest.mark.parametrize("query", ["nonsense=1", "_sort=nonsense"])
async def test_a_strict_search_refuses_what_it_does_not_know(world: World, query: str) -> None:
    headers = {"prefer": "handling=strict"}
    assert (await world.http.get(f"/Communication?{query}", headers=headers)).status_code == 400
    assert (await world.http.get(f"/Communication?{query}")).status_code == 200


async def test_an_escaped_comma_is_a_comma(world: World) -> None:
    reference = {"system": "urn:x", "value": "a,b|c"}
    posted = communication(status="completed", identifier=[reference])
    await world.http.post("/Communication", json=posted)
    assert len(await found(world, r"identifier=urn:x|a\,b\|c")) == 1
    assert await found(world, "identifier=urn:x|a,b") == []


@pytest.mark.parametrize("order", ["-_lastUpdated", "_lastUpdated", "-sent", "sent,-_id"])
async def test_the_messages_of_several_mailboxes_come_in_one_order(
    world: World, order: str
) -> None:
    boxes = [f"box{number}@direct.hillside.example" for number in range(3)]
    headers = await world.add_client("both", *boxes)
    for number in range(9):
        at = NOW + timedelta(minutes=number)
        await world.receive(mail(number, subject=f"s{number}"), mailbox=boxes[number % 3], at=at)
    await world.receive(mail(10))  # Anna's is not theirs
    url: str | None = f"/Communication?part-of:missing=false&_sort={order}&_count=2"
    seen: list[str] = []
    while url is not None:
        bundle = (await world.http.get(url, headers=headers)).json()
        seen += [e["resource"]["topic"]["text"] for e in bundle.get("entry", [])]
        links = {link["relation"]: link["url"] for link in bundle["link"]}
        url = links.get("next")
    expected = [f"s{number}" for number in range(9)]
    assert seen == (expected[::-1] if order.startswith("-") else expected)
