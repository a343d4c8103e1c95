from __future__ import annotations

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from certs.ports import Database
from fhir_bridge.clients import add_client, authenticate, disable_client, list_clients
from tests.unit.fhir_bridge.conftest import NOW

ANNA = parse_address("Anna@direct.hillside.example")
ZOE = parse_address("zoe@direct.hillside.example")


async def test_a_token_opens_its_mailboxes(sqlite_database: Database) -> None:
    token = await sqlite_database.write(lambda c: add_client(c, "ehr", [ANNA, ZOE, ANNA], NOW))
    client = await sqlite_database.read(lambda c: authenticate(c, token, NOW))
    assert client.mailboxes == {ANNA.key, ZOE.key}
    assert client.owners == {ANNA.key, ZOE.key, "@direct.hillside.example", client.own}
    assert client.home == "@direct.hillside.example"


async def test_a_client_may_have_no_mailbox(sqlite_database: Database) -> None:
    token = await sqlite_database.write(lambda c: add_client(c, "monitor", [], NOW))
    client = await sqlite_database.read(lambda c: authenticate(c, token, NOW))
    assert client.owners == {client.own}


async def test_a_name_is_used_once(sqlite_database: Database) -> None:
    await sqlite_database.write(lambda c: add_client(c, "ehr", [ANNA], NOW))
    with pytest.raises(DirectError) as caught:
        await sqlite_database.write(lambda c: add_client(c, "ehr", [ANNA], NOW))
    assert caught.value.reason is Reason.RESOURCE_CONFLICT


async def test_a_disabled_client_is_a_stranger(sqlite_database: Database) -> None:
    token = await sqlite_database.write(lambda c: add_client(c, "ehr", [ANNA], NOW))
    assert await sqlite_database.write(lambda c: disable_client(c, "ehr"))
    assert not await sqlite_database.write(lambda c: disable_client(c, "nobody"))
    with pytest.raises(DirectError) as caught:
        await sqlite_database.read(lambda c: authenticate(c, token, NOW))
    assert caught.value.reason is Reason.AUTHENTICATION_FAILED
    [client] = await sqlite_database.read(list_clients)
    assert client.disabled
