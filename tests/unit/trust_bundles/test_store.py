from __future__ import annotations

import pytest

from certs.errors import DirectError, Reason
from certs.issuers import sha256_of
from certs.ports import Database
from tests.helpers.trust import ADDRESS, BOTH, COLLEAGUE, NOW, ONE, TWO, add
from trust_bundles import store
from trust_bundles.policy import Direction
from trust_bundles.sets import anchors_for


async def test_address_has_its_own_anchors_and_its_domains(database: Database) -> None:
    """AS-080."""
    await add(database, ONE, "Direct.Example.org", BOTH)
    await add(database, TWO, str(ADDRESS), BOTH)
    mine = await database.read(lambda c: anchors_for(c, ADDRESS, Direction.OUTGOING, NOW))
    others = await database.read(lambda c: anchors_for(c, COLLEAGUE, Direction.OUTGOING, NOW))
    assert set(mine) == {ONE, TWO}
    assert set(others) == {ONE}


async def test_directions_are_apart(database: Database) -> None:
    await add(database, ONE, ADDRESS.domain, frozenset({Direction.INCOMING}))
    incoming = await database.read(lambda c: anchors_for(c, ADDRESS, Direction.INCOMING, NOW))
    outgoing = await database.read(lambda c: anchors_for(c, ADDRESS, Direction.OUTGOING, NOW))
    assert (list(incoming), list(outgoing)) == ([ONE], [])


async def test_adding_again_changes_the_directions(database: Database) -> None:
    await add(database, ONE, ADDRESS.domain, BOTH)
    await add(database, ONE, ADDRESS.domain, frozenset({Direction.OUTGOING}))
    (listed,) = await database.read(store.list_anchors)
    assert listed.certificate == ONE
    assert listed.owner == ADDRESS.domain
    assert listed.directions == {Direction.OUTGOING}
    assert listed.added_at == NOW


async def test_removing_for_one_owner_and_for_all(sqlite_database: Database) -> None:
    sha256 = sha256_of(ONE).hex()
    for owner in (ADDRESS.domain, "other.example.org", "third.example.org"):
        await add(sqlite_database, ONE, owner, BOTH)
    remove = store.remove_anchor
    assert await sqlite_database.write(lambda c: remove(c, sha256, ADDRESS.domain)) == 1
    assert await sqlite_database.read(lambda c: store.list_anchors(c, ADDRESS.domain)) == []
    assert await sqlite_database.write(lambda c: remove(c, sha256.upper())) == 2
    assert await sqlite_database.read(store.list_anchors) == []


async def test_an_anchor_needs_a_direction(sqlite_database: Database) -> None:
    with pytest.raises(DirectError) as caught:
        await add(sqlite_database, ONE, ADDRESS.domain, frozenset())
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
