"""The rulings of fhir.md 3.7, one test for each that the bridge decides.

Decided elsewhere: wrapped messages (gateway.message), repeated envelopes (gateway.messages), who
may be answered (gateway.mdn).
"""

from __future__ import annotations

import base64
import io
import zipfile
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certs.address import parse_address
from certs.ids import new_id
from fhir_bridge.inbound import view
from fhir_bridge.records import store_received
from fhir_bridge.terms import extension_value
from tests.unit.fhir_bridge.conftest import ANNA, BEN, NOW, TERMS, TRUST, World, communication
from tests.unit.fhir_bridge.test_inbound import HEADER, mime_part, mixed
from tests.unit.fhir_bridge.test_inbound import communication as seen

CAROL = "carol@direct.lakeview.example"
ZOE = "zoe@direct.hillside.example"
UNDOCUMENTED = "No DocumentReference, for it is no clinical document (CDA) that can be read:"


def part(content_type: str, octets: bytes, name: str | None = None) -> bytes:
    disposition = f"attachment; filename={name}" if name else "attachment"
    head = (
        f"Content-Type: {content_type}\r\nContent-Disposition: {disposition}\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\n"
    )
    return head.encode() + base64.encodebytes(octets).replace(b"\n", b"\r\n")


async def read(world: World, identity: Any) -> dict[str, Any]:
    answer = await world.http.get(f"/Communication/{identity}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_several_local_mailboxes_get_one_each_over_the_same_message(world: World) -> None:
    message = HEADER + b"\r\nx"
    anna, zoe = await world.receive(message), await world.receive(message, mailbox=ZOE)
    assert anna != zoe
    theirs = await world.add_client("zoe", ZOE)
    assert (await world.http.get(f"/Communication/{zoe}")).status_code == 404
    found = (await world.http.get(f"/Communication/{zoe}", headers=theirs)).json()
    assert found["identifier"] == (await read(world, anna))["identifier"]


async def test_the_same_message_stored_again_is_one(world: World) -> None:
    message = HEADER + b"\r\nx"
    world.bodies.recorded["k"] = message
    received = view(
        io.BytesIO(message),
        message_uuid=new_id(NOW),
        mailbox=parse_address(ANNA),
        body_key="k",
        received_at=NOW,
        trust=TRUST,
        terms=TERMS,
    )
    first = await world.database.write(lambda c: store_received(c, received, NOW))
    again = await world.database.write(lambda c: store_received(c, received, NOW))
    assert first == again
    assert (await world.http.get("/Communication?direction=inbound")).json()["total"] == 1


async def test_the_same_message_id_on_other_content_is_kept_and_marked(world: World) -> None:
    first, second = await world.receive(HEADER + b"\r\nx"), await world.receive(HEADER + b"\r\ny")
    mark = TERMS.extension("duplicate-message-id")
    assert extension_value(await read(world, first), mark) is None
    assert extension_value(await read(world, second), mark) is True


@pytest.mark.parametrize(
    ("spoken_for", "sender", "other"),
    [(None, BEN, CAROL), (BEN, BEN, CAROL), (CAROL, CAROL, BEN)],
)
def test_of_several_authors_the_one_that_the_signer_speaks_for_is_the_sender(
    spoken_for: str | None, sender: str, other: str
) -> None:
    message = HEADER.replace(b"\r\nTo:", f", {CAROL}\r\nTo:".encode(), 1)
    trust = replace(TRUST, author=parse_address(spoken_for) if spoken_for else None)
    found = seen(message + b"\r\nx", trust=trust)
    assert found["sender"]["identifier"]["value"] == f"mailto:{sender}"
    shown = extension_value(found, TERMS.extension("other-author"))
    assert shown["identifier"]["value"] == f"mailto:{other}"


def test_names_may_be_missing_or_the_same() -> None:
    same = [part("text/plain", b"1", "a.txt"), part("text/plain", b"2", "a.txt")]
    found = seen(mixed(b"\r\nx", *same, part("image/png", b"3")))
    titles = [p["contentAttachment"].get("title") for p in found["payload"][1:]]
    assert titles == ["a.txt", "a.txt", None]
    assert len({p["contentAttachment"]["url"] for p in found["payload"][1:]}) == 3


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param("application/ms-tnef", "winmail.dat", id="tnef"),
        pytest.param("application/zip", "XDM.zip", id="xdm"),
        pytest.param("text/plain", "metadata.txt", id="direct-context"),
        pytest.param("application/hl7-v2", "adt.hl7", id="hl7-v2"),
        pytest.param("application/fhir+json", "bundle.json", id="fhir-bundle"),
        pytest.param("application/pkcs7-signature", "smime.p7s", id="signed-inside"),
    ],
)
async def test_what_is_not_opened_is_an_attachment_as_it_was(
    world: World, kind: str, name: str
) -> None:
    octets = bytes(range(256)) * 9
    message = await world.receive(mixed(b"\r\nx", part(kind, octets, name)))
    attachment = (await read(world, message))["payload"][1]["contentAttachment"]
    assert (attachment["contentType"], attachment["title"]) == (kind, name)
    answer = await world.http.get(f"/{attachment['url']}")
    assert answer.content == octets
    assert (await world.http.get("/DocumentReference")).json()["total"] == 0


