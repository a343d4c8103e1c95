from __future__ import annotations

import pytest

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.issuers import sha256_of
from certs.ports import Database
from tests.helpers.pki import NOW, Ca
from trust_bundles import store
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Direction
from trust_bundles.store import SETS, AnchorSets

BOTH = frozenset(Direction)
ONE = Ca.create("One").certificate
TWO = Ca.create("Two").certificate
ADDRESS = parse_address("DrJones@direct.example.org")
COLLEAGUE = parse_address("nurse@direct.example.org")


async def add(
    database: Database, certificate: object, owner: str, directions: frozenset[Direction]
) -> None:
    await database.write(
        lambda c: store.add_anchor(
            c,
            certificate=certificate,  # type: ignore[arg-type]  # a certificate
            domain_or_address=owner,
            directions=directions,
            now=NOW,
        )
    )


async def test_address_has_its_own_anchors_and_its_domains(database: Database) -> None:
    """AS-080."""
    await add(database, ONE, "Direct.Example.org", BOTH)
    await add(database, TWO, str(ADDRESS), BOTH)
    mine = await database.read(lambda c: store.anchors_for(c, ADDRESS, Direction.OUTGOING))
    others = await database.read(lambda c: store.anchors_for(c, COLLEAGUE, Direction.OUTGOING))
    assert set(mine) == {ONE, TWO}
    assert set(others) == {ONE}


async def test_directions_are_apart(database: Database) -> None:
    await add(database, ONE, ADDRESS.domain, frozenset({Direction.INCOMING}))
    incoming = await database.read(lambda c: store.anchors_for(c, ADDRESS, Direction.INCOMING))
    outgoing = await database.read(lambda c: store.anchors_for(c, ADDRESS, Direction.OUTGOING))
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


async def test_set_is_made_once_and_anew_when_a_row_changes(sqlite_database: Database) -> None:
    sets = AnchorSets()

    async def trusted(address: DirectAddress) -> Anchors:
        return await sqlite_database.read(
            lambda c: sets.anchors_for(c, address, Direction.INCOMING)
        )

    await add(sqlite_database, ONE, ADDRESS.domain, BOTH)
    one = await trusted(ADDRESS)
    assert list(one) == [ONE]
    assert await trusted(COLLEAGUE) is one
    await add(sqlite_database, TWO, str(ADDRESS), BOTH)
    assert set(await trusted(ADDRESS)) == {ONE, TWO}
    assert await trusted(COLLEAGUE) is one


def test_sets_are_merged_once() -> None:
    sets = AnchorSets()
    one, two, again = Anchors([ONE]), Anchors([TWO]), Anchors([ONE])
    assert set(sets.merged([one, two])) == {ONE, TWO}
    assert sets.merged([two, again]) is sets.merged([one, two])
    assert sets.merged([one]) is one
    assert list(sets.merged([])) == []


def test_number_of_sets_is_bounded() -> None:
    sets = AnchorSets()
    certificates = [Ca.create(f"Anchor {number}").certificate for number in range(SETS + 1)]
    merged = [sets.merged([Anchors([ONE]), Anchors([cert])]) for cert in certificates]
    assert sets.merged([Anchors([ONE]), Anchors([certificates[-1]])]) is merged[-1]
    assert sets.merged([Anchors([ONE]), Anchors([certificates[0]])]) is not merged[0]
