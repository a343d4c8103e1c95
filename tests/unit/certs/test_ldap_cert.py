from __future__ import annotations

import dns.rdata
import pytest
from dns.rdataclass import IN
from dns.rdatatype import SRV, TXT

from certs.address import parse_address
from certs.ldap_cert import Server, filter_for, servers_in_order, service_name


def servers(*records: str) -> list[str]:
    rdatas = [dns.rdata.from_text(IN, SRV, record) for record in records]
    return [str(server) for server in servers_in_order(rdatas)]


def test_service_name() -> None:
    name = service_name(parse_address("a@direct.example.org"))
    assert str(name) == "_ldap._tcp.direct.example.org."


def test_priority_ascends_and_weight_descends() -> None:
    """CD-041, K-02 and T-04."""
    records = [
        "1 100 389 late.example.org.",
        "0 0 389 light.example.org.",
        "0 100 12389 Heavy.example.org.",
    ]
    expected = ["heavy.example.org:12389", "light.example.org:389", "late.example.org:389"]
    assert servers(*records) == expected
    assert servers(*reversed(records)) == expected


@pytest.mark.parametrize("record", ["0 0 389 .", "0 0 0 ldap.example.org."])
def test_root_target_and_port_nought_are_no_service(record: str) -> None:
    """CD-040."""
    assert servers(record) == []


def test_number_of_servers_is_bounded_and_each_counts_once() -> None:
    assert len(servers(*[f"{n} 0 389 h{n}.example.org." for n in range(20)])) == 8
    assert len(servers(*["0 0 389 h.example.org.", "1 0 389 h.example.org."])) == 1


def test_other_records_are_ignored() -> None:
    assert servers_in_order([dns.rdata.from_text(IN, TXT, "x")]) == ()


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        ("a@d.example.org", "(mail=a@d.example.org)"),
        ("*", r"(mail=\2a)"),
        (")(uid=*)", r"(mail=\29\28uid=\2a\29)"),
        ("a\\b\0", r"(mail=a\5cb\00)"),
    ],
)
def test_filter_is_escaped(mail: str, expected: str) -> None:
    """CD-047 and CD-048."""
    assert filter_for(mail) == expected


def test_server_is_written_with_its_port() -> None:
    assert str(Server("ldap.example.org", 389)) == "ldap.example.org:389"
