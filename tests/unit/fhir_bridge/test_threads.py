"""Threads as Medplum's clients keep them (fhir.md section 2, rows 2 to 10 and 13 to 19)."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_bridge.terms import extension_value
from tests.unit.fhir_bridge.conftest import ANNA, BEN, TERMS, World, communication
from tests.unit.fhir_bridge.test_inbound import HEADER


async def post(world: World, resource: dict[str, Any]) -> dict[str, Any]:
    answer = await world.http.post(f"/{resource['resourceType']}", json=resource)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def ids(world: World, query: str) -> list[str]:
    found = (await world.http.get(query)).json()
    return [entry["resource"]["id"] for entry in found.get("entry", [])]


async def thread(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the first message of a new thread."""
    sent = await post(world, communication(priority="urgent", category=[{"text": "referral"}]))
    header = (await world.http.get(f"/{sent['partOf'][0]['reference']}")).json()
    return header, sent


async def test_rows_2_to_4_a_header_has_the_topic_and_everybody(world: World) -> None:
    header, _ = await thread(world)
    assert not {"payload", "partOf"} & header.keys()
    assert header["topic"] == {"text": "Referral"}
    addresses = {r["identifier"]["value"] for r in header["recipient"]}
    assert addresses == {f"mailto:{ANNA}", f"mailto:{BEN}"}
    assert await ids(world, f"/Communication?recipient=mailto:{ANNA}&part-of:missing=true") == [
        header["id"]
    ]


async def test_row_5_a_reply_is_in_the_thread_of_what_it_answers(world: World) -> None:
    header, sent = await thread(world)
    mid = sent["identifier"][0]["value"].removeprefix("mid:").encode()
    reply = HEADER + b"In-Reply-To: <" + mid + b">\r\nReferences: <" + mid + b">\r\n\r\nyes"
    answered = (await world.http.get(f"/Communication/{await world.receive(reply)}")).json()
    assert answered["partOf"] == [{"reference": f"Communication/{header['id']}"}]
    assert answered["inResponseTo"][0]["reference"] == f"Communication/{sent['id']}"
    again = communication(inResponseTo=[{"reference": f"Communication/{answered['id']}"}])
    assert (await post(world, again))["partOf"] == answered["partOf"]


async def test_rows_6_and_7_category_reason_and_medium_are_kept(world: World) -> None:
    sent = await post(
        world,
        communication(category=[{"text": "referral"}], reasonCode=[{"text": "treatment"}]),
    )
    assert sent["category"] == [{"text": "referral"}]
    assert sent["reasonCode"] == [{"text": "treatment"}]
    assert "direct-project" in str(sent["medium"])


async def test_row_8_a_thread_is_edited_closed_and_opened_again(world: World) -> None:
    header, _ = await thread(world)
    url = f"/Communication/{header['id']}"
    edited = {"topic": {"text": "Edited"}}
    for change in (edited, {"status": "completed"}, {"status": "in-progress"}):
        header = {**header, **change}
        assert (await world.http.put(url, json=header)).status_code == 200
        header = (await world.http.get(url)).json()
    assert header["topic"] == {"text": "Edited"}
    assert len(world.outbox.submissions) == 1
    query = "/Communication?part-of:missing=true&status:not=completed,entered-in-error"
    assert await ids(world, query) == [header["id"]]


async def test_row_9_drafts_are_the_senders(world: World) -> None:
    draft = await post(world, communication(status="preparation"))
    query = f"/Communication?status=preparation&sender=mailto:{ANNA}"
    assert await ids(world, query) == [draft["id"]]
    await world.http.put(f"/Communication/{draft['id']}", json={**draft, "status": "in-progress"})
    assert await ids(world, query) == []
    assert len(world.outbox.submissions) == 1


async def test_row_10_a_message_is_retracted_and_corrected(world: World) -> None:
    header, sent = await thread(world)
    url = f"/Communication/{sent['id']}"
    wrong = {**(await world.http.get(url)).json(), "status": "entered-in-error"}
    assert (await world.http.put(url, json=wrong)).status_code == 200
    correction = await post(
        world,
        communication(
            inResponseTo=[{"reference": f"Communication/{sent['id']}"}],
            category=[{"text": "correction"}],
        ),
    )
    part_of = f"part-of=Communication/{header['id']}"
    query = f"/Communication?{part_of}&status:not=entered-in-error"
    assert await ids(world, query) == [correction["id"]]


@pytest.mark.parametrize(
    ("query", "of_thread"),
    [
        ("part-of:missing=true", False),
        ("part-of:missing=true&status:not=completed,entered-in-error,not-done", False),
        ("part-of=Communication/{header}&_sort=sent", True),
        ("part-of=Communication/{header}&_sort=-sent&_count=1", True),
        ("part-of:missing=true&_sort=-_lastUpdated&_total=accurate", False),
        ("part-of:missing=true&identifier:not=http://x.example|", False),
        ("part-of:missing=true&_has:Communication:part-of:_id:not=null", False),
    ],
)
async def test_row_13_and_14_the_queries_of_medplum(
    world: World, query: str, of_thread: bool
) -> None:
    header, sent = await thread(world)
    found = await ids(world, f"/Communication?{query.replace('{header}', header['id'])}")
    assert found == [sent["id"] if of_thread else header["id"]]


