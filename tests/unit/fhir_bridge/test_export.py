"""`$export`: all that a client may read, as it was when it asked, and nothing of anybody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from fhir.resources.R4B import get_fhir_model_class

from certs.address import parse_address
from certs.errors import DirectError, Reason
from fhir_bridge.api import create_app
from fhir_bridge.client_control import change_client, forget_mailbox, remove_client
from fhir_bridge.export_api import SETTLED
from fhir_bridge.tables import fhir_export
from fhir_bridge.tidying import Tidying
from gateway import audit
from tests.unit.fhir_bridge.conftest import ANNA, BASE, World, communication
from tests.unit.fhir_bridge.test_search_api import mail
from tests.unit.fhir_bridge.test_smart import logged

ASYNC = {"prefer": "respond-async"}
SECOND = timedelta(seconds=1)


async def begin(world: World, url: str = "/$export", **given: Any) -> str:
    """Begin an export; return where it is."""
    headers = {**ASYNC, **given.pop("headers", {})}
    method = "POST" if "json" in given else "GET"
    answer = await world.http.request(method, url, headers=headers, **given)
    assert answer.status_code == 202, answer.text
    assert not answer.content
    return answer.headers["content-location"]


async def manifest(world: World, status: str, headers: dict[str, str] | None = None) -> Any:
    """Return what an export came to, once it may be fetched."""
    world.now += SETTLED
    answer = await world.http.get(status, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def lines(world: World, url: str, headers: dict[str, str] | None = None) -> list[Any]:
    answer = await world.http.get(url, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/fhir+ndjson"
    assert answer.content.endswith(b"\n") or not answer.content
    return [json.loads(line) for line in answer.content.splitlines()]


async def exported(world: World, url: str = "/$export", **given: Any) -> dict[str, list[Any]]:
    """Export, and return the resources by type."""
    status = await begin(world, url, **given)
    found = await manifest(world, status, given.get("headers"))
    return {
        file["type"]: await lines(world, file["url"], given.get("headers"))
        for file in [*found["output"], *found.get("deleted", ())]
    }


async def fetched(
    world: World, url: str, headers: dict[str, str], between: Callable[[], Awaitable[None]]
) -> list[bytes]:
    """Return what is served at `url` in the pieces that it goes out in; `between` runs once."""
    app = create_app(
        database=world.database,
        bodies=world.bodies,
        outbox=world.outbox,
        clock=lambda: world.now,
        base_url=BASE,
    )
    path = httpx.URL(url).path
    scope: dict[str, Any] = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": path, "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    blocks: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if body := message.get("body"):
            blocks.append(body)
            if len(blocks) == 1:
                await between()

    await app(scope, receive, send)
    return blocks


def ids(resources: Iterable[Any]) -> list[str]:
    return [resource["id"] for resource in resources]


async def patient(world: World, **elements: Any) -> str:
    made = await world.http.post("/Patient", json={"resourceType": "Patient", **elements})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def test_an_export_goes_through_its_states(world: World) -> None:
    identity = await patient(world)
    status = await begin(world, "/$export?_type=Patient,Practitioner")
    assert status.startswith(f"{BASE}/$export/")
    waiting = await world.http.get(status)
    assert (waiting.status_code, waiting.headers["retry-after"]) == (202, "6")
    assert waiting.headers["x-progress"]
    told = await manifest(world, status)
    assert told == {
        "transactionTime": "2026-01-02T12:00:00.000Z",
        "request": f"{BASE}/$export?_type=Patient,Practitioner",
        "requiresAccessToken": True,
        "output": [{"type": "Patient", "url": f"{status}/Patient.ndjson"}],
        "error": [],
    }
    assert ids(await lines(world, told["output"][0]["url"])) == [identity]
    assert (await world.http.delete(status)).status_code == 202
    for url in (status, f"{status}/Patient.ndjson"):
        gone = await world.http.get(url)
        assert gone.status_code == 404
        assert gone.json()["resourceType"] == "OperationOutcome"
    assert (await world.http.delete(status)).status_code == 404


async def test_everything_that_the_client_may_read_is_exported_just_as_it_is_read(
    world: World,
) -> None:
    for number in range(3):
        await world.receive(mail(number))
    await world.http.post("/Communication", json=communication(status="preparation"))
    await patient(world)
    found = await exported(world)
    assert {"Communication", "Patient", "Provenance", "Task"} <= found.keys()
    assert len(found["Communication"]) == 3 + 3 + 1  # messages, their threads' headers, a draft
    for kind, resources in found.items():
        for resource in resources:
            assert resource["resourceType"] == kind
            read = (await world.http.get(f"/{kind}/{resource['id']}")).text
            assert json.loads(read.replace('"url":"Binary/', f'"url":"{BASE}/Binary/')) == resource


async def test_an_attachment_has_an_absolute_url_that_the_token_opens(world: World) -> None:
    payload = [
        {"contentString": '"url":"Binary/ is text here'},
        {"contentAttachment": {"contentType": "text/plain", "data": "aGVsbG8="}},
    ]
    draft = communication(status="preparation", payload=payload)
    await world.http.post("/Communication", json=draft)
    [found] = (await exported(world, "/$export?_type=Communication"))["Communication"]
    assert found["payload"][0] == payload[0]
    url = found["payload"][1]["contentAttachment"]["url"]
    assert url.startswith(f"{BASE}/Binary/")
    assert (await world.http.get(url)).content == b"hello"


async def test_what_changes_after_the_kick_off_is_exported_as_it_was(world: World) -> None:
    kept, changed, deleted = [await patient(world, active=True) for _ in range(3)]
    world.now += SECOND
    status = await begin(world, "/$export?_type=Patient")
    world.now += SECOND
    for active in (False, True, False):
        world.now += SECOND
        new = {"resourceType": "Patient", "id": changed, "active": active}
        assert (await world.http.put(f"/Patient/{changed}", json=new)).status_code == 200
    assert (await world.http.delete(f"/Patient/{deleted}")).status_code == 204
    await patient(world)
    [file] = (await manifest(world, status))["output"]
    found = await lines(world, file["url"])
    assert set(ids(found)) == {kept, changed, deleted}
    assert [p["active"] for p in found] == [True] * 3
    assert [p["meta"]["versionId"] for p in found] == ["1"] * 3


async def test_since_gives_what_has_changed_and_what_is_gone(world: World) -> None:
    _old, changed, deleted = [await patient(world) for _ in range(3)]
    first = await manifest(world, await begin(world, "/$export?_type=Patient"))
    since = first["transactionTime"]
    assert "deleted" not in first
    new = {"resourceType": "Patient", "id": changed, "active": False}
    await world.http.put(f"/Patient/{changed}", json=new)
    await world.http.delete(f"/Patient/{deleted}")
    world.now += SECOND
    status = await begin(world, "/$export", params={"_type": "Patient", "_since": since})
    later = {"resourceType": "Patient", "id": changed, "active": True}
    world.now += SECOND
    await world.http.put(f"/Patient/{changed}", json=later)
    told = await manifest(world, status)
    [found] = await lines(world, told["output"][0]["url"])
    assert (found["id"], found["active"]) == (changed, False)
    [file] = told["deleted"]
    assert file["type"] == "Bundle"
    [bundle] = await lines(world, file["url"])
    get_fhir_model_class("Bundle").model_validate(bundle)
    assert bundle["entry"] == [{"request": {"method": "DELETE", "url": f"Patient/{deleted}"}}]
    then = await exported(world, f"/$export?_type=Patient&_since={told['transactionTime']}")
    assert ids(then["Patient"]) == [changed]


async def test_pages_join_without_gaps_and_without_doubles(world: World) -> None:
    """More than a page by number and by size, of several mailboxes, while some of it changes."""
    both = await world.add_client("both", ANNA, "zoe@direct.hillside.example")
    zoe = {"identifier": {"system": "urn:ietf:rfc:3986",
                          "value": "mailto:zoe@direct.hillside.example"}}  # fmt: skip
    made = []
    for number in range(40):
        text = [{"contentString": "x" * 100_000}]
        sender = {"sender": zoe} if number % 3 else {}
        draft = communication(status="preparation", payload=text, **sender)
        answer = await world.http.post("/Communication", json=draft, headers=both)
        made.append(answer.json())
        world.now += timedelta(milliseconds=number % 2)
    status = await begin(world, "/$export?_type=Communication", headers=both)
    world.now += SECOND
    changed = {**made[20], "topic": {"text": "changed"}}
    await world.http.put(f"/Communication/{made[20]['id']}", json=changed, headers=both)
    [file] = (await manifest(world, status, both))["output"]

    async def change() -> None:
        later = {**made[39], "topic": {"text": "changed"}}
        url = f"/Communication/{made[39]['id']}"
        assert (await world.http.put(url, json=later, headers=both)).status_code == 200

    blocks = await fetched(world, file["url"], both, change)
    assert len(blocks) > 3
    assert max(map(len, blocks)) < 1_200_000
    found = [json.loads(line) for line in b"".join(blocks).splitlines()]
    assert sorted(ids(found)) == sorted(ids(made))
    assert {resource["topic"]["text"] for resource in found} == {"Referral"}


async def test_a_download_ends_where_its_client_is_disabled(world: World) -> None:
    for _ in range(30):
        draft = communication(status="preparation", payload=[{"contentString": "x" * 100_000}])
        await world.http.post("/Communication", json=draft)
    status = await begin(world, "/$export?_type=Communication")
    world.now += SETTLED

    async def disable() -> None:
        await world.database.write(lambda c: change_client(c, "ehr", disabled=True))

    headers = {"authorization": world.http.headers["authorization"]}
    # The connection breaks: what came does not look like the whole.
    with pytest.raises(RuntimeError) as caught:
        await fetched(world, f"{status}/Communication.ndjson", headers, disable)
    cause = caught.value.__cause__
    assert isinstance(cause, DirectError)
    assert cause.reason is Reason.AUTHENTICATION_FAILED


async def test_posted_parameters_are_those_of_the_url(world: World) -> None:
    identity = await patient(world)
    parameters = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_type", "valueString": "Patient"},
            {"name": "_type", "valueString": "Practitioner"},
            {"name": "_since", "valueInstant": "2026-01-01T00:00:00+01:00"},
            {"name": "_outputFormat", "valueString": "application/fhir+ndjson"},
        ],
    }
    status = await begin(world, json=parameters)
    told = await manifest(world, status)
    assert told["request"] == f"{BASE}/$export"
    assert ids(await lines(world, told["output"][0]["url"])) == [identity]
    assert (await world.http.post("/$export", headers=ASYNC)).status_code == 202
    wrong = await world.http.post("/$export", headers=ASYNC, json={"resourceType": "Patient"})
    assert wrong.status_code == 400


@pytest.mark.parametrize(
    "form", ["ndjson", "application/ndjson", "application/fhir+ndjson", "application/fhir%2Bndjson"]
)
async def test_ndjson_has_several_names(world: World, form: str) -> None:
    await begin(world, f"/$export?_outputFormat={form}")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("_outputFormat=text/csv", 1),
        ("_since=yesterday", 1),
        ("_type=Nothing", 1),
        ("_type=Patient,Binary,AuditEvent", 2),
        ("_typeFilter=Patient%3Factive%3Dtrue&_elements=id&patient=Patient/1", 3),
        ("includeAssociatedData=LatestProvenanceResources", 1),
    ],
)
async def test_what_is_not_understood_is_refused_with_all_its_issues(
    world: World, query: str, count: int
) -> None:
    answer = await world.http.get(f"/$export?{query}", headers=ASYNC)
    assert answer.status_code == 400
    assert len(answer.json()["issue"]) == count


async def test_a_lenient_client_is_answered_by_what_is_understood(world: World) -> None:
    lenient = {"prefer": "respond-async, handling=lenient"}
    await patient(world)
    query = "_type=Patient,Nothing&_typeFilter=Patient%3Factive%3Dtrue"
    assert (await exported(world, f"/$export?{query}", headers=lenient)).keys() == {"Patient"}
    assert await exported(world, "/$export?_type=Nothing", headers=lenient) == {}
    refused = await world.http.get("/$export?_since=yesterday", headers=lenient)
    assert refused.status_code == 400


@pytest.mark.parametrize("prefer", [{}, {"prefer": "return=minimal"}, {"prefer": "wait=10"}])
async def test_without_respond_async_it_says_so(world: World, prefer: dict[str, str]) -> None:
    answer = await world.http.get("/$export", headers=prefer)
    assert answer.status_code == 400
    assert "respond-async" in answer.json()["issue"][0]["details"]["text"]


async def test_an_answer_is_not_asked_to_be_fhir(world: World) -> None:
    await patient(world)
    asked = {**ASYNC, "accept": "application/fhir+ndjson"}
    answer = await world.http.get("/$export?_type=Patient", headers=asked)
    assert answer.status_code == 202
    status = answer.headers["content-location"]
    world.now += SETTLED
    for accept in ("application/json", "application/fhir+json", "*/*"):
        told = await world.http.get(status, headers={"accept": accept})
        assert told.json()["requiresAccessToken"] is True
    url = f"{status}/Patient.ndjson"
    for accept in ("application/fhir+ndjson", "*/*"):
        file = await world.http.get(url, headers={"accept": accept})
        assert file.headers["content-type"] == "application/fhir+ndjson"
        assert file.headers["cache-control"] == "no-store"


async def test_another_client_neither_sees_nor_fetches_nor_deletes_it(world: World) -> None:
    await patient(world)
    status = await begin(world, "/$export?_type=Patient")
    # Even of the same mailbox.
    other = await world.add_client("other", ANNA)
    world.now += SETTLED
    for method, url in (
        ("GET", status),
        ("DELETE", status),
        ("GET", f"{status}/Patient.ndjson"),
        ("GET", f"{status}/deleted.ndjson"),
    ):
        answer = await world.http.request(method, url, headers=other)
        unknown = url.replace(status, f"{BASE}/$export/00000000-0000-7000-8000-000000000000")
        assert answer.status_code == 404
        assert answer.text == (await world.http.request(method, unknown, headers=other)).text
    assert (await world.http.get(status)).status_code == 200
    nobody = await world.http.get(status, headers={"authorization": ""})
    assert nobody.status_code == 401


async def test_nothing_of_another_mailbox_is_exported(world: World) -> None:
    secret = "Helberg-secret"
    message = mail(1).replace(b"Subject: ", f"Subject: {secret} ".encode())
    assert secret.encode() in message
    await world.receive(message)
    subscription = {
        "resourceType": "Subscription", "status": "requested", "reason": secret,
        "criteria": "Communication?status=completed", "channel": {"type": "websocket"},
    }  # fmt: skip
    assert (await world.http.post("/Subscription", json=subscription)).status_code == 201
    zoe = await world.add_client("zoe", "zoe@direct.hillside.example")
    eve = await world.add_client("eve", "eve@direct.elsewhere.example")
    both = "/$export?_type=Communication,Subscription"
    for theirs in (zoe, eve):
        assert await exported(world, headers=theirs) == {}
        assert await exported(world, both, headers=theirs) == {}
    assert (await exported(world, both)).keys() == {"Communication", "Subscription"}


async def test_secrets_of_subscriptions_are_exported_only_where_they_are_named(
    world: World,
) -> None:
    secret = "of-the-bot"
    subscription = {
        "resourceType": "Subscription", "status": "requested", "reason": "x",
        "criteria": "Communication?status=completed",
        "channel": {"type": "rest-hook", "endpoint": "https://bot.example/hook",
                    "header": [f"Authorization: Bearer {secret}"]},
    }  # fmt: skip
    assert (await world.http.post("/Subscription", json=subscription)).status_code == 201
    assert secret not in str(await exported(world))
    assert secret in str(await exported(world, "/$export?_type=Subscription"))


async def test_a_type_needs_its_scope(world: World) -> None:
    await world.receive(mail(1))
    await patient(world)
    narrow = await world.add_client("narrow", ANNA, scopes="system/Communication.rs")
    assert (await exported(world, headers=narrow)).keys() == {"Communication"}
    only_read = await world.add_client("reader", ANNA, scopes="system/Communication.r")
    for headers, query in ((narrow, "?_type=Communication,Patient"), (only_read, "")):
        answer = await world.http.get(f"/$export{query}", headers={**headers, **ASYNC})
        assert answer.status_code == 403


async def test_what_a_client_loses_it_no_longer_fetches(world: World) -> None:
    await world.receive(mail(1))
    await patient(world)
    status = await begin(world, "/$export?_type=Communication,Patient")
    await world.database.write(lambda c: change_client(c, "ehr", scopes="system/Communication.rs"))
    assert [f["type"] for f in (await manifest(world, status))["output"]] == ["Communication"]
    assert (await world.http.get(f"{status}/Patient.ndjson")).status_code == 403
    assert len(await lines(world, f"{status}/Communication.ndjson")) == 2
    await world.database.write(lambda c: forget_mailbox(c, parse_address(ANNA)))
    assert await lines(world, f"{status}/Communication.ndjson") == []
    await world.database.write(lambda c: change_client(c, "ehr", disabled=True))
    assert (await world.http.get(f"{status}/Communication.ndjson")).status_code == 401


async def test_the_kick_off_and_each_file_are_audited_before_they_are_answered(
    world: World,
) -> None:
    await patient(world)
    http, _log = logged(world)
    async with http:
        told = await http.get("/$export?_type=Patient&_since=2026-01-01", headers=ASYNC)
        status = told.headers["content-location"]
        world.now += SETTLED
        await http.get(status)  # asking how far it is is gathered, as reading is
        assert (await http.get(f"{status}/Patient.ndjson")).status_code == 200
        await http.delete(status)
    events = await world.database.read(lambda c: audit.list_events(c, limit=10))
    found = [(e.action, e.subject, e.outcome) for e in reversed(events)]
    assert set(found) - {("fhir-export-status", "/", "200")} == {
        ("fhir-export", "/", "202"),
        ("fhir-export-file", "Patient", "200"),
        ("fhir-export-delete", "/", "202"),
    }
    assert [e for e in found if e[0] == "fhir-export"] == found[:1]


async def test_a_client_has_ten_exports_at_a_time(world: World) -> None:
    begun = [await begin(world) for _ in range(10)]
    refused = await world.http.get("/$export", headers=ASYNC)
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    assert refused.json()["issue"][0]["code"] == "throttled"
    await begin(world, headers=await world.add_client("other", ANNA))
    await world.http.delete(begun[0])
    await begin(world)


async def test_an_export_is_forgotten_after_a_day(world: World) -> None:
    status = await begin(world)
    told = await world.http.get(status)
    world.now += timedelta(hours=23)
    told = await world.http.get(status)
    assert told.headers["expires"] == "Sat, 03 Jan 2026 12:00:00 GMT"
    world.now += timedelta(hours=1)
    assert (await world.http.get(status)).status_code == 404
    await Tidying(
        database=world.database,
        bodies=world.bodies,
        clock=lambda: world.now,
        drafts_kept=timedelta(days=365),
    ).run_once()
    rows = await world.database.read(lambda c: c.execute(sa.select(fhir_export.c.id)).all())
    assert rows == []


async def test_a_client_is_removed_with_its_exports(world: World) -> None:
    await begin(world)
    await world.database.write(lambda c: remove_client(c, "ehr"))
    rows = await world.database.read(lambda c: c.execute(sa.select(fhir_export.c.id)).all())
    assert rows == []


async def test_of_a_group_its_active_patients_are_exported_and_what_concerns_them(
    world: World,
) -> None:
    member, former, other = [await patient(world) for _ in range(3)]
    made = {}
    for identity in (member, former, other):
        draft = communication(status="preparation", subject={"reference": f"Patient/{identity}"})
        made[identity] = (await world.http.post("/Communication", json=draft)).json()["id"]
    await world.http.post("/Communication", json=communication(status="preparation"))
    group = {
        "resourceType": "Group", "type": "person", "actual": True,
        "member": [
            {"entity": {"reference": f"Patient/{member}"}},
            {"entity": {"reference": f"Patient/{former}"}, "inactive": True},
        ],
    }  # fmt: skip
    identity = (await world.http.post("/Group", json=group)).json()["id"]
    found = await exported(world, f"/Group/{identity}/$export")
    assert ids(found.pop("Patient")) == [member]
    assert ids(found.pop("Communication")) == [made[member]]
    assert ids(found.pop("Group")) == [identity]
    assert not found
    found = await exported(world, "/Patient/$export?_type=Patient,Communication")
    assert set(ids(found["Patient"])) == {member, former, other}
    assert set(ids(found["Communication"])) == set(made.values())
    outside = await world.http.get("/Patient/$export?_type=Practitioner", headers=ASYNC)
    assert outside.status_code == 400


@pytest.mark.parametrize("identity", ["nobody", "00000000-0000-7000-8000-000000000000"])
async def test_a_group_that_is_not_there_is_not_exported(world: World, identity: str) -> None:
    answer = await world.http.get(f"/Group/{identity}/$export", headers=ASYNC)
    assert answer.status_code == 404
    assert answer.json()["resourceType"] == "OperationOutcome"


async def test_a_group_of_too_many_is_refused(world: World) -> None:
    members = [{"entity": {"reference": f"Patient/{UUID(int=n)}"}} for n in range(1, 10_002)]
    group = {"resourceType": "Group", "type": "person", "actual": True, "member": members}
    identity = (await world.http.post("/Group", json=group)).json()["id"]
    url = f"/Group/{identity}/$export"
    answer = await world.http.get(url, headers=ASYNC)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (422, "too-costly")
    fewer = {**group, "id": identity, "member": members[:-1]}
    assert (await world.http.put(f"/Group/{identity}", json=fewer)).status_code == 200
    found = await exported(world, url)
    assert found.keys() == {"Group"}
    status = await begin(world, url)
    world.now += SETTLED
    assert (await world.http.delete(f"/Group/{identity}")).status_code == 204
    assert (await world.http.get(status)).status_code == 404


async def test_a_group_is_for_who_may_read_it(world: World) -> None:
    group = {"resourceType": "Group", "type": "person", "actual": True}
    identity = (await world.http.post("/Group", json=group)).json()["id"]
    narrow = await world.add_client("narrow", ANNA, scopes="system/Patient.rs")
    url = f"/Group/{identity}/$export"
    assert (await world.http.get(url, headers={**ASYNC, **narrow})).status_code == 403


async def test_another_domains_group_opens_nothing(world: World) -> None:
    group = {"resourceType": "Group", "type": "person", "actual": True}
    identity = (await world.http.post("/Group", json=group)).json()["id"]
    eve = await world.add_client("eve", "eve@direct.elsewhere.example")
    answer = await world.http.get(f"/Group/{identity}/$export", headers={**ASYNC, **eve})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "path", ["/$export/x", "/$export/x/Patient.ndjson", "/Communication/$export"]
)
async def test_no_such_export(world: World, path: str) -> None:
    answer = await world.http.get(path, headers=ASYNC)
    assert answer.status_code == 404
    assert answer.json()["resourceType"] == "OperationOutcome"


async def test_the_capability_statement_tells_of_exports(world: World) -> None:
    statement = (await world.http.get("/metadata")).json()
    assert any("bulkdata" in url for url in statement["instantiates"])
    (rest,) = statement["rest"]
    bulk = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition"
    assert {"name": "export", "definition": f"{bulk}/export"} in rest["operation"]
    for kind, name in (("Patient", "patient-export"), ("Group", "group-export")):
        (resource,) = (r for r in rest["resource"] if r["type"] == kind)
        assert {"name": "export", "definition": f"{bulk}/{name}"} in resource["operation"]
        ours = (await world.http.get(f"/OperationDefinition/{name}")).json()
        assert (ours["base"], ours["code"]) == (f"{bulk}/{name}", "export")
        get_fhir_model_class("OperationDefinition").model_validate(ours)
