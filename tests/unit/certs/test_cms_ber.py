"""Reading BER and DER within its budgets."""

from __future__ import annotations

import pytest

from certs.cms import der
from certs.cms.ber import Element, Reader, canonical, children, octets
from certs.errors import DirectError, Reason


def element(data: bytes, limit: int = 100_000) -> Element:
    return Reader([data]).element(limit)


def detail(data: bytes, limit: int = 100_000) -> str:
    with pytest.raises(DirectError) as caught:
        element(data, limit)
    assert caught.value.reason is Reason.MESSAGE_MALFORMED
    return caught.value.detail


def string(data: bytes, *, wrapped: bool = True) -> bytes:
    reader = Reader([der.sequence(data) if wrapped else data])
    reader.enter(der.SEQUENCE)
    return b"".join(bytes(piece) for piece in reader.string(der.OCTET_STRING))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", "the CMS object is cut short", id="empty"),
        pytest.param(b"\x30", "the CMS object is cut short", id="no-length"),
        pytest.param(b"\x30\x82\x01", "the CMS object is cut short", id="half-a-length"),
        pytest.param(b"\x30\x05\x02", "the CMS object is cut short", id="half-a-content"),
        pytest.param(b"\x30\x80\x02\x01\x00", "the CMS object is cut short", id="no-end"),
        pytest.param(b"\x3f\x81\x01\x00", "a tag number is above 30", id="high-tag"),
        pytest.param(
            b"\x04\x80\x00\x00",
            "a primitive element has an indefinite length",
            id="indefinite-primitive",
        ),
        pytest.param(
            b"\x30\x87\x01\x01\x01\x01\x01\x01\x01", "a length takes too many octets", id="length"
        ),
        pytest.param(
            b"\x30\x06\x30\x05\x01\x01\x02\x01",
            "an element runs over the end of its container",
            id="overrun",
        ),
    ],
)
def test_what_is_no_element(data: bytes, expected: str) -> None:
    if expected.startswith("an element runs"):
        with pytest.raises(DirectError, match=expected):
            children(element(data).content)
    else:
        assert detail(data) == expected


def test_an_element_keeps_its_octets() -> None:
    # A length in more octets than needed is BER; a certificate must not be touched for it.
    data = b"\x30\x84\x00\x00\x00\x03\x02\x01\x05"
    assert element(data) == Element(der.SEQUENCE, b"\x02\x01\x05", data)


def test_indefinite_lengths_become_definite_at_any_depth() -> None:
    data = b"\x30\x80\x31\x80\x04\x02ab\x00\x00\x30\x04\x30\x80\x00\x00\x00\x00"
    expected = der.sequence(der.tlv(der.SET, der.octet_string(b"ab")), der.sequence(der.sequence()))
    assert element(data).encoded == expected


def test_octets_that_only_look_like_an_end_stay() -> None:
    data = der.sequence(der.octet_string(b"\x00\x00\x30\x80"), der.integer(0))
    assert element(data).encoded == data


def test_limit_of_length() -> None:
    assert detail(der.octet_string(bytes(11)), 10) == "an element is longer than 10 octets"
    assert detail(b"\x30\x80" + der.octet_string(bytes(11)) + b"\x00\x00", 10) == (
        "an element is longer than 10 octets"
    )
    assert detail(b"\x30\x80" + der.octet_string(b"x") * 9 + b"\x00\x00", 10).startswith("an el")


def test_limit_of_depth() -> None:
    assert detail(b"\x30\x80" * 20 + b"\x00\x00" * 20) == "elements are nested too deep"
    data = b"\x30\x80\x00\x00"
    for _container in range(20):
        data = der.sequence(data)
    assert detail(data) == "elements are nested too deep"
    reader = Reader([b"\x30\x80" * 20])
    for _container in range(16):
        reader.enter(der.SEQUENCE)
    with pytest.raises(DirectError, match="nested too deep"):
        reader.enter(der.SEQUENCE)
    with pytest.raises(DirectError, match="nested too deep"):
        string(b"\x24\x80" * 20, wrapped=True)


def test_limit_of_elements_in_indefinite_lengths() -> None:
    data = b"\x30\x80" + b"\x05\x00" * 100_001 + b"\x00\x00"
    assert detail(data, 1_000_000) == "more than 100000 elements in indefinite lengths"
    inner = b"\x30\x80" + b"\x05\x00" * 50_001 + b"\x00\x00"
    assert "100000" in detail(b"\x30\x80" + der.sequence(inner) + der.sequence(inner) + b"\x00\x00")


def test_limit_of_segments() -> None:
    tiny = b"\x04\x01x"
    assert len(string(b"\x24\x80" + tiny * 10_000 + b"\x00\x00")) == 10_000
    with pytest.raises(DirectError, match="too many segments"):
        string(b"\x24\x80" + tiny * 11_000 + b"\x00\x00")
    large = der.octet_string(bytes(64))
    assert len(string(b"\x24\x80" + large * 20_000 + b"\x00\x00")) == 64 * 20_000


@pytest.mark.parametrize("content", [b"\x30", b"\x05\x00\x30", b"\x04\x01x\x30"])
def test_a_header_may_not_be_cut_off(content: bytes) -> None:
    with pytest.raises(DirectError, match="cut short"):
        children(content)


@pytest.mark.parametrize("content", [b"\x30\x80\x00\x00", b"\x05\x00\x30\x80"])
def test_indefinite_lengths_are_gone_from_elements(content: bytes) -> None:
    with pytest.raises(DirectError, match="an indefinite length is where none can be"):
        children(content)


