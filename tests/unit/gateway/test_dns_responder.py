from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
import pytest_asyncio

from gateway.dns_responder import DnsResponder
from tests.helpers.pki import Ca
from tests.helpers.zones import cert_record, cname_record, zone_of

CERT = Ca.create("Root", key="rsa2048").certificate
RECORDS = [
    cert_record("a", CERT),
    *[
        cert_record("many", Ca.create(f"CA {n}", key="rsa2048", label="dns").certificate)
        for n in range(3)
    ],
    cname_record("alias", "a"),
    cname_record("loop", "loop"),
    cname_record("away", "a.other.example."),
    "deep.empty IN TXT text",
]
Where = tuple[str, int]


@pytest_asyncio.fixture
async def where() -> AsyncIterator[Where]:
    responder = DnsResponder(zone_of("d.example", RECORDS))
    yield await responder.start()
    await responder.stop()


async def ask(where: Where, name: str, kind: str = "CERT") -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
    return await dns.asyncquery.udp(query, where[0], port=where[1], timeout=2)


async def test_record_is_answered_with_authority(where: Where) -> None:
    answer = await ask(where, "A.d.example")
    assert answer.flags & dns.flags.AA
    assert len(answer.answer[0]) == 1


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        pytest.param("a.d.example", "TXT", dns.rcode.NOERROR, id="other-type"),
        pytest.param("empty.d.example", "TXT", dns.rcode.NOERROR, id="name-above-a-name"),
        pytest.param("b.d.example", "CERT", dns.rcode.NXDOMAIN, id="no-name"),
        pytest.param("other.example", "CERT", dns.rcode.REFUSED, id="not-our-zone"),
    ],
)
async def test_absence_is_told_apart(
    where: Where, name: str, kind: str, rcode: dns.rcode.Rcode
) -> None:
    answer = await ask(where, name, kind)
    assert answer.rcode() == rcode
    assert not answer.answer
    assert bool(answer.authority) is (rcode != dns.rcode.REFUSED)


async def test_alias_is_followed_within_the_zone(where: Where) -> None:
    assert len((await ask(where, "alias.d.example")).answer) == 2
    assert (await ask(where, "loop.d.example")).answer
    assert (await ask(where, "away.d.example")).answer


async def test_answer_that_does_not_fit_is_truncated_and_whole_by_tcp(where: Where) -> None:
    assert (await ask(where, "many.d.example")).flags & dns.flags.TC
    query = dns.message.make_query("many.d.example", "CERT", use_edns=0, payload=1232)
    answer, by_tcp = await dns.asyncquery.udp_with_fallback(query, where[0], port=where[1])
    assert by_tcp
    assert len(answer.answer[0]) == 3


async def test_client_without_edns_gets_what_fits_512_octets(where: Where) -> None:
    query = dns.message.make_query("a.d.example", "CERT", use_edns=False)
    answer = await dns.asyncquery.udp(query, where[0], port=where[1], timeout=2)
    assert answer.flags & dns.flags.TC


async def test_noise_gets_no_answer(where: Where) -> None:
    reader, writer = await asyncio.open_connection(*where)
    writer.write(b"\\0\\x05noise")
    assert await reader.read() == b""
    writer.close()
    assert DnsResponder({}).answer(b"noise", limit_octets=512) is None
