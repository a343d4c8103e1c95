"""Writing DER."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from certs.cms import der


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "020100"),
        (127, "02017f"),
        (128, "02020080"),
        (255, "020200ff"),
        (256, "02020100"),
        (-1, "0201ff"),
        (-128, "020180"),
        (-129, "0202ff7f"),
    ],
)
def test_integers_are_as_short_as_can_be(value: int, encoded: str) -> None:
    assert der.integer(value).hex() == encoded


@pytest.mark.parametrize(
    ("length", "encoded"), [(0, "0400"), (127, "047f"), (128, "048180"), (65536, "0483010000")]
)
def test_lengths_are_as_short_as_can_be(length: int, encoded: str) -> None:
    assert der.header(der.OCTET_STRING, length).hex() == encoded


def test_object_identifiers() -> None:
    assert der.oid("1.2.840.113549.1.7.1").hex() == "06092a864886f70d010701"
    assert der.oid("2.999.3").hex() == "0603883703"


def test_sets_are_in_order() -> None:
    parts = [der.integer(2), der.octet_string(b""), der.integer(1)]
    assert der.set_of(parts) == der.tlv(der.SET, parts[2], parts[0], parts[1])


def test_times_change_form_in_2050() -> None:
    assert der.time(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)) == b"\x17\x0d491231235959Z"
    assert der.time(datetime(2050, 1, 1, tzinfo=UTC)) == b"\x18\x0f20500101000000Z"
    assert der.time(datetime(1949, 1, 1, tzinfo=UTC)) == b"\x18\x0f19490101000000Z"


def test_context_tags() -> None:
    assert der.context(0) == 0xA0
    assert der.context(1, constructed=False) == 0x81
