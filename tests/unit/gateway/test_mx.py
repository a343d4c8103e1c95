from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import dns.name
import dns.rdata
import pytest
from dns.rdataclass import IN
from dns.rdatatype import RdataType

from certs.dns_client import DnsAnswer
from certs.errors import DirectError, Reason
from gateway.mx import MxResolver, NoMailError, preferred


class Zone:
    """DNS in a dict: MX records in presentation form by domain; a name in `broken` fails."""

    def __init__(self, records: Mapping[str, Sequence[str]], broken: str = "") -> None:
        self._records = records
        self._broken = broken

    async def records(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        text = name.to_text(omit_final_dot=True)
        if text == self._broken:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "SERVFAIL")
        found = self._records.get(text, ())
        return DnsAnswer(tuple(dns.rdata.from_text(IN, kind, r) for r in found), 60, "test")

    async def addresses(self, host: str) -> Sequence[str]:
        return [f"192.0.2.{n}" for n in range(8)] if host == "mx.b.example" else []


def in_order(hosts: list[str]) -> None:
    hosts.sort()


def resolver(records: Mapping[str, Sequence[str]], broken: str = "") -> MxResolver:
    return MxResolver(dns=Zone(records, broken), shuffle=in_order)


async def test_hosts_by_preference_each_on_port_25() -> None:
    records = ["20 Backup.b.example.", "10 mx.b.example.", "20 another.b.example."]
    assert await resolver({"b.example": records}).mx("b.example") == [
        ("mx.b.example", 25),
        ("another.b.example", 25),
        ("backup.b.example", 25),
    ]


async def test_a_domain_without_mx_is_its_own_host() -> None:
    assert await resolver({}).mx("b.example") == [("b.example", 25)]


async def test_a_null_mx_takes_no_mail() -> None:
    with pytest.raises(NoMailError) as caught:
        await resolver({"b.example": ["0 ."]}).mx("b.example")
    assert caught.value.status == "5.1.10"


async def test_a_null_mx_beside_others_counts_for_nothing() -> None:
    records = ["0 .", "10 mx.b.example."]
    assert await resolver({"b.example": records}).mx("b.example") == [("mx.b.example", 25)]


async def test_dns_that_does_not_answer_is_temporary() -> None:
    with pytest.raises(DirectError) as caught:
        await resolver({}, broken="b.example").mx("b.example")
    assert caught.value.reason is Reason.DIRECTORY_UNAVAILABLE


async def test_of_many_addresses_five_are_tried() -> None:
    assert len(await resolver({}).addresses("mx.b.example")) == 5
    assert await resolver({}).addresses("none.b.example") == []


def test_equal_preferences_are_shuffled_and_the_groups_kept() -> None:
    records = [(10, "a"), (10, "b"), (10, "c"), (5, "first"), (20, "last")]
    shuffle = random.Random(1).shuffle
    orders = {tuple(preferred(records, shuffle)) for _ in range(200)}
    assert len(orders) == 6
    assert all(order[0] == "first" and order[-1] == "last" for order in orders)


def test_each_host_once_and_ten_at_most() -> None:
    records = [(n, "mx.b.example") for n in range(3)]
    assert preferred(records, in_order) == ["mx.b.example"]
    assert len(preferred([(1, f"mx{n}.b.example") for n in range(30)], in_order)) == 10
