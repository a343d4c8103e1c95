"""Framing, in pieces of any size: what we build we parse, and whole equals byte by byte."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pybase64
from asn1crypto import core  # type: ignore[import-untyped]  # ships no types
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.cms import der
from certs.cms.algorithms import ContentEncryption
from certs.cms.ber import Reader, children, octets
from certs.errors import DirectError
from gateway import smime
from gateway.multipart import Window
from gateway.seal_options import SealOptions
from gateway.transfer import base64_lines, base64_octets, decoder_for
from tests.helpers.sealed import BOUNDARY, MESSAGE, identity, seal, unseal

CUTS = st.lists(st.integers(1, 400), min_size=1, max_size=40)


def pieces(data: bytes, cuts: list[int]) -> Iterator[memoryview]:
    """`data` in pieces of these sizes, over and over, each in a buffer used again."""
    buffer = bytearray(max(cuts))
    at = turn = 0
    while at < len(data):
        piece = data[at : at + cuts[turn % len(cuts)]]
        buffer[: len(piece)] = piece
        yield memoryview(buffer)[: len(piece)]
        at += len(piece)
        turn += 1


@given(st.integers(-(2**70), 2**70))
def test_integers_are_what_asn1crypto_writes(value: int) -> None:
    assert der.integer(value) == core.Integer(value).dump()


@given(st.lists(st.integers(0, 2**40), max_size=6), st.integers(0, 2), st.integers(0, 39))
def test_object_identifiers_are_what_asn1crypto_writes(
    rest: list[int], first: int, second: int
) -> None:
    dotted = ".".join(map(str, [first, second, *rest]))
    assert der.oid(dotted) == core.ObjectIdentifier(dotted).dump()


@st.composite
def strings(draw: st.DrawFn, depth: int = 0) -> tuple[bytes, bytes]:
    """An OCTET STRING in some encoding, and its value."""
    if depth > 3 or draw(st.booleans()):
        value = draw(st.binary(max_size=300))
        return der.octet_string(value), value
    parts = draw(st.lists(strings(depth + 1), max_size=4))
    content = b"".join(encoded for encoded, _ in parts)
    value = b"".join(value for _, value in parts)
    if draw(st.booleans()):
        return b"\x24\x80" + content + b"\x00\x00", value
    return der.tlv(0x24, content), value


@given(strings(), CUTS)
def test_octet_strings_stream_in_any_encoding(string: tuple[bytes, bytes], cuts: list[int]) -> None:
    encoded, value = string
    reader = Reader(pieces(der.sequence(encoded, der.NULL), cuts))
    reader.enter(der.SEQUENCE)
    assert b"".join(bytes(piece) for piece in reader.string(der.OCTET_STRING)) == value
    assert reader.element(10).encoded == der.NULL
    reader.leave()
    reader.finish()


@given(strings(), CUTS)
def test_elements_become_definite(string: tuple[bytes, bytes], cuts: list[int]) -> None:
    encoded, value = string
    wrapped = b"\x30\x80" + encoded + b"\x00\x00"
    element = Reader(pieces(wrapped, cuts)).element(10_000)
    (inner,) = children(element.content)
    assert octets(inner) == value
    assert der.tlv(element.tag, element.content) == element.encoded


@given(st.binary(max_size=400), CUTS)
def test_any_octets_are_an_element_or_an_error(data: bytes, cuts: list[int]) -> None:
    def read(parts: Iterator[memoryview]) -> object:
        try:
            return Reader(parts).element(1000)
        except DirectError as error:
            return error.detail

    assert read(pieces(data, [1])) == read(pieces(data, cuts)) == read(pieces(data, [1000]))


@given(st.binary(max_size=2000), CUTS, CUTS)
def test_base64_in_pieces(data: bytes, cuts: list[int], others: list[int]) -> None:
    encoded = b"".join(base64_lines(pieces(data, cuts)))
    assert encoded == pybase64.encodebytes(data).replace(b"\n", b"\r\n")
    assert len(encoded) == base64_octets(len(data))
    decoder = decoder_for("base64")
    decoded = b"".join(bytes(decoder.feed(piece)) for piece in pieces(encoded, others))
    assert decoded + bytes(decoder.finish()) == data


PART = st.binary(max_size=300) | st.text("-=_x\r\n ", max_size=60).map(str.encode)


@given(PART, PART, CUTS)
def test_parts_come_out_as_they_went_in(first: bytes, second: bytes, cuts: list[int]) -> None:
    line = b"--" + BOUNDARY.encode()
    if line in first or line in second:
        return
    data = b"\n" + line + b"\r\n" + first + b"\r\n" + line + b" \n" + second + b"\n" + line + b"--"
    window = Window(pieces(data, cuts))
    window.header()

    def part() -> bytes:
        return b"".join(bytes(piece) for piece in window.part(BOUNDARY.encode()))

    assert part() == b""
    assert part() == first
    assert (window.line_end, window.closed) == (b"\n", False)
    # The line end before a boundary line is that line's: CRLF where it is one.
    assert part() == second.removesuffix(b"\r")
    assert window.closed
    assert window.rest(0) == b""


@settings(deadline=None, max_examples=40)
@given(
    st.binary(max_size=5000),
    st.sampled_from([c for c in ContentEncryption if c is not ContentEncryption.DES_EDE3_CBC]),
    st.sampled_from(["p256", "x25519"]),
)
def test_what_is_sealed_is_unsealed(body: bytes, cipher: ContentEncryption, kind: str) -> None:
    ours = identity(kind, "bob")
    options = SealOptions(content_encryption=cipher)
    sealed = seal(MESSAGE + body, recipients=[ours.certificate], options=options)
    opened = unseal(sealed, [ours])
    assert opened.content == MESSAGE + body
    assert opened.unsealed.size == len(MESSAGE + body)


class Trickle(io.BytesIO):
    """A file that returns one octet at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(1)


@settings(deadline=None, max_examples=10)
@given(st.binary(max_size=600), st.sampled_from(list(ContentEncryption)[:6]))
def test_whole_equals_byte_by_byte(body: bytes, cipher: ContentEncryption) -> None:
    sealed = seal(MESSAGE + body, options=SealOptions(content_encryption=cipher))
    out = io.BytesIO()
    smime.unseal(Trickle(sealed), out, identities=[identity("p256", "bob")])
    assert out.getvalue() == MESSAGE + body
