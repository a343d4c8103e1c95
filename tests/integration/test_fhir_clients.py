"""FHIR clients that we did not write drive a whole served gateway, each step asserted.

fhir.md 1.8. One sandbox serves all of them: two HISPs with their own DNS, trust and database; each
client has a mailbox of its own. What is sent is really sent, and its MDN comes back.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
import sqlalchemy as sa
from cumulus_fhir_support import FatalNetworkError, FhirClient
from fhirclient import client as smart
from fhirclient import server as smart_server
from fhirclient.models import bundle as smart_bundle
from fhirclient.models import communication as smart_communication
from fhirclient.models import patient as smart_patient
from fhirpy import AsyncFHIRClient
from fhirpy.base.exceptions import OperationOutcome, ResourceNotFound
from jwcrypto import jwk
from pymedplum import MedplumClient
from pymedplum.exceptions import MedplumError, PreconditionFailedError

from certs.address import parse_address
from fhir_bridge.backend_clients import add_backend_client
from fhir_bridge.tables import fhir_export
from gateway.clock import utc_now
from tests.helpers.fhir_site import App, FhirSite, eventually, fhir_site, node_steps

T = TypeVar("T")

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("fhir-clients"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FhirSite]:
    async with fhir_site(tmp_path_factory.mktemp("clients")) as site:
        yield site


def communication(app: App, **elements: Any) -> dict[str, Any]:
    """A message from the application's mailbox to its peer."""
    system = "urn:ietf:rfc:3986"
    return {
        "resourceType": "Communication",
        "status": "in-progress",
        "sender": {"identifier": {"system": system, "value": f"mailto:{app.mailbox}"}},
        "recipient": [{"identifier": {"system": system, "value": f"mailto:{app.peer}"}}],
        "topic": {"text": "Referral"},
        "payload": [{"contentString": "Please see attached."}],
        **elements,
    }


async def test_fhir_kit_client(site: FhirSite) -> None:
    assert len(await node_steps("fhir_kit.mjs", await site.app("kit"))) == 18


async def test_smart_js(site: FhirSite) -> None:
    assert len(await node_steps("smart.mjs", await site.app("smart"))) == 12


async def test_medplum_core(site: FhirSite) -> None:
    assert len(await node_steps("medplum.mjs", await site.app("medplum"))) == 24


async def test_fhirpy(site: FhirSite) -> None:
    app = await site.app("fhirpy")
    client = AsyncFHIRClient(app.url, authorization=f"Bearer {app.token}")
    draft = client.resource("Communication", **communication(app, status="preparation"))
    await draft.save()
    assert draft["meta"]["versionId"] == "1"

    draft["topic"] = {"text": "Saved"}
    await draft.save()
    read = await client.reference("Communication", draft.id).to_resource()
    assert read["topic"] == {"text": "Saved"}

    await draft.patch(topic={"text": "Patched"})
    found = await client.resources("Communication").search(topic__text="patched").fetch_all()
    assert [r.id for r in found] == [draft.id]

    patients = client.resources("Patient")
    values = {"name": [{"family": "Helberg"}], "identifier": [{"system": "urn:py", "value": "1"}]}
    patient, made = await patients.search(identifier="urn:py|1").get_or_create(
        client.resource("Patient", **values)
    )
    again, made_again = await patients.search(identifier="urn:py|1").get_or_create(
        client.resource("Patient", **values)
    )
    assert (made, made_again, again.id) == (True, False, patient.id)

    draft["subject"] = patient.to_reference()
    await draft.save(fields=["subject"])
    messages = client.resources("Communication")
    assert await messages.search(subject=patient.to_reference()).count() == 1
    assert await messages.has("Task", "focus", status="requested").count() == 0
    assert await messages.search(patient__family="helberg").count() == 1
    with_patient = await messages.include("Communication", "subject").fetch_raw()
    assert {e.resource.resourceType for e in with_patient.entry} == {"Communication", "Patient"}
    assert await messages.sort("-_lastUpdated").limit(1).first() is not None

    assert await client.resource("Patient", active=True).is_valid()
    assert not await client.resource("Patient", active="perhaps").is_valid()

    sent = client.resource("Communication", **communication(app))
    await sent.save()

    async def completed() -> bool:
        return bool((await sent.refresh())["status"] == "completed")

    assert await eventually(completed)
    with pytest.raises(OperationOutcome):
        await sent.delete()
    await draft.delete()
    with pytest.raises(ResourceNotFound):
        await client.reference("Communication", draft.id).to_resource()


async def in_thread(work: Callable[[], T]) -> T:
    """Run a client that blocks; the gateway is served by this loop."""
    return await asyncio.to_thread(work)


async def test_smart_python(site: FhirSite) -> None:
    app = await site.app("smartpy")
    await in_thread(partial(drive_smart_python, app))


