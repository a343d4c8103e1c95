"""FHIR clients that we did not write drive a served API, each step asserted (fhir.md 1.8)."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvicorn
from fhirpy import AsyncFHIRClient
from fhirpy.base.exceptions import OperationOutcome, ResourceNotFound

from certs.address import parse_address
from fhir_bridge.api import create_app
from fhir_bridge.clients import add_client
from gateway.database import SqlDatabase
from tests.helpers.database import open_sqlite
from tests.unit.fhir_bridge.conftest import (
    ANNA,
    BEN,
    MemoryBodies,
    MemoryOutbox,
    MemoryPreflight,
    communication,
)

CLIENTS = Path(__file__).parent.parent / "clients"
NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Served:
    url: str
    token: str
    database: SqlDatabase
    outbox: MemoryOutbox


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """Serve the API by uvicorn on a free loopback port."""
    async with open_sqlite(tmp_path) as database:
        mailboxes = [parse_address(ANNA)]
        token = await database.write(lambda c: add_client(c, "ehr", mailboxes, NOW))
        listening = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/fhir/R4"
        bodies = MemoryBodies()
        outbox = MemoryOutbox(database, bodies)
        app = create_app(
            database=database,
            bodies=bodies,
            outbox=outbox,
            clock=lambda: datetime.fromtimestamp(time.time(), UTC),
            base_url=url,
            decision_wait_s=0,
            preflight=MemoryPreflight(),
        )
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield Served(url, token, database, outbox)
        finally:
            server.should_exit = True
            await serving


async def test_fhir_kit_client(served: Served) -> None:
    node = shutil.which("node")
    assert node, "this test needs Node 20 (apt install nodejs npm)"
    if not (CLIENTS / "node_modules").exists():
        install = await asyncio.create_subprocess_exec("npm", "ci", "--silent", cwd=CLIENTS)
        assert await install.wait() == 0
    process = await asyncio.create_subprocess_exec(
        node,
        "fhir_kit.mjs",
        served.url,
        served.token,
        ANNA,
        BEN,
        cwd=CLIENTS,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    steps = output.decode().splitlines()
    assert process.returncode == 0, output.decode()
    assert len([step for step in steps if step.startswith("OK ")]) == 18


async def test_fhirpy(served: Served) -> None:
    client = AsyncFHIRClient(served.url, authorization=f"Bearer {served.token}")
    draft = client.resource("Communication", **communication(status="preparation"))
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
    values = {"name": [{"family": "Helberg"}], "identifier": [{"system": "urn:x", "value": "1"}]}
    patient, made = await patients.search(identifier="urn:x|1").get_or_create(
        client.resource("Patient", **values)
    )
    again, made_again = await patients.search(identifier="urn:x|1").get_or_create(
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

    sent = client.resource("Communication", **communication())
    await sent.save()
    assert len(served.outbox.submissions) == 1
    with pytest.raises(OperationOutcome):
        await sent.delete()
    await draft.delete()
    with pytest.raises(ResourceNotFound):
        await client.reference("Communication", draft.id).to_resource()
