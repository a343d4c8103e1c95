"""gateway.places and gateway.address_settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway import domain_control, domains
from gateway.address_settings import (
    DEFAULT_SETTINGS,
    AddressSettings,
    Deliver,
    read_settings,
    write_settings,
)
from gateway.config import Mailbox
from gateway.database import SqlDatabase
from gateway.edge_out import MailServer
from gateway.host_port import HostPort
from gateway.places import Place, StoredPlaces
from gateway.tls_policy import Demand
from tests.helpers.pki import NOW

JONES = parse_address("DrJones@b.example")
SMITH = parse_address("drsmith@b.example")
LMTP = Mailbox(server=HostPort(host="127.0.0.1", port=24), lmtp=True, tls=Demand.NONE)


async def set_up(database: SqlDatabase, settings: AddressSettings = DEFAULT_SETTINGS) -> None:
    def work(c: Any) -> None:
        domains.add_domain(c, "b.example", NOW)
        domains.add_address(c, JONES, NOW, settings=write_settings(settings))
        domains.add_address(c, SMITH, NOW)

    await database.write(work)


@pytest.mark.parametrize(
    ("name", "found"),
    [("drjones@b.example", True), ("b.example", True), ("*", True), ("c.example", False)],
)
async def test_whose_server_it_is_in_the_configuration(
    sqlite_database: SqlDatabase, name: str, *, found: bool
) -> None:
    places = StoredPlaces(
        database=sqlite_database, configured={name: MailServer("mail.b.example", 24)}
    )
    assert (await places.server_of(JONES) is not None) is found
    assert await places.place_of(JONES) == Place(on_server=found)


async def test_the_narrowest_name_counts(sqlite_database: SqlDatabase) -> None:
    own, all_others = MailServer("own", 24), MailServer("others", 24)
    places = StoredPlaces(database=sqlite_database, configured={"*": all_others, JONES.key: own})
    assert await places.server_of(JONES) is own
    assert await places.server_of(SMITH) is all_others


async def test_an_addresss_own_setting_counts_before_the_configuration_and_at_once(
    sqlite_database: SqlDatabase, tmp_path: Path
) -> None:
    await set_up(sqlite_database, AddressSettings(Deliver.FHIR))
    others = {"*": MailServer("others", 24)}
    places = StoredPlaces(database=sqlite_database, configured=others)
    assert await places.place_of(JONES) == Place()
    password = tmp_path / "password"
    password.write_text("secret\n")
    box = LMTP.model_copy(update={"user": "gw", "password_file": password})
    settings = write_settings(AddressSettings(Deliver.SERVER, box))
    await sqlite_database.write(
        lambda c: domain_control.change_address(c, JONES, settings=settings)
    )
    assert await places.place_of(JONES) == Place(on_server=True)
    server = await places.server_of(JONES)
    assert server is not None
    assert (server.host, server.port, server.lmtp, server.tls) == (
        "127.0.0.1",
        24,
        True,
        Demand.NONE,
    )
    assert server.login is not None
    assert server.login.password == "secret"


async def test_forwarding_is_to_those_who_are_served_now_and_not_to_itself(
    sqlite_database: SqlDatabase,
) -> None:
    gone = parse_address("gone@b.example")
    await set_up(sqlite_database, AddressSettings(forward=(SMITH, JONES, gone, SMITH)))
    places = StoredPlaces(database=sqlite_database, configured={})
    assert (await places.place_of(JONES)).forward == (SMITH,)
    await sqlite_database.write(lambda c: domain_control.change_address(c, SMITH, enabled=False))
    assert (await places.place_of(JONES)).forward == ()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(DEFAULT_SETTINGS, id="default"),
        pytest.param(AddressSettings(Deliver.FHIR, None, (SMITH,)), id="fhir-and-pool"),
        pytest.param(AddressSettings(Deliver.SERVER, LMTP), id="lmtp"),
    ],
)
def test_settings_are_read_as_they_were_written(settings: AddressSettings) -> None:
    assert read_settings(write_settings(settings)) == settings


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"colour": "red"}, id="unknown"),
        pytest.param({"deliver": "pigeon"}, id="way"),
        pytest.param({"deliver": "server"}, id="no-server"),
        pytest.param({"server": {"server": "a:1"}}, id="server-not-meant"),
        pytest.param({"deliver": "server", "server": {"server": "a"}}, id="no-port"),
        pytest.param({"forward": "a@b.example"}, id="forward-text"),
        pytest.param({"forward": ["a@b.example"] * 101}, id="forward-many"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(DirectError) as caught:
        read_settings(values)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
