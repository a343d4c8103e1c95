"""`$graphql`: what inbox screens ask for in one request, within limits and within one mailbox."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from certs.address import parse_address
from fhir_bridge.clients import add_client
from tests.unit.fhir_bridge.conftest import ANNA, NOW, World, communication
from tests.unit.fhir_bridge.test_isolation import MESSAGE, SECRET

# As Medplum's ThreadInbox asks (fhir.md 2 row 14): an alias for each thread.
THREADS = """
query ($thread: String!) {
  thread_1: CommunicationList(part_of: $thread, _sort: "-sent", _count: 1) {
    ...message
    sender { display reference }
  }
  CommunicationList(_id: "x") { id }
}
fragment message on Communication { id meta { lastUpdated } payload { contentString } }
"""


async def ask(world: World, query: str, **given: Any) -> httpx.Response:
    return await world.http.post("/$graphql", json={"query": query, **given})


async def data(world: World, query: str, **given: Any) -> Any:
    answer = await ask(world, query, **given)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()["data"]


async def test_the_last_message_of_each_thread_is_one_request(world: World) -> None:
    first = (await world.http.post("/Communication", json=communication())).json()
    thread = first["partOf"][0]["reference"]
    found = await data(world, THREADS, variables={"thread": thread})
    [last] = found["thread_1"]
    assert last["payload"] == [{"contentString": "Please see attached."}]
    assert last["meta"]["lastUpdated"].startswith("2026")
    assert last["sender"] == {"display": None, "reference": None}
    assert found["CommunicationList"] == []


async def test_a_query_may_stand_in_the_url_or_be_the_body(world: World) -> None:
    await world.http.post("/Patient", json={"resourceType": "Patient", "active": True})
    query = "{ PatientList { active __typename } }"
    expected = {"data": {"PatientList": [{"active": True, "__typename": "Patient"}]}}
    assert (await world.http.get("/$graphql", params={"query": query})).json() == expected
    headers = {"content-type": "application/graphql"}
    assert (await world.http.post("/$graphql", content=query, headers=headers)).json() == expected


async def test_references_are_followed_and_lists_filtered(world: World) -> None:
    name = [{"use": "official", "family": "H"}, {"use": "nickname", "family": "N"}]
    patient = (
        await world.http.post("/Patient", json={"resourceType": "Patient", "name": name})
    ).json()
    subject = {"reference": f"Patient/{patient['id']}"}
    sent = (await world.http.post("/Communication", json=communication(subject=subject))).json()
    query = """query ($id: ID!, $no: Boolean = false) { Communication(id: $id) {
      subject { resource { id ... on Patient { name(use: official) { family } } } }
      wrong: subject { resource(type: Group) { id } }
      status @skip(if: true)  topic @include(if: $no) { text }
      ... on Task { focus { reference } }
    } }"""
    found = await data(world, query, variables={"id": sent["id"]})
    assert found["Communication"] == {
        "subject": {"resource": {"id": patient["id"], "name": [{"family": "H"}]}},
        "wrong": {"resource": None},
    }


async def test_fields_of_one_key_are_merged(world: World) -> None:
    await world.http.post(
        "/Patient", json={"resourceType": "Patient", "maritalStatus": {"text": "a"}}
    )
    found = await data(
        world, "{ PatientList { maritalStatus { text } maritalStatus { coding { code } } } }"
    )
    assert found["PatientList"] == [{"maritalStatus": {"text": "a", "coding": None}}]


CIRCLE = "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }"
BOMB = (
    "{ PatientList { ...a } } "
    + " ".join(
        f"fragment {a} on Patient {{ {f'...{b} ' * 9} }}"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + " fragment i on Patient { id }"
)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut-off"),
        pytest.param("mutation { x }", id="mutation"),
        pytest.param("subscription { x }", id="subscription"),
        pytest.param("query a { x } query b { y }", id="two-operations"),
        pytest.param("{ __schema { types { name } } }", id="introspection"),
        pytest.param("{ FooList { id } }", id="unknown-type"),
        pytest.param("{ BinaryList { id } }", id="no-search"),
        pytest.param("{ AuditEventList { id } }", id="audit"),
        pytest.param("{ PatientList(foo: 1) { id } }", id="unknown-parameter"),
        pytest.param('{ PatientList(birthdate: "x") { id } }', id="bad-value"),
        pytest.param("{ PatientList }", id="no-fields"),
        pytest.param("{ PatientList { ...nothing } }", id="no-fragment"),
        pytest.param("{ PatientList { id @upper } }", id="directive"),
        pytest.param("{ Patient { id } }", id="no-id"),
        pytest.param(CIRCLE, id="circle"),
        pytest.param(BOMB, id="bomb"),
        pytest.param("{" * 3000, id="braces"),
        pytest.param("{ PatientList { " + "id " * 5000 + "} }", id="tokens"),
        pytest.param("{ x }" + " " * 70_000, id="long"),
        pytest.param(f"{{{''.join(f'a{n}: PatientList {{id}} ' for n in range(61))}}}", id="lists"),
    ],
)  # fmt: skip
async def test_what_asks_too_much_is_refused(world: World, query: str) -> None:
    await world.http.post("/Patient", json={"resourceType": "Patient", "active": True})
    answer = await ask(world, query)
    assert answer.status_code == 400, answer.text
    [error] = answer.json()["errors"]
    assert error["extensions"]["resource"]["resourceType"] == "OperationOutcome"


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"query": 1}', b'{"query": "{x}", "variables": []}']
)
async def test_a_body_that_is_no_request_is_refused(world: World, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await world.http.post("/$graphql", content=body, headers=headers)
    assert answer.status_code == 400


async def test_another_mailbox_is_not_seen(world: World) -> None:
    message = await world.receive(MESSAGE)
    headers = await world.add_client("zoe", "zoe@direct.hillside.example")
    query = f"""{{ CommunicationList {{ id topic {{ text }} }}
      Communication(id: "{message}") {{ topic {{ text }} }}
      ProvenanceList {{ target {{ resource {{ topic {{ text }} }} }} }} }}"""
    answer = await world.http.post("/$graphql", json={"query": query}, headers=headers)
    assert answer.json()["data"] == {
        "CommunicationList": [], "Communication": None, "ProvenanceList": [],
    }  # fmt: skip
    assert SECRET not in answer.text


async def test_scopes_are_asked_for_each_list(world: World) -> None:
    token = await world.database.write(
        lambda c: add_client(c, "narrow", [parse_address(ANNA)], NOW, scopes="system/Patient.rs")
    )
    headers = {"authorization": f"Bearer {token}"}
    for query, status in (
        ("{ PatientList { id } }", 200),
        ("{ CommunicationList { id } }", 403),
        ('{ PatientList(_has_Communication_subject: "x") { id } }', 400),
    ):
        answer = await world.http.post("/$graphql", json={"query": query}, headers=headers)
        assert answer.status_code == status, answer.text
