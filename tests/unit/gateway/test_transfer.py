"""Transfer encodings; more in tests/properties/test_cms_framing.py."""

from __future__ import annotations

import base64

import pytest

from certs.errors import DirectError, Reason
from gateway.transfer import decoder_for, quoted_printable_lines


def decoded(encoding: str, *pieces: bytes) -> bytes:
    decoder = decoder_for(encoding)
    return b"".join([*(bytes(decoder.feed(p)) for p in pieces), bytes(decoder.finish())])


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"aGVs", b"bG8="], b"hello"),
        ([b"aG!V s\r\nb\r\nG8=\r\n\r\n"], b"hello"),
        ([b"aGVsbG8=\n", b" \r\n"], b"hello"),
        ([b"aGVsb\nG9oZWxsbw==\n"], b"hellohello"),
        ([], b""),
        ([b"\r\n"], b""),
    ],
)
def test_base64(pieces: list[bytes], expected: bytes) -> None:
    assert decoded("base64", *pieces) == expected


@pytest.mark.parametrize(
    ("pieces", "detail"),
    [
        ([b"aGVsbG8"], "breaks off"),
        ([b"aGVsb\n"], "breaks off"),
        ([b"aGVsbG8=aGVsbG8="], "does not decode"),
        ([b"aGVsbG8=\n", b"aGVs"], "goes on after its padding"),
        ([b"=aGV"], "does not decode"),
        ([b"a===\n"], "does not decode"),
    ],
)
def test_no_base64(pieces: list[bytes], detail: str) -> None:
    with pytest.raises(DirectError, match=detail) as caught:
        decoded("base64", *pieces)
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


def test_base64_in_one_line_is_decoded_as_it_comes() -> None:
    data = bytes(range(256)) * 4000
    text = base64.b64encode(data)
    decoder = decoder_for("base64")
    halfway = len(decoder.feed(text[: len(text) // 2]))
    assert halfway > len(data) // 3
    assert halfway + len(decoder.feed(text[len(text) // 2 :])) + len(decoder.finish()) == len(data)


def test_quoted_printable() -> None:
    assert decoded("quoted-printable", b"a=C3", b"=A9=\r\nb\r\n", b"c=3D") == b"a\xc3\xa9b\r\nc="
    with pytest.raises(DirectError, match="too long"):
        decoded("quoted-printable", b"x" * 70_000)


def test_quoted_printable_lines() -> None:
    text = "é = è\r\n".encode() * 100 + b"x" * 200
    lines = b"".join(quoted_printable_lines([text[:333], text[333:]]))
    assert max(map(len, lines.split(b"\r\n"))) <= 76
    assert lines.count(b"\n") == lines.count(b"\r\n")
    assert decoded("quoted-printable", lines) == text


@pytest.mark.parametrize("encoding", ["x-uuencode", "", "base-64"])
def test_unknown_encodings(encoding: str) -> None:
    with pytest.raises(DirectError, match="unknown"):
        decoder_for(encoding)
