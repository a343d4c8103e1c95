from __future__ import annotations

from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from tests.unit.fhir_bridge.conftest import BASE, World, communication

PATIENT = {"resourceType": "Patient", "name": [{"family": "Helberg"}]}
URN = "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a"


def entry(
    method: str, url: str, resource: Any = None, full_url: str | None = None, **request: Any
) -> dict[str, Any]:
    made: dict[str, Any] = {"request": {"method": method, "url": url, **request}}
    if resource is not None:
        made["resource"] = resource
    if full_url is not None:
        made["fullUrl"] = full_url
    return made


async def posted(world: World, kind: str, *entries: dict[str, Any], url: str = BASE) -> Any:
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": kind}
    if entries:
        bundle["entry"] = list(entries)
    answer = await world.http.post(url, json=bundle)
    if answer.status_code == 200:
        get_fhir_model_class("Bundle").model_validate(answer.json())
    return answer


async def statuses(world: World, kind: str, *entries: dict[str, Any]) -> list[str]:
    answer = await posted(world, kind, *entries)
    assert answer.status_code == 200, answer.text
    return [e["response"]["status"][:3] for e in answer.json()["entry"]]


async def total(world: World, kind: str) -> int:
    return int((await world.http.get(f"/{kind}?_total=accurate")).json()["total"])


@pytest.mark.parametrize("url", [BASE, f"{BASE}/"])
async def test_the_entries_of_a_batch_stand_alone(world: World, url: str) -> None:
    created = await posted(world, "batch", entry("POST", "Patient", PATIENT), url=url)
    identity = created.json()["entry"][0]["resource"]["id"]
    assert await statuses(
        world,
        "batch",
        entry("GET", f"Patient/{identity}"),
        entry("GET", "Patient?family=helberg"),
        entry("POST", "Patient", {"resourceType": "Patient", "bad": 1}),
        entry("GET", "Nothing/1"),
        entry("PUT", f"Patient/{identity}", PATIENT, ifMatch='W/"7"'),
        entry("PATCH", f"Patient/{identity}", {"gender": "female"}),
        entry("POST", "Patient", PATIENT, ifNoneExist="family=helberg"),
        entry("DELETE", f"Patient/{identity}"),
        entry("POST", "Communication", communication()),
    ) == ["200", "200", "400", "404", "412", "200", "200", "204", "201"]
    assert len(world.outbox.submissions) == 1


async def test_a_transaction_is_stored_whole(world: World) -> None:
    draft = communication(status="preparation", subject={"reference": URN})
    answer = await posted(
        world,
        "transaction",
        entry("POST", "Communication", draft),
        entry("POST", "Patient", PATIENT, URN),
        entry("GET", "Patient?family=helberg"),
    )
    assert answer.status_code == 200, answer.text
    sent, patient, search = answer.json()["entry"]
    assert sent["resource"]["subject"]["reference"] == f"Patient/{patient['resource']['id']}"
    assert len(search["resource"]["entry"]) == 1


@pytest.mark.parametrize(
    "bad",
    [
        entry("POST", "Patient", {"resourceType": "Patient", "bad": 1}),
        entry("POST", "Communication", communication()),
        entry("PUT", "Patient/019b7e94-3200-7f59-8821-036711df07e0", PATIENT),
        entry("PATCH", "Patient/019b7e94-3200-7f59-8821-036711df07e0", {}),
        entry("POST", "Nothing", PATIENT),
        entry("POST", "Binary", {"resourceType": "Binary", "contentType": "a/b"}),
        entry("POST", "Patient"),
    ],
)
async def test_a_transaction_that_fails_leaves_nothing(world: World, bad: dict[str, Any]) -> None:
    answer = await posted(world, "transaction", entry("POST", "Patient", PATIENT), bad)
    assert 400 <= answer.status_code < 500
    get_fhir_model_class("OperationOutcome").model_validate(answer.json())
    assert await total(world, "Patient") == 0
    assert not world.outbox.submissions


async def test_a_conflict_within_rolls_all_back(world: World) -> None:
    created = (await world.http.post("/Patient", json=PATIENT)).json()
    url = f"Patient/{created['id']}"
    answer = await posted(
        world,
        "transaction",
        entry("POST", "Patient", PATIENT),
        entry("PUT", url, created),
        entry("PUT", url, created),
    )
    assert answer.status_code == 412
    assert await total(world, "Patient") == 1


async def test_a_transaction_updates_and_deletes(world: World) -> None:
    one = (await world.http.post("/Patient", json=PATIENT)).json()
    two = (await world.http.post("/Patient", json=PATIENT)).json()
    assert await statuses(
        world,
        "transaction",
        entry("PUT", f"Patient/{one['id']}", {**one, "gender": "female"}, ifMatch='W/"1"'),
        entry("DELETE", f"Patient/{two['id']}"),
    ) == ["200", "204"]
    assert await total(world, "Patient") == 1


@pytest.mark.parametrize(
    "bundle",
    [
        {"type": "searchset"},
        {},
        {"type": "batch", "entry": [{}]},
        {"type": "batch", "entry": [5]},
        {"type": "batch", "entry": 5},
        {"type": "batch", "entry": [{"request": {"method": "JUMP", "url": "Patient"}}]},
        {"type": "batch", "entry": [{"request": {"method": "GET", "url": "Patient"}}] * 1001},
        {"type": "batch", "entry": [entry("POST", "Patient", [])]},
        {"type": "transaction", "entry": [{**entry("POST", "Patient", PATIENT), "x": 1}]},
    ],
)
async def test_what_is_no_bundle_is_refused(world: World, bundle: dict[str, Any]) -> None:
    answer = await world.http.post(BASE, json={"resourceType": "Bundle", **bundle})
    assert answer.status_code == 400


async def test_a_conditional_reference_is_resolved(world: World) -> None:
    patient = (await world.http.post("/Patient", json=PATIENT)).json()
    draft = communication(status="preparation", subject={"reference": "Patient?family=Helberg"})
    answer = await world.http.post("/Communication", json=draft)
    assert answer.json()["subject"]["reference"] == f"Patient/{patient['id']}"
    draft["subject"]["reference"] = "Patient?family=nobody"
    assert (await world.http.post("/Communication", json=draft)).status_code == 412
    await world.http.post("/Patient", json=PATIENT)
    draft["subject"]["reference"] = "Patient?family=Helberg"
    assert (await world.http.post("/Communication", json=draft)).status_code == 412


async def test_each_subscription_of_a_transaction_counts(world: World) -> None:
    watched = {
        "resourceType": "Subscription",
        "status": "active",
        "reason": "live list",
        "criteria": "Communication?direction=inbound",
        "channel": {"type": "websocket"},
    }
    answer = await posted(
        world, "transaction", *(entry("POST", "Subscription", watched) for _ in range(101))
    )
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (409, "too-costly")
    assert await total(world, "Subscription") == 0
    made = await posted(
        world, "transaction", *(entry("POST", "Subscription", watched) for _ in range(100))
    )
    assert made.status_code == 200, made.text
    old = made.json()["entry"][0]["resource"]["id"]
    assert await statuses(
        world,
        "transaction",
        entry("POST", "Subscription", watched),
        entry("DELETE", f"Subscription/{old}"),
    ) == ["201", "204"]
