"""The files in a `winmail.dat` (fhir.md 3.3, row on TNEF)."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.archive import unpacked
from fhir_bridge.tnef import FILES_MAX, Enclosed, enclosed_in, is_tnef
from tests.unit.fhir_bridge.conftest import TERMS, World
from tests.unit.fhir_bridge.test_derived import ccda, found
from tests.unit.fhir_bridge.test_inbound import communication, mime_part

HEAD = b"\x78\x9f\x3e\x22\x01\x00"
REND, TITLE, DATA, PROPERTIES, CODEPAGE = 0x69002, 0x18010, 0x6800F, 0x69005, 0x69007
LONG_NAME, MIME_TAG = 0x3707, 0x370E


def attribute(level: int, name: int, value: bytes) -> bytes:
    checksum = sum(value) & 0xFFFF
    return struct.pack("<BII", level, name, len(value)) + value + struct.pack("<H", checksum)


def text(name: int, value: str, *, wide: bool = True) -> bytes:
    """A property that is a text, as MS-OXTNEF 2.1.3.4 has it."""
    octets = f"{value}\0".encode("utf-16-le" if wide else "cp1252")
    head = struct.pack("<HHII", 0x1F if wide else 0x1E, name, 1, len(octets))
    return head + octets + bytes(-len(octets) % 4)


def attached(title: bytes, octets: bytes, *properties: bytes) -> bytes:
    made = attribute(2, REND, bytes(14)) + attribute(2, TITLE, title + b"\0")
    made += attribute(2, DATA, octets)
    if properties:
        blob = struct.pack("<I", len(properties)) + b"".join(properties)
        made += attribute(2, PROPERTIES, blob)
    return made


# What stands before the texts that are looked for, in every form that a property may have.
OTHERS = (
    struct.pack("<HHI", 0x0003, 0x0E21, 7),
    struct.pack("<HHQ", 0x0040, 0x3007, 1),
    struct.pack("<HH", 0x0048, 0x1234) + bytes(16),
    struct.pack("<HHI2I", 0x1003, 0x1235, 2, 1, 2),
    struct.pack("<HH", 0x0003, 0x8001) + bytes(16) + struct.pack("<III", 0, 5, 7),
    struct.pack("<HH", 0x0003, 0x8002) + bytes(16) + struct.pack("<II", 1, 6) + b"a\0b\0\0\0\0\0"
    + struct.pack("<I", 7),
)  # fmt: skip
WINMAIL = (
    HEAD
    + attribute(1, CODEPAGE, struct.pack("<II", 1252, 0))
    + attribute(1, 0x2800C, b"the body\0")
    + attached(b"SCAN~1.PDF", b"%PDF-1", *OTHERS, text(LONG_NAME, "Scan für Anna.pdf"))
    + attached(b"caf\xe9.txt", b"text", text(MIME_TAG, "text/csv", wide=False))
)


def read(winmail: bytes, size: int = 1000) -> tuple[tuple[Enclosed, ...], bool]:
    return enclosed_in(iter([winmail[at : at + size] for at in range(0, len(winmail), size)]))


def contents(winmail: bytes) -> list[tuple[str | None, bytes]]:
    files, _ = read(winmail)
    return [(file.name, b"".join(unpacked(file.where, iter([winmail])))) for file in files]


def mail(winmail: bytes) -> bytes:
    return (
        b"From: ben@direct.lakeview.example\r\nTo: anna@direct.hillside.example\r\n"
        b"Message-ID: <1@x.example>\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\n\r\ntext\r\n--b\r\nContent-Type: application/ms-tnef; name=winmail.dat\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(winmail) + b"--b--\r\n"
    )


async def received(world: World, winmail: bytes) -> dict[str, Any]:
    identity = await world.receive(mail(winmail))
    resource: dict[str, Any] = (await world.http.get(f"/Communication/{identity}")).json()
    get_fhir_model_class("Communication").model_validate(resource)
    return resource


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_files_are_stretches_of_the_envelope(size: int) -> None:
    assert is_tnef(WINMAIL)
    files, whole = read(WINMAIL, size)
    assert whole
    assert [(f.name, f.media_type, f.measured.size) for f in files] == [
        ("Scan für Anna.pdf", None, 6),
        ("café.txt", "text/csv", 4),
    ]
    assert contents(WINMAIL) == [("Scan für Anna.pdf", b"%PDF-1"), ("café.txt", b"text")]


@pytest.mark.parametrize(
    "winmail",
    [
        pytest.param(WINMAIL + b"\r\n", id="padded"),
        pytest.param(WINMAIL + bytes(40), id="garbage-at-the-end"),
        pytest.param(WINMAIL.replace(b"%PDF-1", b"%PDF-2"), id="wrong-checksum"),
        pytest.param(WINMAIL[:-2], id="no-last-checksum"),
        pytest.param(
            HEAD + attribute(2, DATA, b"%PDF-1") + attribute(2, TITLE, b"a") + attached(b"b", b"x"),
            id="data-before-the-name-and-no-beginning",
        ),
    ],
)
def test_what_makers_do_differently_is_read(winmail: bytes) -> None:
    files, whole = read(winmail)
    assert (len(files), whole) == (2, True)


@pytest.mark.parametrize("end", range(len(WINMAIL) - 60, len(WINMAIL), 7))
def test_an_envelope_that_is_cut_off_is_not_opened_or_only_as_far_as_it_is_whole(end: int) -> None:
    files, whole = read(WINMAIL[:end])
    assert not whole or len(files) <= 2
    assert all(file.measured.size in (4, 6) for file in files)


def test_a_file_may_be_a_property() -> None:
    octets = b"%PDF-1." + bytes(3)
    data = struct.pack("<HHII", 0x0102, 0x3701, 1, len(octets)) + octets + bytes(-len(octets) % 4)
    blob = struct.pack("<I", 3) + OTHERS[0] + data + text(LONG_NAME, "scan.pdf")
    winmail = HEAD + attribute(2, REND, bytes(14)) + attribute(2, PROPERTIES, blob)
    assert contents(winmail) == [("scan.pdf", octets)]
    assert contents(winmail + attached(b"b", b"x", data)) == [("scan.pdf", octets), ("b", b"x")]


def test_there_is_an_end_to_files() -> None:
    many = HEAD + b"".join(attached(b"%d" % n, b"x") for n in range(FILES_MAX + 1))
    files, whole = read(many)
    assert (len(files), whole) == (FILES_MAX, False)


@given(st.lists(st.sampled_from([WINMAIL, HEAD, WINMAIL[6:200]]) | st.binary(), max_size=5))
def test_any_octets_are_read_or_passed_over(blocks: list[bytes]) -> None:
    enclosed_in(iter(blocks))
    enclosed_in(iter([HEAD, *blocks]))


@given(st.binary(max_size=200))
def test_any_properties_are_read_or_passed_over(blob: bytes) -> None:
    winmail = HEAD + attribute(2, REND, b"") + attribute(2, DATA, b"x")
    files, whole = read(winmail + attribute(2, PROPERTIES, blob))
    assert (len(files), whole) == (1, True)


async def test_each_file_is_a_payload_beside_the_envelope(world: World) -> None:
    message = await received(world, WINMAIL)
    envelope, scan, note = message["payload"][1:]
    assert (await world.http.get(envelope["contentAttachment"]["url"])).content == WINMAIL
    for payload, name, kind, octets in (
        (scan, "Scan für Anna.pdf", "application/pdf", b"%PDF-1"),
        (note, "café.txt", "text/csv", b"text"),
    ):
        attachment = payload["contentAttachment"]
        assert (attachment["title"], attachment["contentType"]) == (name, kind)
        assert (await world.http.get(attachment["url"])).content == octets
        part = mime_part(payload)
        assert (part["derived-from"], part["derived"]) == (mime_part(envelope)["path"], True)


async def test_a_document_in_an_envelope_is_a_document(world: World) -> None:
    message = await received(world, HEAD + attached(b"ccd.xml", ccda()))
    [document] = await found(world, f"DocumentReference?related=Communication/{message['id']}")
    assert document["content"][0]["attachment"] == message["payload"][2]["contentAttachment"]
    assert message["subject"] == {"reference": "#patient"}


def test_there_is_an_end_to_the_files_of_a_message() -> None:
    many = HEAD + b"".join(attached(b"%d" % n, b"x") for n in range(60))
    part = mail(many).partition(b"--b\r\nContent-Type: application/ms-tnef")[2]
    found = communication(
        mail(many).removesuffix(b"--b--\r\n") + (b"--b\r\nContent-Type: application/ms-tnef" + part)
    )
    derived = [p for p in found["payload"] if "derived-from" in mime_part(p)]
    assert len(derived) == FILES_MAX
    assert {"url": TERMS.extension("partial"), "valueBoolean": True} in found["extension"]


async def test_a_damaged_envelope_is_an_attachment_only(world: World) -> None:
    message = await received(world, WINMAIL[:80])
    assert len(message["payload"]) == 2
    assert {"url": TERMS.extension("partial"), "valueBoolean": True} in message["extension"]
