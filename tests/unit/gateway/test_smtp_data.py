from __future__ import annotations

import pytest

from gateway.smtp_data import DotDecoder


def decode(wire: bytes, chunk_octets: int) -> tuple[bytes, bytes | None, DotDecoder]:
    decoder = DotDecoder()
    body, rest = b"", None
    for start in range(0, len(wire), chunk_octets):
        chunk = wire[start : start + chunk_octets]
        if rest is not None:
            rest += chunk
            continue
        out, rest = decoder.feed(chunk)
        body += out
    return body, rest, decoder


@pytest.mark.parametrize("chunk_octets", [1, 2, 3, 4, 5, 1000])
@pytest.mark.parametrize(
    ("wire", "body"),
    [
        pytest.param(b".\r\n", b"", id="empty"),
        pytest.param(b"a\r\n.\r\n", b"a\r\n", id="one-line"),
        pytest.param(b"\r\n.\r\n", b"\r\n", id="one-empty-line"),
        pytest.param(b"..\r\n.\r\n", b".\r\n", id="stuffed-dot-first"),
        pytest.param(b"a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n", id="stuffed-dot"),
        pytest.param(b"a\r\n...\r\n..\r\n.\r\n", b"a\r\n..\r\n.\r\n", id="stuffed-dots"),
        pytest.param(b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n", id="dot-that-was-not-stuffed"),
        pytest.param(b"a.\r\n.\r\n", b"a.\r\n", id="dot-at-the-end-of-a-line"),
    ],
)
def test_decodes_whole_and_in_pieces(wire: bytes, body: bytes, chunk_octets: int) -> None:
    decoded, rest, decoder = decode(wire + b"QUIT\r\n", chunk_octets)
    assert decoded == body
    assert rest == b"QUIT\r\n"
    assert decoder.size == len(body)
    assert not decoder.bare


SMUGGLED = [
    pytest.param(ending, id=ending.hex())
    for ending in (b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\n.\r")
]


@pytest.mark.parametrize("ending", SMUGGLED)
def test_no_other_sequence_ends_the_data(ending: bytes) -> None:
    wire = b"a" + ending + b"MAIL FROM:<x@y.example>\r\n.\r\n"
    for split in range(1, len(wire)):
        decoder = DotDecoder()
        first, rest = decoder.feed(wire[:split])
        assert rest is None
        second, rest = decoder.feed(wire[split:])
        assert rest == b""
        assert b"MAIL FROM" in first + second
        assert decoder.bare


@pytest.mark.parametrize("bare", [b"\r", b"\n", b"\r\r\n", b"\n\r", b"\n\n", b"\r\r"])
def test_sees_every_bare_cr_and_lf(bare: bytes) -> None:
    for chunk_octets in range(1, 8):
        _, rest, decoder = decode(b"ab" + bare + b"cd\r\n.\r\n", chunk_octets)
        assert rest == b""
        assert decoder.bare


def test_a_bare_cr_at_the_very_end_is_seen() -> None:
    _, _, decoder = decode(b"a\r\r\n.\r\n", 1)
    assert decoder.bare


def test_holds_back_at_most_four_octets() -> None:
    decoder = DotDecoder()
    body, rest = decoder.feed(b"abc\r\n.\r")
    assert (body, rest) == (b"abc", None)
