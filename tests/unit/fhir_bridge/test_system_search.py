"""`_type` on the base: a search, and a history, of several types at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from certs.address import parse_address
from fhir_bridge.clients import add_client
from tests.unit.fhir_bridge.conftest import ANNA, BASE, NOW, TERMS, World
from tests.unit.fhir_bridge.test_search_api import mail

NAME = [{"family": "Müller"}]


async def bundle(world: World, url: str, **asked: Any) -> dict[str, Any]:
    answer = await world.http.get(url, **asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    get_fhir_model_class("Bundle").model_validate(found)
    return found


def shown(found: dict[str, Any]) -> list[str]:
    return [e["resource"]["resourceType"] for e in found.get("entry", [])]


@pytest.fixture
async def people(world: World) -> list[str]:
    """A Patient, a Practitioner, another Patient, each a minute later; and an Organization."""
    made = []
    for kind in ("Patient", "Practitioner", "Patient"):
        world.now += timedelta(minutes=1)
        resource = {"resourceType": kind, "name": NAME}
        made.append((await world.http.post(f"/{kind}", json=resource)).json()["id"])
    await world.http.post("/Organization", json={"resourceType": "Organization", "name": "Müller"})
    return made


async def test_people_of_two_types_are_found_as_medplum_asks(
    world: World, people: list[str]
) -> None:
    for url in (
        "/Patient?_type=Patient,Practitioner&name=mull",
        f"{BASE}?_type=Patient,Practitioner&name=mull",
        f"{BASE}/?_type=Practitioner,Patient&name=mull",
    ):
        found = await bundle(world, url)
        assert shown(found) == ["Patient", "Practitioner", "Patient"]
        assert [e["resource"]["id"] for e in found["entry"]] == people[::-1]
        assert found["link"][0]["url"] == f"{BASE}?_type=Patient,Practitioner&name=mull"
    posted = await world.http.post(
        "/_search", data={"_type": "Practitioner,Organization", "name": "mull"}
    )
    assert sorted(shown(posted.json())) == ["Organization", "Practitioner"]


async def test_a_batch_may_ask_for_several_types(world: World, people: list[str]) -> None:
    entry = {"request": {"method": "GET", "url": "?_type=Patient,Practitioner&_count=0"}}
    body = {"resourceType": "Bundle", "type": "batch", "entry": [entry]}
    answer = await world.http.post("", json=body)
    assert answer.json()["entry"][0]["resource"]["total"] == 3


@pytest.mark.parametrize("order", ["", "&_sort=_lastUpdated"])
async def test_pages_of_several_types_have_each_resource_once(
    world: World, people: list[str], order: str
) -> None:
    for number in range(5):
        await world.receive(mail(number + 1))  # and their threads, in the same moment
    first = await bundle(
        world, f"{BASE}?_type=Patient,Practitioner,Communication&_count=2&_total=accurate{order}"
    )
    assert first["total"] == 13
    page, seen, pages = first, list[str](), 1
    while True:
        seen += [e["resource"]["id"] for e in page["entry"]]
        following = [link["url"] for link in page["link"] if link["relation"] == "next"]
        if not following:
            break
        if pages == 1:
            later = world.now + timedelta(hours=1)
            await world.receive(mail(20), at=later)  # new mail while the pages are turned
        page, pages = await bundle(world, following[0]), pages + 1
    assert len(seen) == len(set(seen))
    assert set(people) <= set(seen)
    assert len(seen) == 13 + (2 if order else 0)  # the new ones stand at the other end


async def test_without_a_type_all_are_searched_that_are_open(
    world: World, people: list[str]
) -> None:
    await world.receive(mail(1))
    found = await bundle(world, f"{BASE}?_lastUpdated=ge2026-01-01&_count=41")
    assert {"Patient", "Communication", "Provenance", "Organization"} <= set(shown(found))
    token = await world.database.write(
        lambda c: add_client(c, "few", [parse_address(ANNA)], NOW, scopes="system/Patient.s")
    )
    few = {"authorization": f"Bearer {token}"}
    assert set(shown(await bundle(world, BASE, headers=few))) == {"Patient"}


@pytest.mark.parametrize(
    "url",
    [
        f"{BASE}?_type=Patient,Practitioner",
        f"{BASE}?_type=Patient&_has:Communication:subject:status=completed",
        f"{BASE}/_history?_type=Patient,Practitioner",
        f"{BASE}/_history",
    ],
)
async def test_the_scope_of_every_type_is_asked_for(world: World, url: str) -> None:
    token = await world.database.write(
        lambda c: add_client(c, "few", [parse_address(ANNA)], NOW, scopes="system/Patient.rs")
    )
    answer = await world.http.get(url, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 403


async def test_what_is_another_mailboxs_is_not_found_by_type_either(
    world: World, people: list[str]
) -> None:
    await world.receive(mail(1), mailbox="eve@direct.elsewhere.example")
    found = await bundle(world, f"{BASE}?_type=Communication,Task,Provenance")
    assert found["total"] == 0
    theirs = await world.add_client("eve", "eve@direct.elsewhere.example")
    found = await bundle(world, f"{BASE}?_type=Communication,Patient", headers=theirs)
    assert set(shown(found)) == {"Communication"}


@pytest.mark.parametrize(
    ("query", "strict", "status"),
    [
        ("_type=Nothing", False, 400),
        ("_type=AuditEvent", False, 400),
        ("_type=Patient,Binary", False, 400),
        ("_type=Patient,Practitioner&_sort=name", False, 400),
        ("_type=Patient,Practitioner&birthdate=2000", False, 200),
        ("_type=Patient,Practitioner&birthdate=2000", True, 400),
        ("_type=Patient,Practitioner&_cursor=x", False, 400),
    ],
)
async def test_what_types_do_not_share_is_passed_over_or_refused(
    world: World, people: list[str], query: str, strict: bool, status: int
) -> None:
    headers = {"prefer": "handling=strict"} if strict else {}
    answer = await world.http.get(f"{BASE}?{query}", headers=headers)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert "birthdate" not in answer.json()["link"][0]["url"]


async def test_what_is_found_brings_what_it_includes(world: World) -> None:
    made = await world.http.post("/Organization", json={"resourceType": "Organization"})
    role = {
        "resourceType": "PractitionerRole",
        "organization": {"reference": f"Organization/{made.json()['id']}"},
    }
    await world.http.post("/PractitionerRole", json=role)
    url = f"{BASE}?_type=PractitionerRole,Practitioner&_include=PractitionerRole:organization"
    assert shown(await bundle(world, url)) == ["PractitionerRole", "Organization"]


async def test_a_history_is_narrowed_to_types(world: World, people: list[str]) -> None:
    found = await bundle(world, f"{BASE}/_history?_type=Practitioner,Organization")
    assert set(shown(found)) == {"Practitioner", "Organization"}
    assert (await world.http.get(f"{BASE}/_history?_type=Nothing")).status_code == 400


async def test_the_capability_statement_says_so(world: World) -> None:
    (rest,) = (await world.http.get("/metadata")).json()["rest"]
    assert {"code": "search-system"} in rest["interaction"]
    assert "_type" in {parameter["name"] for parameter in rest["searchParam"]}


async def test_our_search_parameters_are_published_where_the_statement_says(world: World) -> None:
    statement = (await world.http.get("/metadata")).json()
    named = {
        parameter["definition"].rpartition("/")[2]: (resource["type"], parameter["name"])
        for resource in statement["rest"][0]["resource"]
        for parameter in resource.get("searchParam", ())
        if "direct-gateway" in parameter["definition"]
    }
    assert {"Communication-delivery", "Communication-delivery-recipient"} <= named.keys()
    for name, (kind, code) in named.items():
        answer = await world.http.get(f"/SearchParameter/{name}", headers={"authorization": ""})
        definition = answer.json()
        get_fhir_model_class("SearchParameter").model_validate(definition)
        assert (definition["base"], definition["code"]) == ([kind], code)
        assert definition["url"].endswith(f"/SearchParameter/{name}")
    delivery = (await world.http.get("/SearchParameter/Communication-delivery")).json()
    url = TERMS.extension("delivery")
    expression = f"Communication.recipient.extension('{url}').extension('code').value"
    assert delivery["expression"] == expression
    assert (await world.http.get("/SearchParameter/nothing")).status_code == 404
