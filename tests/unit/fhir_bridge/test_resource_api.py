from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from fhir.resources.R4B import get_fhir_model_class

from tests.unit.fhir_bridge.conftest import BASE, BEN, NOW, World, communication

IDENTIFIER = [{"system": "urn:x", "value": "1"}]


async def stored(world: World, **elements: Any) -> dict[str, Any]:
    answer = await world.http.post(
        "/Communication", json=communication(**{"status": "preparation", **elements})
    )
    assert answer.status_code == 201, answer.text
    resource: dict[str, Any] = answer.json()
    return resource


async def test_a_draft_is_updated(world: World) -> None:
    draft = await stored(world)
    url = f"/Communication/{draft['id']}"
    world.now = NOW + timedelta(minutes=1)
    answer = await world.http.put(url, json={**draft, "topic": {"text": "New"}})
    assert answer.status_code == 200
    assert answer.headers["etag"] == 'W/"2"'
    assert answer.json()["meta"]["lastUpdated"] == "2026-01-02T12:01:00.000Z"
    assert (await world.http.get(url)).json()["topic"] == {"text": "New"}
    assert (await world.http.get(f"{url}/_history/1")).json()["topic"] == {"text": "Referral"}
    found = await world.http.get("/Communication?topic:text=new")
    assert len(found.json()["entry"]) == 1


async def test_what_is_stored_is_what_was_written(world: World) -> None:
    body = (
        b'{"resourceType":"Communication","status":"preparation","sent":"2026-01-02T09:30:17+00:00",'
        b'"extension":[{"url":"http://x.example/d","valueDecimal":1.00}]}'
    )
    answer = await world.http.post(
        "/Communication", content=body, headers={"content-type": "application/fhir+json"}
    )
    assert b'"valueDecimal":1.00' in answer.content
    assert b'"sent":"2026-01-02T09:30:17+00:00"' in answer.content


async def test_a_draft_is_sent_when_it_goes_in_progress(world: World) -> None:
    draft = await stored(world)
    url = f"/Communication/{draft['id']}"
    answer = await world.http.put(url, json={**draft, "status": "in-progress"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] == draft["id"]
    assert len(world.outbox.submissions) == 1
    again = await world.http.put(url, json=answer.json())
    assert again.status_code == 200
    assert len(world.outbox.submissions) == 1


async def test_a_stale_update_is_refused(world: World) -> None:
    draft = await stored(world)
    url = f"/Communication/{draft['id']}"
    for etag, status in (('W/"1"', 200), ('W/"1"', 412), ("2", 200), ("nonsense", 412)):
        answer = await world.http.put(url, json=draft, headers={"if-match": etag})
        assert answer.status_code == status, etag


async def test_another_id_than_that_of_the_url_is_refused(world: World) -> None:
    draft = await stored(world)
    other = {**draft, "id": "019b7e94-3200-7f59-8821-036711df07e0"}
    answer = await world.http.put(f"/Communication/{draft['id']}", json=other)
    assert answer.status_code == 400


async def test_an_update_creates_nothing(world: World) -> None:
    url = "/Communication/019b7e94-3200-7f59-8821-036711df07e0"
    draft = communication(status="preparation", id="019b7e94-3200-7f59-8821-036711df07e0")
    assert (await world.http.put(url, json=draft)).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"payload": [{"contentString": "other"}]},
        {"topic": {"text": "other"}},
        {"sent": "2020-01-01T00:00:00Z"},
        {"recipient": []},
        {"status": "completed"},
        {"extension": []},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_what_was_sent_cannot_change(world: World, change: dict[str, Any]) -> None:
    sent = (await world.http.post("/Communication", json=communication())).json()
    changed = {k: v for k, v in {**sent, **change}.items() if v != []}
    answer = await world.http.put(f"/Communication/{sent['id']}", json=changed)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (409, "business-rule")


