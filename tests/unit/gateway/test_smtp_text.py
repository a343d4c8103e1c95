from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp_text import CHUNK_OCTETS, PLAIN, LineEnds, Text, survey

PIECES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"\xfc", b"\0"])).map(
    b"".join
)


def converted(content: bytes, chunk_octets: int) -> bytes:
    ends = LineEnds()
    chunks = (content[i : i + chunk_octets] for i in range(0, len(content), chunk_octets))
    return b"".join(map(ends.feed, chunks)) + ends.finish()


@given(PIECES, st.integers(1, 5))
def test_every_line_ends_in_crlf_whole_and_in_pieces(content: bytes, chunk_octets: int) -> None:
    wire = converted(content, chunk_octets)
    assert wire == converted(content, len(content) + 1)
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    assert b"\0" not in wire
    text = survey(BytesIO(content))
    assert len(wire) == len(content) + text.growth
    assert text.is_plain == (wire == content)
    assert survey(BytesIO(wire)).is_plain
    assert converted(wire, chunk_octets) == wire


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", PLAIN),
        (b"a\r\nb\r\n", PLAIN),
        (b"a\nb", Text(bare=1)),
        (b"a\r\rb\n\r", Text(bare=4)),
        (b"\xfc\r\n", Text(eight_bit=True)),
        (b"\r\n\0.\r\0\n", Text(nul=2)),
        (b"x" * (CHUNK_OCTETS - 1) + b"\r\n" + b"x" * CHUNK_OCTETS, PLAIN),
        (b"x" * (CHUNK_OCTETS - 1) + b"\rx", Text(bare=1)),
        (b"\xfc" + b"x" * CHUNK_OCTETS, Text(eight_bit=True)),
    ],
    ids=[
        "empty",
        "plain",
        "lf",
        "crs",
        "eight-bit",
        "nul",
        "crlf-over-chunks",
        "cr-at-chunk",
        "early",
    ],
)
def test_what_there_is(content: bytes, text: Text) -> None:
    assert survey(BytesIO(content)) == text
