from __future__ import annotations

from io import BytesIO

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway.report import (
    GROUPS,
    PARTS,
    REPORT_OCTETS,
    Notice,
    Part,
    address_of,
    compose,
    crlf_lines,
    one_line,
    read_report,
)
from tests.helpers.pki import NOW

TYPE = "message/delivery-status"
HEAD = b'Content-Type: multipart/report; boundary="b"\r\n\r\n'
PART = b"\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"


def notice(**changes: str) -> Notice:
    values = {"subject": "x", "message_id": "<2@b.example>", "about": "<1@a.example>", **changes}
    return Notice(
        sender=parse_address("a@b.example"),
        recipient=parse_address("c@d.example"),
        subject=values["subject"],
        message_id=values["message_id"],
        about=values["about"],
        now=NOW,
    )


def test_builds_what_it_reads() -> None:
    parts = [Part("text/plain", b"Hello\r\n"), Part(TYPE, b"A: 1\r\n\r\nB: 2\r\n")]
    message = compose(notice(), "delivery-status", "b", parts)
    report = read_report(BytesIO(message), TYPE)
    assert report.groups == ({"a": "1"}, {"b": "2"})
    assert report.returned == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "x\r\nBcc: evil@x.example"},
        {"subject": "x\r\n\tfolded\r\n\r\nbody"},
        {"message_id": "<\x00@b>"},
        {"about": "<\xfc@b>"},
        {"about": "<" + "x" * 1000 + ">"},
    ],
)
def test_a_value_that_would_end_its_line_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(DirectError) as caught:
        compose(notice(**changes), "delivery-status", "b", [])
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


@pytest.mark.parametrize("line", ["a\r\nb", "a\nb", "\x00", "\xfc", "x" * 1000])
def test_a_field_that_would_end_its_line_is_refused(line: str) -> None:
    with pytest.raises(DirectError):
        crlf_lines([line])


def test_what_a_peer_said_fits_in_one_line() -> None:
    assert one_line(" a\r\nb\x00\xfc" + "x" * 1000) == "a  b" + "  " + "x" * 293
    assert one_line("abc", 2) == "ab"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("rfc822;a@b.example", "a@b.example"),
        ("RFC822 ; <a@b.example>", "a@b.example"),
        ("a@b.example", "a@b.example"),
        ('rfc822; "a;b"@b.example', '"a;b"@b.example'),
        ("x400; a@b.example", None),
        ("rfc822; a", None),
        ("", None),
        (None, None),
    ],
)
def test_the_address_in_a_field(value: str | None, address: str | None) -> None:
    found = address_of(value)
    assert (str(found) if found else None) == address


def test_parts_with_broken_headers_or_encodings_are_passed_over() -> None:
    broken = b"\r\n--b\r\nno header" + b"\r\n--b\r\n: x\r\n\r\nbody"
    encoded = b"\r\n--b\r\nContent-Type: message/delivery-status\r\n"
    encoded += b"Content-Transfer-Encoding: base64\r\n\r\nAAA"
    message = HEAD + broken + encoded + PART + b"A: 1\r\n--b--\r\n"
    assert read_report(BytesIO(message), TYPE).groups == ({"a": "1"},)


def test_the_returned_header_is_read() -> None:
    message = HEAD + PART + b"A: 1\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\nX: y\r\n--b--"
    assert read_report(BytesIO(message), TYPE).returned == {"x": "y"}


def test_reading_is_bounded() -> None:
    far = HEAD + b"--b\r\n\r\n" + b"x" * REPORT_OCTETS + PART + b"A: 1\r\n"
    many = HEAD + b"\r\n--b\r\n\r\nx" * PARTS + PART + b"A: 1\r\n"
    for message in (far, many):
        with pytest.raises(DirectError):
            read_report(BytesIO(message), TYPE)
    groups = HEAD + PART + b"A: 1\r\n\r\n" * (GROUPS + 10)
    assert len(read_report(BytesIO(groups), TYPE).groups) == GROUPS
