"""Multiparts on raw octets; more in tests/properties/test_cms_framing.py."""

from __future__ import annotations

import pytest

from certs.errors import DirectError
from gateway.multipart import Window

BODY = b"\r\n--b\r\nfirst\r\n--b\r\nsecond\r\n--b--\r\nrest"


def part(window: Window) -> bytes:
    return b"".join(bytes(piece) for piece in window.part(b"b"))


def test_parts() -> None:
    window = Window([b"A: b\r\n", BODY])
    assert window.header() == b"A: b\r\n"
    assert [part(window), part(window)] == [b"", b"first"]
    assert not window.closed
    assert part(window) == b"second"
    assert window.closed
    assert window.rest(4) == b"rest"


def test_the_rest_is_limited() -> None:
    window = Window([b"x" * 5, b"y"])
    with pytest.raises(DirectError, match="too much after"):
        window.rest(4)


def test_the_rest_in_pieces() -> None:
    window = Window([b"A: b\r\n\r\nbo", b"dy"])
    window.header()
    assert b"".join(bytes(piece) for piece in window.remaining()) == b"body"


def test_what_only_begins_like_a_boundary_is_content() -> None:
    for line in (b"--bb", b"--b-", b"--b x", b"--b---", b"x--b", b" --b"):
        window = Window([b"\n" + line + b"\n--b\n"])
        window.header()
        assert part(window) == line


def test_a_boundary_must_come() -> None:
    for data in (b"\r\nfirst", b"\r\nfirst\r\n--", b"\r\nx--b\r\n"):
        window = Window([data])
        window.header()
        with pytest.raises(DirectError, match="boundary line is missing"):
            part(window)


def test_a_header_must_end() -> None:
    for data in (b"", b"A: b\r\n", b"A: " + b"x" * 70_000):
        with pytest.raises(DirectError, match="no end within its limit"):
            Window([data]).header()


def test_padding_without_end_is_no_boundary_line() -> None:
    window = Window([b"\n--b" + b" " * 300 + b"x\n--b"])
    window.header()
    assert part(window).endswith(b"x")
