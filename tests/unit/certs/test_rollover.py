"""certs.rollover and certs.pending: the life of our keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from certs import keys, pending, rollover
from certs.address import parse_address
from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.issue import Use
from certs.issuers import sha256_of as fingerprint
from certs.pkcs12 import KeyBundle
from certs.ports import Database
from certs.rollover import Dates
from certs.stored_keys import StoredKeys
from gateway.expiry import expiring, warning
from tests.helpers.pki import NOW, YEAR, Ca, private_key_of

ADDRESS = parse_address("DrJones@direct.example.org")
ROOT = Ca.create("Root")
DAY = timedelta(days=1)
KEK, NEXT = os.urandom(32), os.urandom(32)
OLD = ROOT.issue(address=str(ADDRESS), label="old", not_after=NOW + 20 * DAY)
NEW = ROOT.issue(address=str(ADDRESS), label="new", not_before=NOW - DAY)
SIGNS = ROOT.issue(address=str(ADDRESS), label="signs", uses=frozenset({Use.SIGN}))
DATES = Dates(publish=NOW + DAY, switch=NOW + 3 * DAY, retire=NOW + 10 * DAY)


def bundle_of(identity: Identity) -> KeyBundle:
    return KeyBundle(private_key_of(identity), identity.certificate, identity.chain)


def sha256_of(identity: Identity) -> str:
    return fingerprint(identity.certificate).hex()


async def hold(database: Database, *identities: Identity) -> StoredKeys:
    def work(c: sa.Connection) -> None:
        for one in identities:
            keys.add(c, bundle_of(one), subject=ADDRESS, kek=KEK, now=NOW)

    await database.write(work)
    return StoredKeys(database=database, keks=lambda: [KEK])


async def signing(stored: StoredKeys, at: datetime) -> list[Identity]:
    found = await stored.signing(ADDRESS, at)
    return [
        one for one in (OLD, NEW, SIGNS) if any(f.certificate == one.certificate for f in found)
    ]


async def published(database: Database, at: datetime) -> set[str]:
    found = await database.read(keys.list_identities)
    return {own.sha256 for own in found if own.is_published(at)}


async def refused(database: Database, work: Callable[[sa.Connection], Any]) -> Reason:
    with pytest.raises(DirectError) as caught:
        await database.write(work)
    return caught.value.reason


async def test_rollover_leaves_no_gap_and_keeps_its_dates(database: Database) -> None:
    stored = await hold(database, OLD, NEW)
    old = await database.write(lambda c: rollover.roll_over(c, sha256_of(NEW), DATES, NOW))
    assert [one.sha256 for one in old] == [sha256_of(OLD)]
    both = {sha256_of(OLD), sha256_of(NEW)}
    for at, signs, found in (
        (NOW, OLD, {sha256_of(OLD)}),
        (DATES.publish, OLD, both),
        (DATES.switch, NEW, both),
        (DATES.retire, NEW, {sha256_of(NEW)}),
    ):
        assert await signing(stored, at) == [signs], at
        assert await published(database, at) == found, at
        # What `signs` says of an identity is what the pipeline is given.
        own = await database.read(keys.list_identities)
        assert [o.sha256 for o in own if o.signs(at)] == [sha256_of(signs)]


async def test_rollover_is_taken_back_by_one_to_the_old(database: Database) -> None:
    stored = await hold(database, OLD, NEW)
    await database.write(lambda c: rollover.roll_over(c, sha256_of(NEW), DATES, NOW))
    back = Dates(NOW, NOW, NOW + DAY)
    await database.write(lambda c: rollover.roll_over(c, sha256_of(OLD), back, NOW))
    for at in (NOW, DATES.switch, DATES.retire):
        assert await signing(stored, at) == [OLD]


async def test_certificate_for_one_use_takes_over_that_use_only(sqlite_database: Database) -> None:
    stored = await hold(sqlite_database, NEW, SIGNS)
    await sqlite_database.write(lambda c: rollover.roll_over(c, sha256_of(SIGNS), DATES, NOW))
    assert await signing(stored, DATES.retire) == [SIGNS]
    assert await published(sqlite_database, DATES.retire) == {sha256_of(NEW)}


@pytest.mark.parametrize(
    "dates",
    [
        pytest.param(Dates(NOW + DAY, NOW, NOW + 2 * DAY), id="publish-after-switch"),
        pytest.param(Dates(NOW, NOW + 2 * DAY, NOW + DAY), id="retire-before-switch"),
        pytest.param(Dates(NOW, NOW + 2 * YEAR, NOW + 2 * YEAR), id="expired-at-switch"),
    ],
)
async def test_dates_that_would_leave_a_gap_are_refused(
    sqlite_database: Database, dates: Dates
) -> None:
    await hold(sqlite_database, OLD, NEW)
    reason = await refused(
        sqlite_database, lambda c: rollover.roll_over(c, sha256_of(NEW), dates, NOW)
    )
    assert reason is Reason.CONFIGURATION_INVALID


async def test_retired_key_opens_mail_for_the_configured_time(database: Database) -> None:
    await hold(database, OLD, NEW)
    await database.write(lambda c: rollover.retire(c, sha256_of(OLD), NOW, NOW))
    times = {"since": NOW - DAY}
    stored = StoredKeys(database=database, keks=lambda: [KEK], opens_since=lambda: times["since"])
    assert len(await stored.decrypting([ADDRESS])) == 2
    times["since"] = NOW
    [left] = await stored.decrypting([ADDRESS])
    assert left.certificate == NEW.certificate


async def test_key_is_removed_only_once_it_opens_no_mail(sqlite_database: Database) -> None:
    await hold(sqlite_database, OLD)
    sha256 = sha256_of(OLD)

    def remove(until: datetime) -> Callable[[sa.Connection], Any]:
        return lambda c: rollover.remove(c, sha256, opened_until=until)

    assert await refused(sqlite_database, remove(NOW)) is Reason.RESOURCE_CONFLICT
    await sqlite_database.write(lambda c: rollover.retire(c, sha256, NOW, NOW))
    assert await refused(sqlite_database, remove(NOW - DAY)) is Reason.RESOURCE_CONFLICT
    await sqlite_database.write(remove(NOW))
    assert await sqlite_database.read(keys.list_identities) == []
    assert await refused(sqlite_database, remove(NOW)) is Reason.RESOURCE_NOT_FOUND


async def test_certificate_is_found_by_how_its_fingerprint_begins(
    sqlite_database: Database,
) -> None:
    await hold(sqlite_database, OLD)
    sha256 = sha256_of(OLD)
    spelled = ":".join(sha256[n : n + 2] for n in range(0, 20, 2)).upper()
    found = await sqlite_database.read(lambda c: keys.find(c, spelled))
    assert found.sha256 == sha256
    for wrong in ("", "%", "zz"):
        with pytest.raises(DirectError):
            await sqlite_database.read(lambda c, text=wrong: keys.find(c, text))


async def test_all_keys_are_sealed_anew_and_a_running_gateway_follows(database: Database) -> None:
    await hold(database, OLD)
    await database.write(
        lambda c: pending.add_pending(c, private_key_of(NEW), subject=ADDRESS, kek=KEK, now=NOW)
    )
    current = [[KEK]]
    stored = StoredKeys(database=database, keks=lambda: current[0])
    assert await database.write(lambda c: rollover.rewrap_all(c, old_keks=[KEK], new_kek=NEXT)) == 2
    # A rotation that broke off is taken up: what is sealed anew already stays.
    assert await database.write(lambda c: rollover.rewrap_all(c, old_keks=[KEK], new_kek=NEXT)) == 2
    with pytest.raises(DirectError):
        await stored.signing(ADDRESS, NOW)
    current[0] = [KEK, NEXT]
    assert await signing(stored, NOW) == [OLD]
    with pytest.raises(DirectError):
        await database.write(
            lambda c: rollover.rewrap_all(c, old_keks=[KEK], new_kek=os.urandom(32))
        )


async def test_key_waits_for_its_certificate_and_no_other(database: Database) -> None:
    await database.write(
        lambda c: pending.add_pending(c, private_key_of(NEW), subject=ADDRESS, kek=KEK, now=NOW)
    )
    [waiting] = await database.read(pending.list_pending)
    assert (waiting.subject, waiting.public_sha256) == (
        ADDRESS.key,
        keys.public_sha256(NEW.certificate.public_key()),
    )
    other = await refused(database, lambda c: pending.take_pending(c, OLD.certificate))
    assert other is Reason.RESOURCE_NOT_FOUND

    def take(c: sa.Connection) -> None:
        held = pending.take_pending(c, NEW.certificate)
        keys.keep(c, held, NEW.certificate, (), subject=ADDRESS, now=NOW)

    await database.write(take)
    assert await database.read(pending.list_pending) == []
    stored = StoredKeys(database=database, keks=lambda: [KEK])
    assert await signing(stored, NOW) == [NEW]


@pytest.mark.parametrize(
    ("days", "within"), [(-1, 0), (0, 7), (7, 7), (8, 30), (30, 30), (60, 60), (61, None)]
)
def test_warnings_come_at_60_30_and_7_days(days: int, within: int | None) -> None:
    assert warning(NOW + days * DAY, NOW) == within


async def test_certificate_that_another_replaces_is_no_reason_to_worry(
    sqlite_database: Database,
) -> None:
    await hold(sqlite_database, OLD)
    own = await sqlite_database.read(keys.list_identities)
    assert [(e.own.sha256, e.within_days) for e in expiring(own, NOW)] == [(sha256_of(OLD), 30)]
    await hold(sqlite_database, NEW)
    own = await sqlite_database.read(keys.list_identities)
    assert expiring(own, NOW) == []
    await sqlite_database.write(lambda c: rollover.retire(c, sha256_of(NEW), NOW, NOW))
    own = await sqlite_database.read(keys.list_identities)
    assert len(expiring(own, NOW)) == 1
