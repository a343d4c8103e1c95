from __future__ import annotations

import pytest

from certs.address import parse_address, parse_domain
from certs.errors import DirectError, Reason

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 octets


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("drjones@direct.example.org", "drjones", "direct.example.org"),
        ("Dr.Jones+x@Direct.Example.ORG.", "Dr.Jones+x", "direct.example.org"),
        ('"a b"@direct.example.org', '"a b"', "direct.example.org"),
        (r'"a\"@b"@direct.example.org', r'"a\"@b"', "direct.example.org"),
        (
            "!#$%&'*+-/=?^_`{|}~@xn--bcher-kva.example",
            "!#$%&'*+-/=?^_`{|}~",
            "xn--bcher-kva.example",
        ),
        (f"{'a' * 64}@{LONGEST}", "a" * 64, LONGEST),
    ],
)
def test_address_keeps_its_local_part_and_folds_its_domain(
    text: str, local_part: str, domain: str
) -> None:
    """AS-001."""
    address = parse_address(text)
    assert (address.local_part, address.domain) == (local_part, domain)
    assert str(address) == f"{local_part}@{domain}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("drjones", id="no-at"),
        pytest.param("@direct.example.org", id="no-local-part"),
        pytest.param("drjones@", id="no-domain"),
        pytest.param("drjones@localhost", id="not-fully-qualified"),
        pytest.param("drjones@[192.0.2.1]", id="address-literal"),
        pytest.param(".dr@direct.example.org", id="dot-first"),
        pytest.param("dr..jones@direct.example.org", id="two-dots"),
        pytest.param("dr jones@direct.example.org", id="space"),
        pytest.param("dr@jones@direct.example.org", id="two-ats"),
        pytest.param("<drjones@direct.example.org>", id="angle-brackets"),
        pytest.param("Dr Jones <drjones@direct.example.org>", id="display-name"),
        pytest.param("drj\u00f6nes@direct.example.org", id="local-part-not-ascii"),
        pytest.param("drjones@dir\u00e9ct.example.org", id="domain-not-ascii"),
        pytest.param("drjones@direct.\u212aansas.example", id="kelvin-sign"),
        pytest.param("drjones@direct.example.org\r\nX: y", id="line-break"),
        pytest.param("dr\0jones@direct.example.org", id="nul"),
        pytest.param("drjones@direct_x.example.org", id="underscore"),
        pytest.param("drjones@-direct.example.org", id="hyphen-first"),
        pytest.param("drjones@direct..example.org", id="empty-label"),
        pytest.param(f"{'a' * 65}@direct.example.org", id="local-part-too-long"),
        pytest.param(f"drjones@{'a' * 64}.example.org", id="label-too-long"),
        pytest.param(f"drjones@x{LONGEST}", id="domain-too-long"),
    ],
)
def test_what_is_no_direct_address_is_refused(text: str) -> None:
    """AS-001 and R-061."""
    with pytest.raises(DirectError) as caught:
        parse_address(text)
    assert caught.value.reason is Reason.ADDRESS_MALFORMED


def test_case_tells_no_addresses_apart() -> None:
    """AS-016 and K-04."""
    one, other = (
        parse_address("DrJones@direct.example.org"),
        parse_address("drjones@DIRECT.example.org"),
    )
    assert one == other
    assert hash(one) == hash(other)
    assert one.key == "drjones@direct.example.org"
    assert one != parse_address("drjones@example.org")
    assert one != "drjones@direct.example.org"


def test_domain_is_a_fully_qualified_name() -> None:
    assert parse_domain("Direct.Example.org.") == "direct.example.org"
    with pytest.raises(DirectError):
        parse_domain("org")
