"""XDM packages: their documents are described and served, and nothing in them can do harm."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import struct
import zipfile
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.errors import DirectError
from fhir_bridge.archive import contents, entries_of, unpacked
from fhir_bridge.terms import extension_value
from fhir_bridge.xdm import read_packages
from fhir_bridge.xds_metadata import ELEMENTS_MAX, read_metadata
from gateway.sample_ccda import continuity_of_care_document
from tests.helpers.xdm import DOCUMENT_OID, ENTRY_UUID, metadata, package, zipped
from tests.unit.fhir_bridge.conftest import ANNA, BEN, NOW, TERMS, World
from tests.unit.fhir_bridge.test_derived import ccda, found

SET = "IHE_XDM/SUBSET01"
PDF = b"%PDF-1.7 not really"


def mail(archive: bytes, content_type: str = "application/zip", name: str = "XDM.ZIP") -> bytes:
    return (
        (
            f"From: {BEN}\r\nTo: {ANNA}\r\nSubject: Referral XDM/1.0/DDM\r\n"
            "Message-ID: <xdm@lakeview.example>\r\n"
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nSee attached.\r\n"
            f"--b\r\nContent-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n"
            f"Content-Disposition: attachment; filename={name}\r\n\r\n"
        ).encode()
        + base64.encodebytes(archive).replace(b"\n", b"\r\n")
        + b"--b--\r\n"
    )


async def received(world: World, message: bytes) -> dict[str, Any]:
    identity = await world.receive(message)
    resource: dict[str, Any] = (await world.http.get(f"/Communication/{identity}")).json()
    get_fhir_model_class("Communication").model_validate(resource)
    return resource


def is_partial(message: dict[str, Any]) -> bool:
    return extension_value(message, TERMS.extension("partial")) is True


async def test_a_package_is_described_by_its_metadata(world: World) -> None:
    document = ccda()
    message = await received(world, mail(package(document)))
    [reference] = await found(world, f"DocumentReference?related=Communication/{message['id']}")
    [listed] = await found(world, f"List?item=DocumentReference/{reference['id']}")
    assert message["about"] == [
        {"reference": f"DocumentReference/{reference['id']}"},
        {"reference": f"List/{listed['id']}"},
    ]
    assert reference["masterIdentifier"]["value"] == f"urn:oid:{DOCUMENT_OID}"
    assert reference["identifier"][0]["value"] == ENTRY_UUID
    assert reference["type"]["coding"] == [
        {"code": "34133-9", "system": "http://loinc.org", "display": "Episode"}
    ]
    assert reference["category"][0]["coding"][0]["code"] == "18842-5"
    assert reference["author"] == [{"display": "Dr. Alice Wells"}]
    assert reference["description"] == "of the last stay"
    assert reference["securityLabel"][0]["coding"][0]["code"] == "R"
    [content] = reference["content"]
    assert content["format"]["code"] == "urn:hl7-org:sdwg:ccda-structuredBody:1.1"
    assert content["format"]["system"] == "urn:oid:1.3.6.1.4.1.19376.1.2.3"
    attachment = content["attachment"]
    # XDS has SHA-1 in hexadecimal, FHIR in base64.
    sha1 = base64.b64encode(hashlib.sha1(document).digest()).decode()
    assert (attachment["size"], attachment["hash"]) == (len(document), sha1)
    assert attachment["title"] == "Discharge summary"
    assert (attachment["creation"], attachment["language"]) == ("2026-01-02T09:30:00Z", "en-US")
    assert reference["context"]["period"] == {"start": "2025-12"}
    assert "system" not in reference["context"]["facilityType"]["coding"][0]
    assert extension_value(reference, TERMS.extension("metadata-mismatch")) is None
    assert listed["code"]["coding"][0]["code"] == "submissionset"
    assert (listed["title"], listed["date"]) == ("Referral", "2026-01-02T09:31:00Z")
    recipients = [e for e in listed["extension"] if e["url"].endswith("intendedRecipient")]
    assert recipients[0]["valueReference"]["identifier"]["value"] == f"mailto:{ANNA}"


async def test_the_patient_of_a_package_is_the_subject(world: World) -> None:
    message = await received(world, mail(package(ccda())))
    assert message["subject"] == {"reference": "#patient"}
    [patient] = [r for r in message["contained"] if r["resourceType"] == "Patient"]
    assert patient["name"] == [{"family": "Helberg", "given": ["Caroline", "B."]}]
    assert (patient["birthDate"], patient["gender"]) == ("1970-05-01", "female")
    assert patient["identifier"] == [
        {"system": "urn:oid:2.16.840.1.113883.4.1", "value": "444222222"}
    ]


async def test_a_document_of_another_patient_is_a_conflict_with_both(world: World) -> None:
    other = ccda("Other").replace(b"444222222", b"555333333")
    message = await received(world, mail(package(other)))
    assert "subject" not in message
    url = TERMS.extension("patient-conflict")
    named = [e["valueReference"]["reference"] for e in message["extension"] if e["url"] == url]
    families = {
        f"#{r['id']}": r["name"][0]["family"] for r in message["contained"] if r["id"] != "sender"
    }
    assert [families[one] for one in named] == ["Helberg", "Other"]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(ccda(), id="c-cda"),
        pytest.param(PDF * 20_000, id="large"),
        pytest.param(b"", id="empty"),
        pytest.param(continuity_of_care_document(now=NOW), id="sample"),
    ],
)
async def test_a_document_of_a_package_is_served_as_it_is(world: World, octets: bytes) -> None:
    await received(world, mail(package(octets)))
    [reference] = await found(world, "DocumentReference")
    url = reference["content"][0]["attachment"]["url"]
    whole = await world.http.get(f"/{url}")
    assert whole.content == octets
    assert whole.headers["etag"].strip('W/"') == hashlib.sha256(octets).hexdigest()
    if octets:
        part = await world.http.get(f"/{url}", headers={"range": "bytes=3-8"})
        assert (part.status_code, part.content) == (206, octets[3:9])


async def test_the_package_itself_stays_an_attachment_to_the_octet(world: World) -> None:
    archive = package(ccda())
    message = await received(world, mail(archive))
    attachment = message["payload"][1]["contentAttachment"]
    assert (attachment["title"], attachment["contentType"]) == ("XDM.ZIP", "application/zip")
    assert (await world.http.get(f"/{attachment['url']}")).content == archive


@pytest.mark.parametrize(
    ("content_type", "name"),
    [
        ("application/zip", "XDM.ZIP"),
        ("application/x-zip-compressed", "a.bin"),
        ("application/octet-stream", "package.zip"),
        ("application/octet-stream", "unnamed"),
    ],
)
async def test_a_package_is_known_by_its_content(
    world: World, content_type: str, name: str
) -> None:
    await received(world, mail(package(ccda()), content_type, name))
    assert len(await found(world, "DocumentReference")) == 1


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"ihe_xdm/subset01/metadata.xml": metadata(PDF)}, id="lower-case"),
        pytest.param({r"IHE_XDM\SUBSET01\METADATA.XML": metadata(PDF)}, id="backslashes"),
        pytest.param({f"{SET}/METADATA.XML": metadata(PDF, uri=r".\DOC0001.XML")}, id="uri"),
        pytest.param(
            {f"{SET}/METADATA.XML": metadata(PDF, mime_type="application/xml")}, id="mime-type"
        ),
        pytest.param(
            {f"{SET}/METADATA.XML": metadata(PDF), "INDEX.HTM": b"<not x"}, id="bad-index"
        ),
        pytest.param(
            {f"{SET}/METADATA.XML": metadata(PDF), "../../etc/passwd": b"x"}, id="beside-it"
        ),
    ],
)
def test_what_makers_do_differently_is_read(files: dict[str, bytes]) -> None:
    folder = next(iter(files)).replace("\\", "/").rpartition("/")[0]
    archive = zipped({**files, f"{folder}/DOC0001.XML": PDF})
    [found] = read_packages(lambda: iter([archive]), len(archive))
    filed = found.file(found.metadata.documents[0].slot("URI"))
    assert filed is not None
    assert b"".join(unpacked(filed.where, iter([archive]))) == PDF


async def test_several_submission_sets_are_each_read(world: World) -> None:
    archive = zipped(
        {
            "IHE_XDM/A/METADATA.XML": metadata(PDF, uri="D.PDF", mime_type="application/pdf"),
            "IHE_XDM/A/D.PDF": PDF,
            "IHE_XDM/B/METADATA.XML": metadata(b"b", uri="sub/E.TXT", mime_type="text/plain"),
            "IHE_XDM/B/sub/E.TXT": b"b",
        }
    )
    message = await received(world, mail(archive))
    assert len(await found(world, "List")) == 2
    shown = await found(world, f"DocumentReference?related=Communication/{message['id']}")
    types = {r["content"][0]["attachment"]["contentType"] for r in shown}
    assert types == {"application/pdf", "text/plain"}
    assert not is_partial(message)


@pytest.mark.parametrize("wrong", [{"sha1": "0" * 40}, {"size": "1"}])
async def test_metadata_that_does_not_fit_the_document_is_marked(
    world: World, wrong: dict[str, str]
) -> None:
    await received(world, mail(package(PDF, about=metadata(PDF, **wrong))))
    [reference] = await found(world, "DocumentReference")
    assert extension_value(reference, TERMS.extension("metadata-mismatch")) is True
    assert reference["content"][0]["attachment"]["size"] == len(PDF)  # what is so


async def test_a_document_that_is_missing_makes_it_partial(world: World) -> None:
    message = await received(world, mail(package(PDF, name="OTHER.XML")))
    assert is_partial(message)
    assert await found(world, "DocumentReference") == []


def patched(archive: bytes, at: int, value: bytes, *, central: bool = True) -> bytes:
    """Change a field of the last file in the directory, counted from its start."""
    start = archive.rfind(b"PK\x01\x02" if central else b"PK\x03\x04") + at
    return archive[:start] + value + archive[start + len(value) :]


def overlapping() -> bytes:
    """Two names in the directory for the octets of one file."""
    return patched(
        package(PDF), 42, struct.pack("<I", package(PDF).find(b"IHE_XDM/SUBSET01/M") - 30)
    )


HOSTILE = {
    "bomb": package(b"\0" * 60_000_000),
    "bomb in the metadata": zipped({f"{SET}/METADATA.XML": b" " * 5_000_000}),
    "much metadata": zipped(
        {f"{SET}/METADATA.XML": b"<!--" + bytes(range(48, 90)) * 40_000 + b"-->"},
        zipfile.ZIP_STORED,
    ),
    "many files": zipped({f"{SET}/{number}": b"" for number in range(1100)}),
    "very many files": zipped({f"{SET}/{number}": b"" for number in range(6000)}),
    "out of it": zipped({f"{SET}/METADATA.XML": metadata(PDF), "IHE_XDM/../../x": b"x"}),
    "twice": zipped({f"{SET}/METADATA.XML": metadata(PDF), f"{SET}/Metadata.xml": metadata(PDF)}),
    "encrypted": patched(package(PDF), 8, b"\x01\x00"),
    "another method": patched(package(PDF), 10, b"\x0c\x00"),
    "larger than it says": patched(package(PDF), 24, struct.pack("<I", 3)),
    "other octets": patched(package(PDF), 16, b"abcd"),
    "no local header": patched(package(PDF), 0, b"XX", central=False),
    "overlapping": overlapping(),
    "doctype": package(
        PDF, about=metadata(PDF, before='<!DOCTYPE x [<!ENTITY a "b">]>').replace(b"Disch", b"&a;")
    ),
    "external entity": package(
        PDF, about=metadata(PDF, before='<!DOCTYPE x SYSTEM "file:///etc/passwd">')
    ),
    "not xml": package(PDF, about=b"metadata"),
    "many elements": package(PDF, about=b"<a>" + b"<b/>" * (ELEMENTS_MAX + 1) + b"</a>"),
    "deep": package(PDF, about=b"<a>" * 50 + b"</a>" * 50),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_package_that_cannot_be_trusted_stays_an_attachment(
    world: World, name: str
) -> None:
    archive = HOSTILE[name]
    message = await received(world, mail(archive))
    assert is_partial(message)
    assert "about" not in message
    assert await found(world, "DocumentReference") == []
    url = message["payload"][1]["contentAttachment"]["url"]
    answer = await world.http.get(f"/{url}")
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(archive).digest()


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(zipped({"letter.docx": b"x", "../../x": b"y"}), id="another-zip"),
        pytest.param(zipped({}), id="empty"),
        pytest.param(b"PK\x03\x04", id="cut-off"),
        pytest.param(b"PK\x03\x04 not a zip at all", id="no-zip"),
        pytest.param(zipped({"inner.zip": package(PDF)}), id="package-within-a-zip"),
        pytest.param(zipped({f"x/{SET}/METADATA.XML": metadata(PDF)}), id="folder-elsewhere"),
    ],
)
async def test_what_is_no_package_is_an_attachment_and_no_more(
    world: World, archive: bytes
) -> None:
    message = await received(world, mail(archive))
    assert not is_partial(message)
    assert await found(world, "DocumentReference") == []


async def test_a_transfer_encoding_cannot_name_a_stretch_of_an_archive(world: World) -> None:
    bomb = zipped({"x": b"\0" * 10_000})
    hostile = mail(bomb).replace(b"Encoding: base64", b"Encoding: base64 zip8@31+100")
    message = await received(world, hostile)
    url = message["payload"][1]["contentAttachment"]["url"]
    assert (await world.http.get(f"/{url}")).content.startswith(b"UEsDB")  # as it came


def test_the_same_package_is_always_described_the_same() -> None:
    archive = package(ccda())
    blocks = [archive[start : start + 7] for start in range(0, len(archive), 7)]
    assert read_packages(lambda: iter(blocks), len(archive)) == read_packages(
        lambda: iter([archive]), len(archive)
    )


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(NAMES, st.binary(max_size=3000), max_size=6),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.integers(1, 4096),
)
def test_every_archive_reads_as_zipfile_reads_it(
    files: dict[str, bytes], method: int, block: int
) -> None:
    wanted = {name.lower(): octets for name, octets in files.items()}
    archive = zipped({f"IHE_XDM/{name}": octets for name, octets in wanted.items()}, method)

    def octets() -> Any:
        return iter([archive[at : at + block] for at in range(0, len(archive), block)])

    entries = entries_of(octets, len(archive), "IHE_XDM")
    read: dict[str, bytes] = {}
    for entry, where, piece in contents(octets, entries):
        read[entry.path] = read.get(entry.path, b"") + (piece or b"")
        if piece is None:
            assert b"".join(unpacked(where, octets())) == read[entry.path]
    with zipfile.ZipFile(io.BytesIO(archive)) as oracle:
        assert read == {name: oracle.read(name) for name in oracle.namelist()}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6), st.data())
def test_a_damaged_package_is_read_or_refused(
    changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    damaged = bytearray(package(PDF))
    for at, octet in changes:
        damaged[at % len(damaged)] = octet
    whole = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(DirectError):
        read_packages(lambda: iter([whole]), len(whole))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3000))
def test_damaged_metadata_is_read_or_refused(octets: bytes, at: int) -> None:
    text = metadata(PDF)
    with contextlib.suppress(DirectError):
        read_metadata(text[:at] + octets + text[at + len(octets) :])
