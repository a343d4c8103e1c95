"""fhir_bridge.shortcuts: whichever way a page is found by, it is the same page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

import pytest
import sqlalchemy as sa

from certs.ids import new_id
from fhir_bridge import store
from fhir_bridge.definitions import TYPES
from fhir_bridge.finding import find
from fhir_bridge.search import parse_query, read_cursor
from fhir_bridge.shortcuts import Bounds
from fhir_bridge.terms import Terms, mailto_identifier
from gateway.database import SqlDatabase

NOW: Final = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
MINE, OTHER = "a@direct.example", "b@direct.example"
OFTEN, SELDOM = "often@peer.example", "seldom@peer.example"
STORED: Final = 60
BOUNDS: Final = (
    Bounds(narrow=10_000, window=3),  # always from the matches
    Bounds(narrow=0, window=10_000),  # always from the start, to the end
    Bounds(narrow=0, window=7),  # from the start; where that leads to nothing, the plain way
    Bounds(narrow=5, window=12),
)
ORDERS: Final = ("", "&_sort=_lastUpdated", "&_sort=topic,-sent", "&_sort=_id")


def _message(number: int) -> dict[str, Any]:
    # Three were sent in each minute, so that the order has ties.
    sender = SELDOM if number % 17 == 0 else OFTEN
    return {
        "resourceType": "Communication",
        "status": "completed",
        "sender": {"identifier": mailto_identifier(sender)},
        "recipient": [{"identifier": mailto_identifier(f"r{number % 5}@direct.example")}] * 2,
        "topic": {"text": f"Topic {number % 4}"},
        "sent": (NOW + timedelta(minutes=number // 3)).isoformat(),
    }


async def _filled(database: SqlDatabase) -> list[tuple[UUID, str, dict[str, Any]]]:
    """Store messages of two mailboxes, some of them deleted; return those that are left."""
    left: list[tuple[UUID, str, dict[str, Any]]] = []

    def work(connection: sa.Connection) -> None:
        for number in range(STORED):
            at, owner = NOW + timedelta(seconds=number), OTHER if number % 7 == 0 else MINE
            content = _message(number)
            stored = store.insert(
                connection, content, identity=new_id(at), owner=owner, now=at, terms=Terms()
            )
            if number % 11 == 0:
                store.remove(connection, stored, now=at)
            else:
                left.append((stored.id, owner, content))

    await database.write(work)
    return left


def _paged(connection: sa.Connection, text: str, owners: list[str], bounds: Bounds) -> list[UUID]:
    """Return the ids of all pages."""
    found: list[UUID] = []
    cursor: str | None = None
    while True:
        pairs = [*parse_qsl(text), *([("_cursor", cursor)] if cursor else [])]
        query = parse_query(TYPES["Communication"], pairs)
        assert query.cursor == (read_cursor(cursor) if cursor else None)
        page = find(connection, query, owners, NOW, bounds)
        found += [row.id for row in page.rows]
        if page.following is None:
            return found
        cursor = page.following


def _is(content: dict[str, Any], sender: str) -> bool:
    return bool(content["sender"]["identifier"]["value"] == f"mailto:{sender}")


@pytest.mark.parametrize("sender", [OFTEN, SELDOM, "nobody@peer.example"])
async def test_all_of_a_sender_in_order_of_sending(database: SqlDatabase, sender: str) -> None:
    left = await _filled(database)
    for bounds, owners, sign in product(BOUNDS, ([MINE], [MINE, OTHER]), ("", "-")):
        expected = sorted(
            (content["sent"], identity)
            for identity, owner, content in left
            if owner in owners and _is(content, sender)
        )
        text = f"sender=mailto:{sender}&_sort={sign}sent&_count=4"
        found = await database.read(partial(_paged, text=text, owners=owners, bounds=bounds))
        assert found == [identity for _, identity in (expected[::-1] if sign else expected)]


@pytest.mark.parametrize(
    "criteria",
    [
        f"sender=mailto:{OFTEN}&recipient=mailto:r2@direct.example",
        f"recipient=mailto:r1@direct.example,mailto:r2@direct.example&sender=mailto:{SELDOM}",
        f"sender=mailto:{OFTEN}&status=completed&sent=ge2026-01-02T12:05:00Z",
        f"sender=mailto:{OFTEN}&topic:missing=false&recipient:not=mailto:r3@direct.example",
        "recipient:identifier=mailto:r4@direct.example",
    ],
)
async def test_every_way_finds_what_the_plain_one_does(
    database: SqlDatabase, criteria: str
) -> None:
    await _filled(database)
    for order, owners in product(ORDERS, ([MINE], [MINE, OTHER])):
        paged = partial(_paged, text=f"{criteria}{order}&_count=3", owners=owners)
        plain = await database.read(partial(paged, bounds=Bounds(narrow=0, window=0)))
        assert len(set(plain)) == len(plain)
        for bounds in BOUNDS:
            assert await database.read(partial(paged, bounds=bounds)) == plain
