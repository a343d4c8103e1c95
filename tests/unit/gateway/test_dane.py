from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.dane import Tlsa, named_anchor, satisfied
from tests.helpers.tls import server_certificate

CERTIFICATE = server_certificate("mx.b.example").certificate
WHOLE = CERTIFICATE.public_bytes(Encoding.DER)
KEY = CERTIFICATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
OTHER = server_certificate("mx.c.example").certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(Tlsa(3, 0, 0, WHOLE), id="3-0-0"),
        pytest.param(Tlsa(3, 0, 1, hashlib.sha256(WHOLE).digest()), id="3-0-1"),
        pytest.param(Tlsa(3, 0, 2, hashlib.sha512(WHOLE).digest()), id="3-0-2"),
        pytest.param(Tlsa(3, 1, 0, KEY), id="3-1-0"),
        pytest.param(Tlsa(3, 1, 1, hashlib.sha256(KEY).digest()), id="3-1-1"),
        pytest.param(Tlsa(3, 1, 2, hashlib.sha512(KEY).digest()), id="3-1-2"),
    ],
)
def test_a_record_of_the_host_itself(record: Tlsa) -> None:
    assert record.usable
    assert satisfied([record], WHOLE)
    assert not satisfied([record], OTHER)


def test_one_of_several_is_enough() -> None:
    records = [Tlsa(3, 1, 1, bytes(32)), Tlsa(3, 1, 1, hashlib.sha256(KEY).digest())]
    assert satisfied(records, WHOLE)
    assert not satisfied(records[:1], WHOLE)
    assert not satisfied([], WHOLE)


@pytest.mark.parametrize(
    ("usage", "selector", "matching", "data"),
    [
        (0, 1, 1, b"x"),
        (1, 1, 1, b"x"),
        (3, 2, 1, b"x"),
        (3, 1, 3, b"x"),
        (3, 1, 1, b""),
    ],
)
def test_unusable(usage: int, selector: int, matching: int, data: bytes) -> None:
    assert not Tlsa(usage, selector, matching, data).usable


def test_what_is_no_certificate_satisfies_nothing() -> None:
    records = [Tlsa(3, 1, 0, bytes(1)), Tlsa(3, 1, 1, bytes(32)), Tlsa(3, 0, 1, bytes(32))]
    assert not satisfied(records, b"")
    assert not satisfied(records, b"nonsense")


def test_a_record_of_the_ca_names_a_certificate_above_the_hosts_own() -> None:
    ca = hashlib.sha256(OTHER).digest()
    assert (
        named_anchor([Tlsa(3, 0, 1, ca), Tlsa(2, 0, 1, ca)], [WHOLE, b"nonsense", OTHER]) == OTHER
    )
    assert named_anchor([Tlsa(2, 0, 0, OTHER)], [WHOLE, OTHER]) == OTHER
    # The record of a CA does not speak for a host, nor that of a host for a CA.
    assert not satisfied([Tlsa(2, 0, 1, hashlib.sha256(WHOLE).digest())], WHOLE)
    assert named_anchor([Tlsa(2, 0, 1, ca)], [OTHER]) is None
    assert named_anchor([Tlsa(3, 0, 1, ca)], [WHOLE, OTHER]) is None
    assert named_anchor([Tlsa(2, 1, 1, ca)], []) is None