def drive_smart_python(app: App) -> None:
    client = smart.FHIRClient(settings={"app_id": "test", "api_base": app.url})
    server = client.server
    server.session.headers["Authorization"] = f"Bearer {app.token}"
    statement = server.capabilityStatement
    assert statement.fhirVersion == "4.0.1"

    patient = smart_patient.Patient({"name": [{"family": "Helberg"}], "active": True})
    created = patient.create(server)
    patient = smart_patient.Patient.read(created["id"], server)
    assert patient.name[0].family == "Helberg"

    identities = []
    for number in range(3):
        draft = smart_communication.Communication(
            communication(
                app,
                status="preparation",
                identifier=[{"system": "urn:smartpy", "value": str(number)}],
                subject={"reference": f"Patient/{patient.id}"},
            )
        )
        identities.append(draft.create(server)["id"])

    search = smart_communication.Communication.where(
        {"patient": patient.id, "identifier": "urn:smartpy|", "_count": "2"}
    )
    assert {found.id for found in search.perform_resources_iter(server)} == set(identities)
    first = search.perform(server)
    assert isinstance(first, smart_bundle.Bundle)
    assert len(first.entry) == 2

    draft = smart_communication.Communication.read(identities[0], server)
    assert draft.subject.resolved(smart_patient.Patient).id == patient.id
    draft.topic.text = "Changed"
    assert draft.update(server)["topic"]["text"] == "Changed"

    sent = smart_communication.Communication(communication(app)).create(server)
    assert sent["status"] in ("in-progress", "completed")

    draft.delete()
    with pytest.raises(Exception, match="410"):
        smart_communication.Communication.read(identities[0], server)
    with pytest.raises(smart_server.FHIRNotFoundException):
        smart_patient.Patient.read("nobody", server)


async def test_cumulus(site: FhirSite) -> None:
    """SMART Backend Services: discovery, a signed assertion, a token, and what its scopes allow."""
    app = await site.app("cumulus")
    key = jwk.JWK.generate(kty="EC", crv="P-384", kid="1", alg="ES384", use="sig")
    keys = [{**json.loads(key.export_private()), "key_ops": ["sign"]}]
    public = json.dumps({"keys": [json.loads(key.export_public())]})
    mailbox = parse_address(app.mailbox)
    identity = await site.sandbox.hillside.listening.database.write(
        lambda c: add_backend_client(
            c, "cumulus-backend", [mailbox], public, utc_now(), scopes="system/Communication.rs"
        )
    )
    async with app.http() as http:
        draft = communication(app, status="preparation")
        assert (await http.post("/Communication", json=draft)).status_code == 201
    async with FhirClient(
        app.url, ["Communication"], smart_client_id=str(identity), smart_jwks={"keys": keys}
    ) as client:
        found = await client.request("GET", "Communication?status=preparation")
        [entry] = found.json()["entry"]
        assert entry["resource"]["topic"] == {"text": "Referral"}
        one = await client.request("GET", f"Communication/{entry['resource']['id']}")
        assert one.headers["etag"] == 'W/"1"'
        with pytest.raises(FatalNetworkError) as refused:
            await client.request("GET", "Patient", retry_delays=[])
        assert refused.value.response is not None
        assert refused.value.response.status_code == 403


