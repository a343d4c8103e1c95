"""Headers on raw octets."""

from __future__ import annotations

import io
import textwrap

import pytest

from certs.errors import DirectError, Reason
from gateway.header import (
    HEADER_OCTETS,
    MediaType,
    end_of_header,
    media_type,
    parse_header,
    read_header,
    transfer_encoding,
    value_of,
)


def typed(value: str) -> MediaType:
    return media_type(parse_header(f"Content-Type: {value}\r\n".encode()))


@pytest.mark.parametrize(
    ("value", "name", "parameters"),
    [
        ("text/plain", "text/plain", {}),
        ("Text/Plain; Charset=UTF-8", "text/plain", {"charset": "UTF-8"}),
        ('a/b; x="y; z"', "a/b", {"x": "y; z"}),
        (r'a/b; x="a \"quoted\" word"', "a/b", {"x": 'a "quoted" word'}),
        ("a/b ; x = y ;", "a/b", {"x": "y"}),
        ("a/b (comment (nested)); x=y (more)", "a/b", {"x": "y"}),
        ("a/b;\r\n\tx=y;\r\n z=1", "a/b", {"x": "y", "z": "1"}),
        ("application/vnd.a+xml; x=''", "application/vnd.a+xml", {"x": "''"}),
    ],
)
def test_content_types(value: str, name: str, parameters: dict[str, str]) -> None:
    assert typed(value) == MediaType(name, parameters)


@pytest.mark.parametrize(
    "value", ["", "text", "text/", "a/b x=y", 'a/b; x="y', "a/b; x=y; X=z", "a/b; =y", "a/b; x"]
)
def test_no_content_types(value: str) -> None:
    with pytest.raises(DirectError):
        typed(value)


def test_no_content_type_is_text() -> None:
    assert media_type(()) == MediaType("text/plain", {})


def test_transfer_encodings() -> None:
    fields = parse_header(b"Content-Transfer-Encoding: BASE64 (of course)\r\n")
    assert transfer_encoding(fields) == "base64"
    assert transfer_encoding(()) == "7bit"


def test_fields_keep_their_octets() -> None:
    header = b"A: b\r\n c\r\nLONG-name :x\nLatin: \xe9\r\n"
    fields = parse_header(header)
    assert b"".join(field.raw for field in fields) == header
    assert [field.name for field in fields] == ["a", "long-name", "latin"]
    assert [field.value for field in fields] == ["b c", "x", "\xe9"]
    assert value_of(fields, "long-name") == "x"
    assert value_of(fields, "none") is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"A: b\r\n\r\nx", (6, 8)),
        (b"A: b\n\nx", (5, 6)),
        (b"A: b\n\r\nx", (5, 7)),
        (b"\r\nx", (0, 2)),
        (b"\nx", (0, 1)),
        (b"A: b\r\n", None),
        (b"", None),
    ],
)
def test_where_a_header_ends(data: bytes, expected: tuple[int, int] | None) -> None:
    assert end_of_header(data) == expected


def test_reading_stops_at_the_body() -> None:
    for size in (0, 8000, HEADER_OCTETS - 100):
        header = b"A: " + b"x" * size + b"\r\n"
        message = io.BytesIO(header + b"\r\nbody")
        assert read_header(message) == header
        assert message.read() == b"body"


def test_a_header_has_its_limit() -> None:
    with pytest.raises(DirectError, match="longer than"):
        read_header(io.BytesIO(b"A: " + b"x" * HEADER_OCTETS + b"\r\n\r\n"))
    with pytest.raises(DirectError, match="longer than"):
        read_header(io.BytesIO(b"A: " + b"x" * 200_000))


@pytest.mark.parametrize(
    "comment",
    [
        pytest.param("(" * 30_000 + ")" * 30_000, id="deep"),
        pytest.param("(" * 9 + ")" * 9, id="too-deep"),
        pytest.param("(a(b)", id="without-end"),
    ],
)
def test_comments_have_an_end_and_a_depth(comment: str) -> None:
    for name, read in (
        ("Content-Type", media_type),
        ("Content-Transfer-Encoding", transfer_encoding),
    ):
        header = "\n ".join(textwrap.wrap(f"{name}: {comment}text/plain", 900)).encode() + b"\n"
        with pytest.raises(DirectError) as caught:
            read(parse_header(header))
        assert caught.value.reason is Reason.MESSAGE_MALFORMED


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("base64 (a) (b(c)) ", "base64"),
        ("(a)7bit", "7bit"),
        ("((((((((a))))))))8bit", "8bit"),
        ("a)b", "a)b"),
    ],
)
def test_comments_are_no_part_of_an_encoding(value: str, encoding: str) -> None:
    fields = parse_header(f"Content-Transfer-Encoding: {value}\n".encode())
    assert transfer_encoding(fields) == encoding
