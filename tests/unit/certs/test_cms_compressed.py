"""CompressedData: what comes out is what went in, or an error, within bounds."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.cms import der
from certs.cms.compressed import FREE_OCTETS, RATIO, inflated
from certs.errors import DirectError, Reason
from tests.helpers import cms_builder as cms

LIMIT = 64 * 1024 * 1024


def inflate(cms_object: bytes, limit: int = LIMIT, step: int = 1000) -> bytes:
    pieces = [cms_object[at : at + step] for at in range(0, len(cms_object), step)]
    return b"".join(inflated(pieces, limit))


def reason_of(cms_object: bytes, limit: int = LIMIT) -> Reason:
    with pytest.raises(DirectError) as caught:
        inflate(cms_object, limit)
    return caught.value.reason


@given(st.binary(max_size=3000), st.integers(1, 500), st.integers(0, 200))
def test_what_is_packed_comes_out(content: bytes, step: int, repeated: int) -> None:
    content = content * (repeated + 1)
    assert inflate(cms.compressed_data(content), step=step) == content


@pytest.mark.parametrize("level", [0, 1, 9])
def test_any_level_and_size(level: int) -> None:
    for size in (0, 1, 65_535, 65_536, 65_537, 200_000):
        content = bytes(n * n % 251 for n in range(size))
        packed = zlib.compress(content, level)
        assert inflate(cms.compressed_data(b"", packed=packed)) == content


def test_pieces_are_small() -> None:
    packed = cms.compressed_data(bytes(900_000))
    sizes = [len(piece) for piece in inflated([packed], LIMIT)]
    assert max(sizes) <= 64 * 1024
    assert sum(sizes) == 900_000


def test_small_content_may_be_as_regular_as_it_likes() -> None:
    assert len(inflate(cms.compressed_data(bytes(FREE_OCTETS)))) == FREE_OCTETS
    assert reason_of(cms.compressed_data(bytes(FREE_OCTETS + 1))) is Reason.MESSAGE_TOO_BIG


def test_beyond_that_the_ratio_counts() -> None:
    noise = b"".join(zlib.crc32(b"%d" % n).to_bytes(4, "big") for n in range(25_000))
    allowed = noise + bytes(RATIO * 50_000)
    assert inflate(cms.compressed_data(allowed)) == allowed
    assert reason_of(cms.compressed_data(noise + bytes(RATIO * 150_000))) is Reason.MESSAGE_TOO_BIG


@pytest.mark.parametrize(("limit", "fits"), [(1000, True), (999, False)])
def test_the_limit_is_exact(limit: int, fits: bool) -> None:
    packed = cms.compressed_data(bytes(1000))
    if fits:
        assert len(inflate(packed, limit)) == 1000
    else:
        assert reason_of(packed, limit) is Reason.MESSAGE_TOO_BIG


def test_indefinite_lengths_and_a_constructed_string() -> None:
    packed = zlib.compress(b"content")
    string = b"\x24\x80" + der.octet_string(packed[:4]) + der.octet_string(packed[4:]) + b"\0\0"
    content = b"\x30\x80" + cms.DATA + b"\xa0\x80" + string + b"\0\0" + b"\0\0"
    body = b"\x30\x80" + der.integer(0) + cms.ZLIB + content + b"\0\0"
    assert inflate(b"\x30\x80" + cms.COMPRESSED + b"\xa0\x80" + body + b"\0\0" + b"\0\0") == (
        b"content"
    )


GOOD = zlib.compress(b"content")


@pytest.mark.parametrize(
    ("cms_object", "reason"),
    [
        pytest.param(
            cms.compressed_data(b"", packed=GOOD[:-1]), Reason.MESSAGE_MALFORMED, id="cut-short"
        ),
        pytest.param(
            cms.compressed_data(b"", packed=GOOD + b"x"), Reason.MESSAGE_MALFORMED, id="more-after"
        ),
        pytest.param(
            cms.compressed_data(b"", packed=GOOD[:-1] + b"x"),
            Reason.MESSAGE_MALFORMED,
            id="wrong-checksum",
        ),
        pytest.param(cms.compressed_data(b"", packed=b""), Reason.MESSAGE_MALFORMED, id="nothing"),
        pytest.param(
            cms.compressed_data(b"", packed=b"\x1f\x8b\x08"), Reason.MESSAGE_MALFORMED, id="gzip"
        ),
        pytest.param(
            cms.compressed_data(b"x", algorithm=cms.SHA256),
            Reason.ALGORITHM_REFUSED,
            id="other-algorithm",
        ),
        pytest.param(
            cms.compressed_data(b"x", content_type=cms.SIGNED),
            Reason.MESSAGE_MALFORMED,
            id="other-type",
        ),
        pytest.param(
            cms.content_info(cms.SIGNED, b""), Reason.MESSAGE_MALFORMED, id="not-compressed"
        ),
        pytest.param(
            cms.compressed_data(b"x").replace(cms.COMPRESSED, cms.COMPRESSED[:-1] + b"\x0a"),
            Reason.MESSAGE_MALFORMED,
            id="named-otherwise",
        ),
        pytest.param(
            cms.compressed_data(b"x") + b"x", Reason.MESSAGE_MALFORMED, id="octets-after-it"
        ),
    ],
)
def test_refused(cms_object: bytes, reason: Reason) -> None:
    assert reason_of(cms_object) is reason