async def test_what_was_sent_can_be_annotated_and_retracted(world: World) -> None:
    sent = (await world.http.post("/Communication", json=communication())).json()
    changed = {
        **sent,
        "status": "entered-in-error",
        "note": [{"text": "wrong patient"}],
        "category": [{"text": "x"}],
    }
    answer = await world.http.put(f"/Communication/{sent['id']}", json=changed)
    assert answer.status_code == 200, answer.text
    world.outbox.codes[BEN] = ("processed", None)
    await world.outbox.settled(world.outbox.ids[0], 0)
    read = (await world.http.get(f"/Communication/{sent['id']}")).json()
    assert read["status"] == "entered-in-error"


@pytest.mark.parametrize(
    ("condition", "status"), [("urn:x|0", 201), ("urn:x|1", 200), ("urn:x|", 412)]
)
@pytest.mark.parametrize("form", ["header", "query"])
async def test_a_create_may_have_a_condition(
    world: World, condition: str, status: int, form: str
) -> None:
    first = await stored(world, identifier=IDENTIFIER)
    await stored(world, identifier=[{"system": "urn:x", "value": "2"}])
    query = f"identifier={condition}"
    answer = await world.http.post(
        f"/Communication?{query}" if form == "query" else "/Communication",
        json=communication(status="preparation"),
        headers={"if-none-exist": query} if form == "header" else {},
    )
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["id"] == first["id"]


async def test_a_condition_that_is_not_understood_is_refused(world: World) -> None:
    answer = await world.http.post(
        "/Communication", json=communication(), headers={"if-none-exist": "nonsense=1"}
    )
    assert answer.status_code == 400
    assert not world.outbox.submissions


async def test_an_update_may_have_a_condition(world: World) -> None:
    draft = communication(status="preparation", identifier=IDENTIFIER)
    url = "/Communication?identifier=urn:x|1"
    assert (await world.http.put(url, json=draft)).status_code == 201
    answer = await world.http.put(url, json={**draft, "topic": {"text": "New"}})
    assert (answer.status_code, answer.json()["meta"]["versionId"]) == (200, "2")
    assert (await world.http.put("/Communication", json=draft)).status_code == 412


async def patched(world: World, url: str, patch: Any, kind: str, **headers: str) -> Any:
    return await world.http.patch(
        url, content=orjson.dumps(patch), headers={"content-type": kind, **headers}
    )


@pytest.mark.parametrize("kind", ["application/merge-patch+json", "application/json"])
async def test_a_merge_patch_changes_and_removes(world: World, kind: str) -> None:
    url = f"/Communication/{(await stored(world))['id']}"
    answer = await patched(world, url, {"topic": {"text": "New"}, "payload": None}, kind)
    assert answer.status_code == 200, answer.text
    assert answer.json()["topic"] == {"text": "New"}
    assert "payload" not in answer.json()


async def test_a_json_patch_is_applied(world: World) -> None:
    url = f"/Communication/{(await stored(world))['id']}"
    kind = "application/json-patch+json; charset=UTF-8"
    patch = [
        {"op": "test", "path": "/topic/text", "value": "Referral"},
        {"op": "replace", "path": "/topic/text", "value": "New"},
        {"op": "add", "path": "/payload/-", "value": {"contentString": "more"}},
    ]
    answer = await patched(world, url, patch, kind, **{"if-match": 'W/"1"'})
    assert answer.status_code == 200, answer.text
    assert [p["contentString"] for p in answer.json()["payload"]][1] == "more"
    assert (await patched(world, url, patch, kind)).status_code == 409
    invalid = [{"op": "replace", "path": "/status", "value": "banana"}]
    assert (await patched(world, url, invalid, kind)).status_code == 400
    assert (await patched(world, url, {}, kind)).status_code == 400


async def test_another_kind_of_patch_is_refused(world: World) -> None:
    url = f"/Communication/{(await stored(world))['id']}"
    assert (await patched(world, url, {}, "text/plain")).status_code == 415
    assert (await patched(world, url, [], "application/merge-patch+json")).status_code == 400