def test_limit_of_children() -> None:
    assert len(children(der.NULL * 64)) == 64
    with pytest.raises(DirectError, match="more than 64 elements"):
        children(der.NULL * 65)


def test_a_string_is_of_octet_strings() -> None:
    with pytest.raises(DirectError, match="something else than octet strings"):
        string(der.tlv(0x24, der.integer(1)))
    with pytest.raises(DirectError, match="was expected"):
        string(der.integer(1))
    with pytest.raises(DirectError, match="cut short"):
        string(b"\x30\x0a\x04\x08abc", wrapped=False)


@pytest.mark.parametrize("tag", [0x1F, 0x3F, 0xBF])
def test_tags_of_several_octets_are_none_of_ours(tag: int) -> None:
    with pytest.raises(DirectError, match="a tag number is above 30"):
        children(bytes((tag, 0x02, 0x00, 0x00)))


def test_octets_of_a_small_string() -> None:
    nested = der.tlv(0x24, der.octet_string(b"a"), der.tlv(0x24, der.octet_string(b"b")))
    assert octets(element(nested)) == b"ab"
    assert octets(element(der.tlv(0xA0, der.octet_string(b"a"))), tag=0x80) == b"a"
    with pytest.raises(DirectError, match="octet string was expected"):
        octets(element(der.integer(1)))


@pytest.mark.parametrize(("levels", "fits"), [(17, True), (18, False), (5000, False)])
def test_octets_of_a_string_nested_too_deep(levels: int, fits: bool) -> None:
    data = der.octet_string(b"a")
    for _level in range(levels):
        data = der.tlv(0x24, data)
    nested = Element(0x24, data[len(data) - _content_octets(data) :], data)
    if fits:
        assert octets(nested) == b"a"
    else:
        with pytest.raises(DirectError, match="octet string was expected"):
            octets(nested)


def _content_octets(data: bytes) -> int:
    return data[1] if data[1] < 0x80 else int.from_bytes(data[2 : 2 + data[1] - 0x80], "big")


def test_canonical_form() -> None:
    written = b"\x31\x81\x0a\x24\x04\x04\x02zz\x04\x02aa"
    assert canonical(element(written)) == der.set_of(
        [der.octet_string(b"zz"), der.octet_string(b"aa")]
    )
    with pytest.raises(DirectError, match="nested too deep"):
        canonical(Element(0x30, _nested(20), b""))


def _nested(depth: int) -> bytes:
    data = b""
    for _level in range(depth):
        data = der.sequence(data)
    return data


def test_containers() -> None:
    reader = Reader([der.sequence(der.integer(1), der.integer(2)) + b"\r\n"])
    reader.enter(der.SEQUENCE)
    assert reader.peek() == der.INTEGER
    assert reader.element(10).content == b"\x01"
    with pytest.raises(DirectError, match="more elements than its type"):
        reader.leave()
    reader.element(10)
    assert reader.peek() is None
    reader.leave()
    reader.finish()


def test_a_container_of_another_kind() -> None:
    with pytest.raises(DirectError, match="tag 0x31 was expected and 0x30 found"):
        Reader([der.sequence()]).enter(der.SET)


def test_an_element_may_not_leave_its_container() -> None:
    reader = Reader([b"\x30\x03\x04\x05abcde"])
    reader.enter(der.SEQUENCE)
    with pytest.raises(DirectError, match="runs over the end"):
        reader.element(100)
    # Nor may one that an indefinite length lies between.
    reader = Reader([b"\x30\x05\x30\x80\x04\x05abcde\x00\x00"])
    reader.enter(der.SEQUENCE)
    reader.enter(der.SEQUENCE)
    with pytest.raises(DirectError, match="runs over the end"):
        reader.element(100)
    # Nor by its header alone, be it empty or of indefinite length.
    for data in (b"\x30\x01\x04\x00", b"\x30\x01\x30\x80\x00\x00"):
        reader = Reader([data])
        reader.enter(der.SEQUENCE)
        with pytest.raises(DirectError, match="runs over the end"):
            reader.element(100)


def test_segments_go_on_after_a_nested_string() -> None:
    nested = b"\x24\x80\x04\x01a\x24\x80\x04\x01b\x00\x00\x04\x01c\x00\x00\x02\x01\x05"
    whole = Reader([b"\x30" + bytes((len(nested),)) + nested])
    whole.enter(der.SEQUENCE)
    assert b"".join(bytes(piece) for piece in whole.string(der.OCTET_STRING)) == b"abc"
    assert whole.element(10).content == b"\x05"
    whole.leave()
    whole.finish()


def test_what_follows_the_object() -> None:
    for rest in (b"x", b"\r\n\x00", b"\n\nx"):
        reader = Reader([der.NULL, rest])
        reader.element(10)
        with pytest.raises(DirectError, match="more after the end"):
            reader.finish()


def test_what_is_skipped_is_not_looked_at() -> None:
    reader = Reader(
        [der.sequence(der.sequence(bytes(500_000)), b"\x30\x80\x05\x00\x00\x00", der.NULL)]
    )
    reader.enter(der.SEQUENCE)
    reader.skip(500_000)
    reader.skip(10)
    assert reader.element(10).encoded == der.NULL
    reader.leave()
    with pytest.raises(DirectError, match="longer than 10 octets"):
        Reader([der.octet_string(bytes(11))]).skip(10)
