from __future__ import annotations

import base64
import hashlib

from fhir.resources.R4B import get_fhir_model_class

from certs.errors import Reason
from tests.unit.fhir_bridge.conftest import BEN, World, communication

CCDA = b'<?xml version="1.0"?>\n<ClinicalDocument xmlns="urn:hl7-org:v3"/>\n' * 50


async def test_x(world: World) -> None:
    r = await world.http.get("/metadata", headers={"authorization": ""})
    print(r.text[:300])
    assert r.status_code == 200
    get_fhir_model_class("CapabilityStatement").model_validate(r.json())
    world.outbox.codes[BEN] = ("refused", Reason.NOT_TRUSTED)
    r = await world.http.post(
        "/Communication",
        json=communication(
            payload=[
                {"contentString": "Grüße"},
                {
                    "contentAttachment": {
                        "contentType": "text/xml",
                        "title": "CCD é.xml",
                        "data": base64.b64encode(CCDA).decode(),
                    }
                },
            ]
        ),
    )
    print(r.status_code, r.headers, r.text)
    get_fhir_model_class("Communication").model_validate(r.json())
    print(world.outbox.message().decode()[:1500])
    url = r.json()["payload"][1]["contentAttachment"]["url"]
    b = await world.http.get(url)
    assert b.content == CCDA
    await world.receive(
        world.outbox.message().replace(b"anna@direct.hillside", b"zoe@direct.hillside")
    )
    r = await world.http.get(
        "/Communication", params={"_sort": "-sent", "part-of:missing": "false"}
    )
    print(r.text)
    for e in r.json()["entry"]:
        get_fhir_model_class("Communication").model_validate(e["resource"])
    get_fhir_model_class("Bundle").model_validate(r.json())
    c = [e["resource"] for e in r.json()["entry"] if e["resource"]["status"] == "completed"][0]
    b = await world.http.get(
        c["payload"][1]["contentAttachment"]["url"], headers={"range": "bytes=10-19"}
    )
    assert b.status_code == 206
    assert b.content == CCDA[10:20]
