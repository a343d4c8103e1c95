from __future__ import annotations

from certs.address import DirectAddress
from certs.ports import Database
from tests.helpers.pki import Ca
from tests.helpers.trust import ADDRESS, BOTH, COLLEAGUE, NOW, ONE, TWO, add
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Direction
from trust_bundles.sets import SETS, AnchorSets


async def test_set_is_made_once_and_anew_when_a_row_changes(sqlite_database: Database) -> None:
    sets = AnchorSets()

    async def trusted(address: DirectAddress) -> Anchors:
        return await sqlite_database.read(
            lambda c: sets.anchors_for(c, address, Direction.INCOMING, NOW)
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
