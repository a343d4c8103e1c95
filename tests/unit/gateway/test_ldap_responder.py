from __future__ import annotations

import asyncio

import pytest

from certs.errors import DirectError
from certs.ldap_client import LdapClient
from gateway.ldap_responder import LdapResponder


@pytest.mark.parametrize(
    ("mail", "values"),
    [
        ("A@d.example.org", {b"one", b"two"}),
        ("d.example.org", {b"three"}),
        ("*", set()),
        ("nobody@d.example.org", set()),
    ],
)
async def test_certificates_are_found_by_mail(mail: str, values: set[bytes]) -> None:
    entries = {"a@d.example.org": [b"one", b"two"], "d.example.org": [b"three"]}
    responder = LdapResponder(entries)
    host, port = await responder.start()
    client = LdapClient()
    assert set(await client.certificates(host, port, mail)) == values
    client.close()
    await responder.stop()


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.0\r\n\r\n", b"\x30\x84\x7f\xff\xff\xff", b"\x30\0"]
)
async def test_what_is_no_ldap_ends_the_connection(sent: bytes) -> None:
    responder = LdapResponder({})
    host, port = await responder.start()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(sent)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await responder.stop()


def test_operation_that_is_not_known_is_a_protocol_error() -> None:
    (answer,) = LdapResponder({}).answer(b"\x02\x01\x07\x4a\x00")
    assert answer == bytes.fromhex("300c02010765070a010204000400")


def test_short_message_is_malformed() -> None:
    with pytest.raises(DirectError):
        list(LdapResponder({}).answer(b"\x02\x01\x07"))