async def test_a_patch_cannot_change_what_was_sent(world: World) -> None:
    sent = (await world.http.post("/Communication", json=communication())).json()
    url = f"/Communication/{sent['id']}"
    answer = await patched(world, url, {"topic": None}, "application/merge-patch+json")
    assert answer.status_code == 409


async def test_a_draft_is_deleted(world: World) -> None:
    url = f"/Communication/{(await stored(world))['id']}"
    assert (await world.http.delete(url)).status_code == 204
    assert (await world.http.get(url)).status_code == 410
    assert (await world.http.get(f"{url}/_history/1")).status_code == 200
    assert (await world.http.get(f"{url}/_history/2")).status_code == 410
    assert (await world.http.delete(url)).status_code == 204
    assert (await world.http.put(url, json=communication())).status_code == 410
    assert (await world.http.get("/Communication")).json()["total"] == 0


async def test_what_was_sent_is_kept(world: World) -> None:
    sent = (await world.http.post("/Communication", json=communication())).json()
    assert (await world.http.delete(f"/Communication/{sent['id']}")).status_code == 409


async def test_an_upload_is_deleted_until_a_message_has_it(world: World) -> None:
    one = (await world.http.post("/Binary", content=b"x")).json()["id"]
    assert (await world.http.delete(f"/Binary/{one}")).status_code == 204
    assert (await world.http.get(f"/Binary/{one}")).status_code == 404
    two = (await world.http.post("/Binary", content=b"x")).json()["id"]
    payload = [{"contentAttachment": {"url": f"Binary/{two}"}}]
    await world.http.post("/Communication", json=communication(payload=payload))
    assert (await world.http.delete(f"/Binary/{two}")).status_code == 409


async def history(world: World, path: str) -> dict[str, Any]:
    answer = await world.http.get(path)
    assert answer.status_code == 200, answer.text
    bundle: dict[str, Any] = answer.json()
    get_fhir_model_class("Bundle").model_validate(bundle)
    return bundle


async def test_a_history_shows_every_version_newest_first(world: World) -> None:
    draft = await stored(world)
    url = f"/Communication/{draft['id']}"
    world.now = NOW + timedelta(minutes=1)
    await world.http.put(url, json=draft)
    world.now = NOW + timedelta(minutes=2)
    await world.http.delete(url)
    for path in (url, "/Communication", ""):
        bundle = await history(world, f"{path}/_history")
        methods = [e["request"]["method"] for e in bundle["entry"]]
        assert methods == ["DELETE", "PUT", "POST"]
        assert "resource" not in bundle["entry"][0]
    later = await history(world, f"{url}/_history?_since=2026-01-02T12:01:00Z")
    assert len(later["entry"]) == 2


async def test_a_history_has_pages(world: World) -> None:
    for _ in range(5):
        await stored(world)
    seen = []
    bundle = await history(world, "/Communication/_history?_count=2")
    while True:
        seen += [e["fullUrl"] for e in bundle["entry"]]
        links = {link["relation"]: link["url"] for link in bundle["link"]}
        if "next" not in links:
            break
        bundle = await history(world, links["next"].removeprefix(BASE))
    assert len(set(seen)) == len(seen) == 5


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/Communication/019b7e94-3200-7f59-8821-036711df07e0/_history", 404),
        ("/Communication/_history?_since=yesterday", 400),
        ("/Communication/_history?_cursor=WzFd", 400),
        ("/Communication/_history?_count=x", 400),
        ("/Binary/_history", 405),
    ],
)
async def test_a_history_that_is_not_is_refused(world: World, path: str, status: int) -> None:
    assert (await world.http.get(path)).status_code == status


async def test_another_mailbox_has_no_history_of_ours(world: World) -> None:
    draft = await stored(world)
    theirs = await world.add_client("other", "eve@direct.hillside.example")
    url = f"/Communication/{draft['id']}/_history"
    assert (await world.http.get(url, headers=theirs)).status_code == 404
    assert "entry" not in (await world.http.get("/_history", headers=theirs)).json()
