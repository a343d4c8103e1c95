"""What `check` says of trust."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import sqlalchemy as sa

from gateway.database import SqlDatabase
from gateway.trust_check import check_trust
from tests.helpers.pki import NOW, Ca
from tests.helpers.trust import ADDRESS, BOTH, ONE, add, install_bundle
from trust_bundles.bundles import attach, enable_bundle
from trust_bundles.policies import set_policy
from trust_bundles.policy import Direction, Period
from trust_bundles.tables import bundle, certificate_policy

DOMAIN = ADDRESS.domain


async def said(database: SqlDatabase) -> Collection[tuple[str, str, str]]:
    found = await database.read(lambda c: check_trust(c, [DOMAIN], NOW))
    return [(f.what, f.verdict, f.detail) for f in found]


async def test_domain_that_trusts_nobody_fails_and_one_way_is_a_warning(
    sqlite_database: SqlDatabase,
) -> None:
    await add(sqlite_database, ONE, DOMAIN, period=Period(ends=NOW))
    [(_, verdict, detail)] = await said(sqlite_database)
    assert (verdict, detail.partition(":")[0]) == ("fail", "trusts nobody")
    await install_bundle(sqlite_database, "b", [ONE])
    await sqlite_database.write(lambda c: attach(c, "b", DOMAIN, [Direction.INCOMING], NOW))
    anchors, *_ = await said(sqlite_database)
    assert anchors[1:] == ("warn", "1 incoming, 0 outgoing")
    await sqlite_database.write(lambda c: enable_bundle(c, "b", enabled=False))
    assert [row[1:] for row in await said(sqlite_database)][-1] == ("ok", "disabled")
    soon = Ca.create("Soon", not_after=NOW + timedelta(days=3)).certificate
    await add(sqlite_database, soon, str(ADDRESS), BOTH)
    first, second, *_ = await said(sqlite_database)
    assert first[1:] == ("ok", "1 incoming, 1 outgoing")
    assert second[1:] == ("warn", "1 expire within 30 days")


async def test_bundle_that_fails_is_a_warning_and_a_stale_one_a_failure(
    sqlite_database: SqlDatabase,
) -> None:
    await install_bundle(sqlite_database, "b", [ONE])

    async def state(**values: object) -> list[str]:
        await sqlite_database.write(lambda c: c.execute(sa.update(bundle).values(**values)))
        return [verdict for what, verdict, _ in await said(sqlite_database) if what == "bundle b"]

    assert await state(detail=None) == ["ok"]
    assert await state(status="not-found", good_at=NOW - timedelta(days=1)) == ["warn"]
    assert await state(good_at=NOW - timedelta(days=4)) == ["fail"]
    assert await state(status="success", staged=2) == ["ok", "warn"]
    assert await state(staged=None, in_force=None) == ["warn"]


async def test_policy_that_cannot_be_read_fails_with_its_lines(
    sqlite_database: SqlDatabase,
) -> None:
    await sqlite_database.write(lambda c: set_policy(c, DOMAIN, "", actor="me", now=NOW))
    assert [row[1] for row in await said(sqlite_database)] == ["fail", "ok"]
    spoilt = sa.update(certificate_policy).values(text="\ncolour = 1")
    await sqlite_database.write(lambda c: c.execute(spoilt))
    *_, (what, verdict, detail) = await said(sqlite_database)
    assert (what, verdict) == (f"{DOMAIN}: policy", "fail")
    assert detail.startswith("line 2: colour")
