from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp_data import DotDecoder
from gateway.smtp_dot import DotStuffer

# Contents made of what matters to transparency, and of anything.
TOKENS = st.sampled_from([b"a", b".", b"..", b"\r\n", b"\r\n.", b"\r\n..", b"\r\n.\r\n"])
CONTENT = st.lists(TOKENS, max_size=30).map(b"".join) | st.binary(max_size=200)
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=20)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut `data` into pieces of the given sizes, over and over."""
    cut, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        cut.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return cut


def stuffed(content: bytes, sizes: list[int]) -> bytes:
    stuffer = DotStuffer()
    return b"".join(map(stuffer.feed, pieces(content, sizes))) + stuffer.finish()


def unstuffed(wire: bytes, sizes: list[int]) -> tuple[bytes, bytes | None, bool]:
    decoder, body, rest = DotDecoder(), b"", None
    for piece in pieces(wire, sizes):
        if rest is not None:
            rest += piece
        else:
            out, rest = decoder.feed(piece)
            body += out
    return body, rest, decoder.bare


def by_lines(wire: bytes) -> tuple[bytes, bytes]:
    """The same decoding, written line by line as in RFC5321 4.5.2."""
    lines = wire.split(b"\r\n")
    body: list[bytes] = []
    for number, line in enumerate(lines):
        if line == b".":
            return b"".join(body), b"\r\n".join(lines[number + 1 :])
        body.append(line.removeprefix(b".") + b"\r\n")
    raise AssertionError("the end is missing")


@given(CONTENT, SIZES, SIZES)
def test_what_is_stuffed_comes_out_as_it_went_in(
    content: bytes, out: list[int], back: list[int]
) -> None:
    body, rest, _ = unstuffed(stuffed(content, out) + b"QUIT\r\n", back)
    ended = not content or content.endswith(b"\r\n")
    assert body == (content if ended else content + b"\r\n")
    assert rest == b"QUIT\r\n"


@given(CONTENT, SIZES)
def test_decoding_in_pieces_is_decoding_by_lines(content: bytes, sizes: list[int]) -> None:
    wire = content + b"\r\n.\r\nNOOP\r\n"
    body, rest, _ = unstuffed(wire, sizes)
    assert (body, rest) == by_lines(wire)


@given(CONTENT, SIZES)
def test_bare_is_seen_however_the_data_is_cut(content: bytes, sizes: list[int]) -> None:
    wire = content + b"\r\n.\r\n"
    body, _ = by_lines(wire)
    without_crlf = body.replace(b"\r\n", b"")
    assert unstuffed(wire, sizes)[2] == (b"\r" in without_crlf or b"\n" in without_crlf)


@given(CONTENT, SIZES, SIZES)
def test_stuffing_does_not_depend_on_the_pieces(
    content: bytes, some: list[int], others: list[int]
) -> None:
    assert stuffed(content, some) == stuffed(content, others)