async def test_a_zip_bomb_is_not_opened(world: World) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("IHE_XDM/SUBSET01/METADATA.XML", b"\0" * 50_000_000)
    bomb = part("application/zip", packed.getvalue(), "a.zip")
    message = await world.receive(mixed(b"\r\nx", bomb))
    attachment = (await read(world, message))["payload"][1]["contentAttachment"]
    assert attachment["size"] == len(packed.getvalue())


def test_a_signature_inside_is_no_trust_of_its_own() -> None:
    found = seen(mixed(b"\r\nx", part("application/pkcs7-signature", b"x", "smime.p7s")))
    urls = [e["url"] for e in found["extension"]]
    assert urls.count(TERMS.extension("direct-trust")) == 1


async def test_html_is_stored_as_it_is_and_served_harmless(world: World) -> None:
    html = b"<p>hi</p><script>alert(1)</script><img src='https://track.example/x.png'>"
    message = await world.receive(HEADER + b"Content-Type: text/html\r\n\r\n" + html)
    text, shown = (await read(world, message))["payload"]
    assert "alert" not in text["contentString"]
    assert mime_part(text)["derived"] is True
    answer = await world.http.get(f"/{shown['contentAttachment']['url']}")
    assert answer.content == html
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"<ClinicalDocument xmlns='urn:hl7-org:v3'><id", id="not-well-formed"),
        pytest.param(b"<other xmlns='urn:hl7-org:v3'/>", id="not-a-document"),
        pytest.param(
            b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>"
            b"<ClinicalDocument xmlns='urn:hl7-org:v3'><title>&b;</title></ClinicalDocument>",
            id="doctype",
        ),
    ],
)
async def test_what_is_no_ccda_is_an_attachment_only_and_that_is_noted(
    world: World, octets: bytes
) -> None:
    message = await world.receive(mixed(b"\r\nx", part("text/xml", octets, "a.xml")))
    found = await read(world, message)
    assert "about" not in found
    assert found["note"] == [{"text": f"{UNDOCUMENTED} a.xml"}]
    answer = await world.http.get(f"/{found['payload'][1]['contentAttachment']['url']}")
    assert answer.content == octets


async def test_a_note_names_few_documents_that_are_none(world: World) -> None:
    many = [part("text/xml", b"<a/>", f"{number}.xml") for number in range(12)]
    found = await read(world, await world.receive(mixed(b"\r\nx", *many)))
    names = ", ".join(f"{number}.xml" for number in range(10))
    assert found["note"] == [{"text": f"{UNDOCUMENTED} {names} and 2 more"}]


async def test_a_picture_in_xml_is_nobodys_document(world: World) -> None:
    found = await read(
        world, await world.receive(mixed(b"\r\nx", part("image/svg+xml", b"<svg/>", "a.svg")))
    )
    assert "note" not in found


@pytest.mark.parametrize("year", [b"1970", b"2099"], ids=["ancient", "future"])
async def test_a_strange_date_is_kept_and_not_sorted_by(world: World, year: bytes) -> None:
    strange = HEADER.replace(b"02 Jan 2026", b"02 Jan " + year).replace(b"<1@", b"<2@")
    first = await world.receive(strange + b"\r\nx", at=NOW)
    second = await world.receive(HEADER + b"\r\ny", at=NOW + timedelta(minutes=1))
    assert (await read(world, first))["sent"].startswith(year.decode())
    inbox = (await world.http.get("/Communication/$inbox")).json()["entry"]
    lasts = [e["resource"]["id"] for e in inbox if e["search"]["mode"] == "include"]
    assert lasts == [str(second), str(first)]


async def test_a_message_needs_content(world: World) -> None:
    empty = communication()
    del empty["payload"]
    empty["partOf"] = [{"reference": "Communication/00000000-0000-7000-8000-000000000000"}]
    answer = await world.http.post("/Communication", json=empty)
    assert answer.status_code == 422
    assert "Communication.payload" in str(answer.json()["issue"])


async def test_a_changed_header_does_not_change_messages_of_before(world: World) -> None:
    sent = (await world.http.post("/Communication", json=communication())).json()
    url = f"/{sent['partOf'][0]['reference']}"
    header = (await world.http.get(url)).json()
    header["recipient"] = header["recipient"][:1]
    assert (await world.http.put(url, json=header)).status_code == 200
    assert (await read(world, sent["id"]))["recipient"] == sent["recipient"]