async def test_rows_17_and_18_what_is_unread_is_counted(world: World) -> None:
    message = await world.receive(HEADER + b"\r\nx")
    inbox = (await world.http.get("/Communication/$inbox")).json()["entry"][0]["resource"]
    counts = [e["valueUnsignedInt"] for e in inbox["extension"] if e["url"].endswith("unread")]
    assert counts == [1]
    status = (await world.http.get(f"/Communication/{message}")).json()["status"]
    await world.http.post(f"/Communication/{message}/$mark-read", json={})
    found = (await world.http.get(f"/Communication/{message}")).json()
    assert (found["status"], found["meta"]["versionId"]) == (status, "1")


async def unread(world: World, more: str = "") -> int:
    """The count of unread messages, as a search of Tasks has it."""
    query = f"/Task?code=read-receipt&status=requested{more}&_summary=count"
    return int((await world.http.get(query)).json()["total"])


async def test_row_18_what_is_unread_is_a_search_of_tasks(world: World) -> None:
    first = await world.receive(HEADER + b"\r\nx")
    second = await world.receive(HEADER.replace(b"<1@", b"<2@") + b"\r\ny")
    await post(world, communication())  # what was sent is nothing to read
    assert await unread(world) == 2
    assert await unread(world, f"&focus=Communication/{first}") == 1
    assert await unread(world, "&focus:Communication.direction=inbound") == 2
    await world.http.post(f"/Communication/{first}/$mark-read")
    assert await unread(world) == 1
    assert await unread(world, f"&focus=Communication/{second}") == 1
    await world.http.post(f"/Communication/{first}/$mark-read?read=false")
    assert await unread(world) == 2


async def test_row_18_a_thread_that_is_read_has_no_open_tasks(world: World) -> None:
    first = await world.receive(HEADER + b"\r\nx")
    mid = HEADER.partition(b"Message-ID: ")[2].partition(b"\r\n")[0]
    reply = HEADER.replace(mid, b"<2@x.example>") + b"References: " + mid + b"\r\n\r\ny"
    second = await world.receive(reply)
    read = [(await world.http.get(f"/Communication/{i}")).json() for i in (first, second)]
    assert read[0]["partOf"] == read[1]["partOf"]
    header = read[0]["partOf"][0]["reference"]
    part = f"&focus:Communication.part-of={header}"
    assert await unread(world, part) == 2
    await world.http.post(f"/{header}/$mark-read")
    assert await unread(world, part) == 0


async def test_row_18_who_completes_the_task_has_read_the_message(world: World) -> None:
    identity = await world.receive(HEADER + b"\r\nx")

    async def in_inbox() -> int:
        entry = (await world.http.get("/Communication/$inbox")).json()["entry"][0]
        url = TERMS.extension("unread")
        return int(extension_value(entry["resource"], url))

    [task] = await ids(world, f"/Task?code=read-receipt&focus=Communication/{identity}")
    assert await in_inbox() == 1
    await world.http.patch(f"/Task/{task}", json={"status": "completed"})
    assert (await in_inbox(), await unread(world)) == (0, 0)
    again = {**(await world.http.get(f"/Task/{task}")).json(), "status": "requested"}
    await world.http.put(f"/Task/{task}", json=again)
    assert (await in_inbox(), await unread(world)) == (1, 1)


async def test_row_18_read_state_is_the_mailboxs_own(world: World) -> None:
    other = "zoe@direct.hillside.example"
    for mailbox in (ANNA, other):
        await world.receive(HEADER + b"\r\nx", mailbox=mailbox)
    both = await world.add_client("both", ANNA, other)
    [mine] = await ids(world, "/Communication?direction=inbound")
    await world.http.post(f"/Communication/{mine}/$mark-read")
    query = "/Task?code=read-receipt&status=requested"
    [left] = (await world.http.get(query, headers=both)).json()["entry"]
    assert left["resource"]["owner"]["identifier"]["value"] == f"mailto:{other}"
    assert await unread(world) == 0


async def test_row_19_a_thread_is_assigned_claimed_and_rerouted(world: World) -> None:
    header, _ = await thread(world)
    focus = {"reference": f"Communication/{header['id']}"}
    pool = [{"text": "front desk"}]
    task = await post(
        world,
        {"resourceType": "Task", "status": "requested", "intent": "order", "focus": focus,
         "performerType": [{"coding": [{"system": "urn:x", "code": "desk"}]}]},
    )  # fmt: skip
    assert task["id"] in await ids(
        world, f"/Task?focus=Communication/{header['id']}&performer=desk"
    )
    nurse = await post(world, {"resourceType": "Practitioner", "active": True})
    owner = {"reference": f"Practitioner/{nurse['id']}"}
    claimed = {**task, "status": "in-progress", "owner": owner, "note": [{"text": "mine"}]}
    answer = await world.http.put(
        f"/Task/{task['id']}", json=claimed, headers={"if-match": 'W/"1"'}
    )
    assert answer.status_code == 200
    late = await world.http.put(f"/Task/{task['id']}", json=claimed, headers={"if-match": 'W/"1"'})
    assert late.status_code == 412  # somebody else has claimed it
    assert await ids(world, f"/Task?owner=Practitioner/{nurse['id']}&status=in-progress") == [
        task["id"]
    ]
    rerouted = {**claimed, "performerType": pool}
    del rerouted["owner"]
    await world.http.put(f"/Task/{task['id']}", json=rerouted)
    assert await ids(world, "/Task?owner:missing=true&performer:text=front") == [task["id"]]