async def test_smart_fetch(site: FhirSite, tmp_path: Path) -> None:
    """$export by Backend Services: all, what changed since, and of a Group; each then deleted."""
    app = await site.app("fetch")
    key = jwk.JWK.generate(kty="EC", crv="P-384", kid="1", alg="ES384", use="sig")
    keys = [{**json.loads(key.export_private()), "key_ops": ["sign"]}]
    (tmp_path / "keys.jwks").write_text(json.dumps({"keys": keys}))
    public = json.dumps({"keys": [json.loads(key.export_public())]})
    database = site.sandbox.hillside.listening.database
    identity = await database.write(
        lambda c: add_backend_client(
            c,
            "fetch-backend",
            [parse_address(app.mailbox)],
            public,
            utc_now(),
            scopes="system/*.rs",
        )
    )

    async def fetch(name: str, *words: str) -> dict[str, list[Any]]:
        """Run it; return the resources that it fetched, by type."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("smart-fetch")),
            "bulk",
            *("--fhir-url", app.url, "--smart-client-id", str(identity)),
            *("--smart-key", str(tmp_path / "keys.jwks"), "--type", "Patient,DocumentReference"),
            *("--no-compression", *words, str(tmp_path / name)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        found: dict[str, list[Any]] = {}
        for path in sorted((tmp_path / name).glob("[A-Z]*.ndjson")):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found.setdefault(path.name.partition(".")[0], []).extend(lines)
        gone = (tmp_path / name / "deleted").glob("*.ndjson")
        found["gone"] = [
            json.loads(line) for path in gone for line in path.read_text().splitlines()
        ]
        return found

    async with app.http() as http:

        async def patient(**elements: Any) -> str:
            made = await http.post("/Patient", json={"resourceType": "Patient", **elements})
            return str(made.json()["id"])

        people = [await patient(name=[{"family": f"Fetched{n}"}]) for n in range(3)]
        attachment = {"contentType": "text/plain", "data": "aGVsbG8="}
        document = {
            "resourceType": "DocumentReference",
            "status": "current",
            "subject": {"reference": f"Patient/{people[0]}"},
            "content": [{"attachment": attachment}],
        }
        assert (await http.post("/DocumentReference", json=document)).status_code == 201
        everything = await fetch("all")
        assert {*people} <= {found["id"] for found in everything["Patient"]}
        [found] = everything["DocumentReference"]
        url = found["content"][0]["attachment"]["url"]
        assert url.startswith("http")
        assert (await http.get(url)).content == b"hello"

        log = (tmp_path / "all" / "log.ndjson").read_text().splitlines()
        since = next(
            event["eventDetail"]["transactionTime"]
            for event in map(json.loads, log)
            if event["eventId"] == "status_complete"
        )
        later = await patient()
        assert (await http.delete(f"/Patient/{people[2]}")).status_code == 204
        changed = await fetch("since", "--since", since)
        assert [found["id"] for found in changed["Patient"]] == [later]
        [bundle] = changed["gone"]
        assert [e["request"]["url"] for e in bundle["entry"]] == [f"Patient/{people[2]}"]

        members = [{"entity": {"reference": f"Patient/{people[0]}"}}]
        group = {"resourceType": "Group", "type": "person", "actual": True, "member": members}
        made = (await http.post("/Group", json=group)).json()["id"]
        of_group = await fetch("group", "--group", made)
        assert [found["id"] for found in of_group["Patient"]] == people[:1]
        assert of_group["DocumentReference"] == everything["DocumentReference"]
    left = await database.read(lambda c: c.execute(sa.select(fhir_export.c.id)).all())
    assert left == []  # it deletes each when it has it


async def test_pymedplum(site: FhirSite) -> None:
    app = await site.app("pymedplum")
    await in_thread(partial(drive_pymedplum, app))


def drive_pymedplum(app: App) -> None:
    with MedplumClient(
        base_url=app.url.removesuffix("fhir/R4"), access_token=app.token, allow_insecure_http=True
    ) as client:
        draft = client.create_resource(communication(app, status="preparation"))
        assert draft["meta"]["versionId"] == "1"

        identifier = [{"system": "urn:pymedplum", "value": "1"}]
        patient = {"resourceType": "Patient", "identifier": identifier}
        made = client.create_resource_if_none_exist(patient, "identifier=urn:pymedplum|1")
        again = client.create_resource_if_none_exist(patient, "identifier=urn:pymedplum|1")
        assert again["id"] == made["id"]

        patched = client.patch_resource(
            "Communication",
            draft["id"],
            [{"op": "replace", "path": "/topic/text", "value": "Patched"}],
        )
        assert patched["topic"]["text"] == "Patched"
        updated = client.update_resource({**patched, "topic": {"text": "Updated"}})
        assert updated["meta"]["versionId"] == "3"
        with pytest.raises(PreconditionFailedError):
            client.update_resource({**patched, "topic": {"text": "Stale"}})
        retried = client.update_with_retry(
            "Communication", draft["id"], lambda r: {**r, "topic": {"text": "Retried"}}
        )
        assert retried.resource["topic"]["text"] == "Retried"
        first = client.vread_resource("Communication", draft["id"], "1")
        assert first["topic"]["text"] == "Referral"

        for number in range(3):
            client.create_resource(
                communication(
                    app,
                    status="preparation",
                    identifier=[{"system": "urn:pymedplum-page", "value": str(number)}],
                )
            )
        query = {"identifier": "urn:pymedplum-page|", "_count": "2"}
        pages = list(client.search_resource_pages("Communication", query))
        assert len(pages) == 3
        one = client.search_one("Communication", {"identifier": "urn:pymedplum-page|1"})
        assert one is not None

        binary = client.upload_binary(b"\x00\xff octets", "application/octet-stream")
        assert client.download_binary(binary["id"]) == b"\x00\xff octets"

        entry = {
            "request": {"method": "POST", "url": "Patient"},
            "resource": {"resourceType": "Patient", "active": True},
        }
        bundle = {"resourceType": "Bundle", "entry": [entry, entry]}
        batch = client.execute_batch({**bundle, "type": "batch"})
        assert [e["response"]["status"][:3] for e in batch["entry"]] == ["201", "201"]
        done = client.execute_transaction({**bundle, "type": "transaction"})
        assert [e["response"]["status"][:3] for e in done["entry"]] == ["201", "201"]

        outcome = client.execute_operation(
            "Communication", "validate", params=communication(app, status="preparation")
        )
        assert outcome["issue"][0]["severity"] == "information"
        answer = client.execute_graphql(
            '{ CommunicationList(identifier: "urn:pymedplum-page|1") { id } }'
        )
        assert answer["data"]["CommunicationList"] == [{"id": one["id"]}]

        client.delete_resource("Communication", draft["id"])
        with pytest.raises(MedplumError):
            client.read_resource("Communication", draft["id"])
