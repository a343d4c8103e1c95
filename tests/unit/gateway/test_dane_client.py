"""The DANE client against a resolver on loopback that claims security as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from certs.errors import DirectError, Reason
from gateway.dane import Tlsa
from gateway.dane_client import DaneClient

MX = ("b.example. MX", "10 mx.b.example.")
A = ("mx.b.example. A", "192.0.2.1")
TLSA = ("_25._tcp.mx.b.example. TLSA", "3 1 1 " + "ab" * 32)
RECORD = Tlsa(3, 1, 1, b"\xab" * 32)


class Validator(asyncio.DatagramProtocol):
    """Answers from a dict; what is in `insecure` without AD, what is in `bogus` with SERVFAIL."""

    def __init__(self, records: Mapping[str, str], insecure: set[str], bogus: set[str]) -> None:
        self._records = records
        self._insecure = insecure
        self._bogus = bogus
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # what it is
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        key = f"{question.name} {question.rdtype.name}"
        answer = dns.message.make_response(query, recursion_available=True)
        if key not in self._records and not self._records:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        if key in self._bogus:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif key not in self._insecure:
            answer.flags |= dns.flags.AD
        if key in self._records and key not in self._bogus:
            answer.answer.append(
                dns.rrset.from_text(question.name, 60, "IN", question.rdtype, self._records[key])
            )
        self._transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def resolving(
    *records: tuple[str, str], insecure: str = "", bogus: str = ""
) -> AsyncIterator[DaneClient]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Validator(dict(records), {insecure}, {bogus}), local_addr=("127.0.0.1", 0)
    )
    port: int = transport.get_extra_info("sockname")[1]
    try:
        yield DaneClient(resolver=("127.0.0.1", port))
    finally:
        transport.close()


async def test_secure_records_are_believed() -> None:
    async with resolving(MX, A, TLSA) as client:
        assert await client.associations("b.example", "mx.b.example", 25) == [RECORD]


async def test_the_port_is_part_of_the_question() -> None:
    async with resolving(MX, A, TLSA) as client:
        assert await client.associations("b.example", "mx.b.example", 587) == []


@pytest.mark.parametrize("insecure", [MX[0], A[0], TLSA[0]], ids=["mx", "host", "tlsa"])
async def test_one_insecure_step_and_there_is_no_dane(insecure: str) -> None:
    async with resolving(MX, A, TLSA, insecure=insecure) as client:
        assert list(await client.associations("b.example", "mx.b.example", 25)) == []


@pytest.mark.parametrize("bogus", [MX[0], A[0], TLSA[0]], ids=["mx", "host", "tlsa"])
async def test_a_bogus_answer_is_a_reason_to_wait(bogus: str) -> None:
    async with resolving(MX, A, TLSA, bogus=bogus) as client:
        with pytest.raises(DirectError) as caught:
            await client.associations("b.example", "mx.b.example", 25)
    assert caught.value.reason is Reason.DIRECTORY_UNAVAILABLE


def test_a_resolver_elsewhere_is_not_believed() -> None:
    with pytest.raises(DirectError) as caught:
        DaneClient(resolver=("192.0.2.53", 53))
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def test_a_domain_that_does_not_exist_has_no_records() -> None:
    async with resolving() as client:
        assert list(await client.associations("b.example", "mx.b.example", 25)) == []
