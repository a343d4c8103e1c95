from __future__ import annotations

import base64

import dns.rdata
import pytest
from dns.rdataclass import IN
from dns.rdatatype import CERT, TXT

from certs.address import DirectAddress, parse_address
from certs.dns_cert import address_name, certificates_from, domain_name, read_records
from tests.helpers.pki import Ca, der

ONE = Ca.create().issue(address="a@d.example.org").certificate
TWO = Ca.create().issue(domain="d.example.org").certificate


def record(data: bytes, *, kind: str = "PKIX", tag: int = 0, algorithm: int = 0) -> dns.rdata.Rdata:
    text = f"{kind} {tag} {algorithm} {base64.b64encode(data).decode()}"
    return dns.rdata.from_text(IN, CERT, text)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("user@direct.example.org", "user.direct.example.org."),
        ("First.Last@Direct.Example.org", "first.last.direct.example.org."),
        ("o'brien+x@direct.example.org", "o'brien+x.direct.example.org."),
        ('"a b"@direct.example.org', "a\\032b.direct.example.org."),
        (r'"a\"b"@direct.example.org', r"a\"b.direct.example.org."),
    ],
)
def test_owner_name_of_an_address(address: str, name: str) -> None:
    """CD-020 and CD-021."""
    assert str(address_name(parse_address(address))) == name


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(DirectAddress("a" * 64, "d.example.org"), id="long-label"),
        pytest.param(DirectAddress('"a..b"', "d.example.org"), id="empty-label"),
        pytest.param(DirectAddress("a" * 60, ".".join(["b" * 62] * 4)), id="long-name"),
    ],
)
def test_address_that_is_no_name(address: DirectAddress) -> None:
    assert address_name(address) is None


def test_domain_name_is_exactly_the_domain() -> None:
    """CD-011."""
    assert str(domain_name(parse_address("a@x.direct.example.org"))) == "x.direct.example.org."


def test_all_certificates_of_a_set_and_nothing_else() -> None:
    """CD-022, CD-023 and CD-025."""
    records = [
        record(b"key", kind="PGP"),
        record(der(ONE), tag=4711, algorithm=8),
        record(b"not a certificate"),
        dns.rdata.from_text(IN, TXT, "text"),
        record(b"uri", kind="URI"),
        record(der(TWO), kind="1"),
    ]
    read = read_records(records)
    assert read.certificates == (ONE, TWO)
    assert read.urls == ()


def test_ipkix_records_are_urls() -> None:
    """CD-024."""
    urls = [
        b"http://ca.example.org/a.der",
        b"file:///etc/passwd",
        b"http://\xff",
        b"http://" + b"a" * 4000,
    ]
    assert read_records([record(u, kind="IPKIX") for u in urls]).urls == (urls[0].decode(),)


def test_number_of_records_is_bounded() -> None:
    records = [record(b"x" * n, kind="PGP") for n in range(1, 60)] + [record(der(ONE))]
    assert read_records(records).certificates == ()


def test_same_certificate_counts_once() -> None:
    assert certificates_from([der(ONE), der(ONE), b"", der(TWO)]) == [ONE, TWO]
