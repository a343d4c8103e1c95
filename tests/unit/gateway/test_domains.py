"""gateway.domains."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest
import sqlalchemy as sa

from certs.address import parse_address
from certs.errors import DirectError, Reason
from certs.policy import Profile
from gateway import domains, tables
from gateway.database import SqlDatabase

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
HILLSIDE = "direct.hillside.example"
DRJONES = parse_address(f"DrJones@{HILLSIDE}")
SMITH = parse_address(f"smith@{HILLSIDE}")
STRANGER = parse_address("x@direct.lakeview.example")


@pytest.fixture
async def served(database: SqlDatabase) -> SqlDatabase:
    """A database in which one domain with two addresses is served."""

    def serve(connection: sa.Connection) -> None:
        domains.add_domain(connection, HILLSIDE, NOW)
        domains.add_address(connection, DRJONES, NOW, settings={"inbox": "fhir"})
        domains.add_address(connection, SMITH, NOW)

    await database.write(serve)
    return database


async def reason_of(database: SqlDatabase, work: object) -> Reason:
    with pytest.raises(DirectError) as caught:
        await database.write(work)  # type: ignore[arg-type]  # a lambda that raises
    return caught.value.reason


async def test_a_domain_is_served_once_it_is_added(served: SqlDatabase) -> None:
    [domain] = await served.read(domains.list_domains)
    assert (domain.name, domain.enabled, domain.profile) == (HILLSIDE, True, Profile.AS_1_3)
    assert await served.read(lambda c: domains.is_local_domain(c, HILLSIDE))
    assert not await served.read(lambda c: domains.is_local_domain(c, "other.example"))


async def test_a_domain_keeps_its_profile_and_settings(database: SqlDatabase) -> None:
    await database.write(
        lambda c: domains.add_domain(
            c, HILLSIDE, NOW, profile=Profile.AS_1_2, settings={"window_minutes": 30}
        )
    )
    domain = await database.read(lambda c: domains.domain(c, HILLSIDE))
    assert domain == domains.Domain(HILLSIDE, NOW, True, Profile.AS_1_2, {"window_minutes": 30})


async def test_addresses_are_listed_as_written(served: SqlDatabase) -> None:
    found = await served.read(lambda c: domains.list_addresses(c, domain=HILLSIDE))
    assert [str(one.address) for one in found] == [str(DRJONES), str(SMITH)]
    assert found[0].settings == {"inbox": "fhir"}
    assert await served.read(lambda c: domains.list_addresses(c, domain="other.example")) == []
    assert len(await served.read(domains.list_addresses)) == 2


@pytest.mark.parametrize("spelling", ["drjones", "DRJONES", "DrJones"])
async def test_an_address_is_local_in_whatever_case(served: SqlDatabase, spelling: str) -> None:
    address = parse_address(f"{spelling}@{HILLSIDE}")
    assert await served.read(lambda c: domains.is_local(c, address))


async def test_other_addresses_are_not_local(served: SqlDatabase) -> None:
    nobody = parse_address(f"nobody@{HILLSIDE}")
    for address in (nobody, STRANGER):
        assert not await served.read(partial(domains.is_local, address=address))


@pytest.mark.parametrize("table", [tables.domain, tables.address], ids=lambda t: t.name)
async def test_what_is_disabled_is_not_local(served: SqlDatabase, table: sa.Table) -> None:
    await served.write(lambda c: c.execute(table.update().values(enabled=False)) and None)
    assert not await served.read(lambda c: domains.is_local(c, DRJONES))


async def test_the_same_again_is_a_conflict(served: SqlDatabase) -> None:
    shouted = parse_address(f"DRJONES@{HILLSIDE}")
    conflict = Reason.RESOURCE_CONFLICT
    assert await reason_of(served, lambda c: domains.add_domain(c, HILLSIDE, NOW)) is conflict
    assert await reason_of(served, lambda c: domains.add_address(c, shouted, NOW)) is conflict


async def test_an_address_needs_its_domain(served: SqlDatabase) -> None:
    reason = await reason_of(served, lambda c: domains.add_address(c, STRANGER, NOW))
    assert reason is Reason.RESOURCE_NOT_FOUND


async def test_an_edge_user_may_send_as_the_addresses_given(served: SqlDatabase) -> None:
    await served.write(lambda c: domains.add_edge_user(c, "ehr", "hash", [DRJONES], NOW))
    shouted = parse_address(f"DRJONES@{HILLSIDE}")
    assert await served.read(lambda c: domains.may_send_as(c, "ehr", shouted))
    assert not await served.read(lambda c: domains.may_send_as(c, "ehr", SMITH))
    assert not await served.read(lambda c: domains.may_send_as(c, "other", DRJONES))


async def test_an_edge_user_may_not_send_as_an_address_that_is_disabled(
    served: SqlDatabase,
) -> None:
    await served.write(lambda c: domains.add_edge_user(c, "ehr", "hash", [DRJONES], NOW))
    off = tables.address.update().values(enabled=False)
    await served.write(lambda c: c.execute(off) and None)
    assert not await served.read(lambda c: domains.may_send_as(c, "ehr", DRJONES))


async def test_an_edge_user_is_added_once_and_for_our_addresses_only(served: SqlDatabase) -> None:
    await served.write(lambda c: domains.add_edge_user(c, "ehr", "hash", [], NOW))
    off = tables.edge_user.update().values(enabled=False)
    await served.write(lambda c: c.execute(off) and None)  # it exists all the same
    again = await reason_of(served, lambda c: domains.add_edge_user(c, "ehr", "h", [], NOW))
    foreign = await reason_of(served, lambda c: domains.add_edge_user(c, "x", "h", [STRANGER], NOW))
    assert (again, foreign) == (Reason.RESOURCE_CONFLICT, Reason.RESOURCE_NOT_FOUND)


async def test_the_hash_of_a_user_who_is_not_let_in_is_none(served: SqlDatabase) -> None:
    await served.write(lambda c: domains.add_edge_user(c, "ehr", "hash", [], NOW))
    assert await served.read(lambda c: domains.edge_user_hash(c, "ehr")) == "hash"
    assert await served.read(lambda c: domains.edge_user_hash(c, "nobody")) is None
    off = tables.edge_user.update().values(enabled=False)
    await served.write(lambda c: c.execute(off) and None)
    assert await served.read(lambda c: domains.edge_user_hash(c, "ehr")) is None


def test_a_password_matches_its_hash_and_no_other() -> None:
    stored = domains.hash_password("correct horse")
    assert domains.password_matches(stored, "correct horse")
    assert not domains.password_matches(stored, "correct horsf")
    assert not domains.password_matches(None, "correct horse")


def test_a_hash_is_salted_argon2id_with_the_recommended_cost() -> None:
    first, second = (domains.hash_password("x") for _ in range(2))
    assert first != second
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
