from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509

from certs.address import DirectAddress
from certs.issuers import sha256_of
from certs.ports import Database
from tests.helpers.pki import Ca
from tests.helpers.trust import ADDRESS, BOTH, COLLEAGUE, NOW, ONE, TWO, add, install_bundle
from trust_bundles.anchors import Anchors
from trust_bundles.bundles import Settings, attach, change_bundle, detach, enable_bundle
from trust_bundles.policy import Direction, Period
from trust_bundles.sets import SETS, AnchorSets, anchors_for, sources_of
from trust_bundles.store import change_anchor, forget_owner, list_anchors

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


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


async def trusted_at(database: Database, now: datetime) -> set[x509.Certificate]:
    return set(await database.read(lambda c: anchors_for(c, ADDRESS, Direction.INCOMING, now)))


async def test_anchor_counts_within_its_period_and_while_enabled(database: Database) -> None:
    period = Period(NOW, NOW + DAY)
    await add(database, ONE, ADDRESS.domain, period=period)
    assert await trusted_at(database, NOW - SECOND) == set()
    assert await trusted_at(database, NOW) == {ONE}
    assert await trusted_at(database, NOW + DAY - SECOND) == {ONE}
    assert await trusted_at(database, NOW + DAY) == set()
    sha256 = sha256_of(ONE).hex()
    await database.write(lambda c: change_anchor(c, sha256, enabled=False))
    assert await trusted_at(database, NOW) == set()
    await database.write(lambda c: change_anchor(c, sha256, enabled=True, period=Period()))
    assert await trusted_at(database, NOW + 2 * DAY) == {ONE}


async def test_bundles_count_for_whom_and_which_way_they_are_attached(database: Database) -> None:
    """TB-010."""
    await install_bundle(database, "one", [ONE])
    await install_bundle(database, "two", [TWO])
    sets = AnchorSets()

    async def seen(address: DirectAddress, way: Direction) -> set[x509.Certificate]:
        return set(await database.read(lambda c: sets.anchors_for(c, address, way, NOW)))

    await database.write(lambda c: attach(c, "one", ADDRESS.domain, [Direction.INCOMING], NOW))
    await database.write(lambda c: attach(c, "two", str(ADDRESS), BOTH, NOW))
    assert await seen(ADDRESS, Direction.INCOMING) == {ONE, TWO}
    assert await seen(ADDRESS, Direction.OUTGOING) == {TWO}
    assert await seen(COLLEAGUE, Direction.INCOMING) == {ONE}
    await database.write(lambda c: enable_bundle(c, "one", enabled=False))
    assert await seen(COLLEAGUE, Direction.INCOMING) == set()
    await database.write(lambda c: enable_bundle(c, "one", enabled=True))
    # The same anchor from elsewhere outlives the bundle.
    await add(database, ONE, str(COLLEAGUE))
    await database.write(lambda c: detach(c, "one", ADDRESS.domain))
    assert await seen(COLLEAGUE, Direction.INCOMING) == {ONE}
    assert await seen(ADDRESS, Direction.INCOMING) == {TWO}


async def test_where_an_anchor_comes_from_is_told(sqlite_database: Database) -> None:
    await install_bundle(sqlite_database, "one", [ONE, TWO])
    await sqlite_database.write(lambda c: attach(c, "one", ADDRESS.domain, BOTH, NOW))
    await add(sqlite_database, ONE, str(ADDRESS))
    sources = await sqlite_database.read(
        lambda c: sources_of(c, sha256_of(ONE).hex(), ADDRESS, Direction.OUTGOING, NOW)
    )
    assert list(sources) == [(ADDRESS.key, None), (ADDRESS.domain, "one")]


async def test_the_bundle_that_an_anchor_is_trusted_by_is_told(database: Database) -> None:
    sets = AnchorSets()

    async def told(way: Direction = Direction.INCOMING) -> str | None:
        found = await database.read(lambda c: sets.set_for(c, ADDRESS, way, NOW))
        return found.bundle_of(ONE)

    await add(database, ONE, ADDRESS.domain)
    assert await told() is None
    await install_bundle(database, "two", [ONE, TWO])
    await install_bundle(database, "one", [ONE])
    await database.write(lambda c: attach(c, "two", ADDRESS.domain, [Direction.INCOMING], NOW))
    assert await told() == "two"
    assert await told(Direction.OUTGOING) is None
    await database.write(lambda c: attach(c, "one", str(ADDRESS), BOTH, NOW))
    published = Settings(url="https://bundles.example/one.p7b")
    await database.write(lambda c: change_bundle(c, "one", published, NOW))
    assert await told() == "https://bundles.example/one.p7b"
    await database.write(lambda c: enable_bundle(c, "one", enabled=False))
    assert await told() == "two"


async def test_owner_that_is_forgotten_leaves_nothing(sqlite_database: Database) -> None:
    await install_bundle(sqlite_database, "one", [ONE])
    await sqlite_database.write(lambda c: attach(c, "one", ADDRESS.domain, BOTH, NOW))
    await add(sqlite_database, TWO, ADDRESS.domain)
    await add(sqlite_database, TWO, "other.example.org")
    assert await sqlite_database.write(lambda c: forget_owner(c, ADDRESS.domain)) == 2
    assert await trusted_at(sqlite_database, NOW) == set()
    assert len(await sqlite_database.read(list_anchors)) == 1
