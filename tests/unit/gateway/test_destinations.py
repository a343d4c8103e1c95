"""gateway.destinations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.destinations import START, Destinations

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
PEER = "direct.lakeview.example"


def room(destinations: Destinations, name: str = PEER, now: datetime = NOW) -> int:
    rooms = destinations.rooms(now)
    taken = 0
    while taken < 1000 and rooms.take(name):
        taken += 1
    return taken


def try_once(destinations: Destinations, *, answered: bool, now: datetime = NOW) -> None:
    destinations.begun(PEER)
    destinations.ended(PEER, now, answered=answered)


def test_a_new_destination_begins_with_a_few() -> None:
    assert room(Destinations(limit=20)) == START
    assert room(Destinations(limit=2)) == 2


def test_what_has_no_destination_has_no_bounds() -> None:
    destinations = Destinations(limit=1)
    destinations.begun("")
    assert room(destinations, "") == 1000
    destinations.ended("", NOW, answered=False)
    assert room(destinations, "") == 1000


def test_each_answer_lets_one_more_in_up_to_the_limit() -> None:
    destinations = Destinations(limit=8)
    destinations.begun(PEER)  # one that lasts
    rooms = []
    for _ in range(5):
        try_once(destinations, answered=True)
        rooms.append(room(destinations))
    assert rooms == [5, 6, 7, 7, 7]


def test_what_runs_takes_room_of_its_destination_only() -> None:
    destinations = Destinations(limit=20)
    for _ in range(START):
        destinations.begun(PEER)
    assert room(destinations) == 0
    assert destinations.rooms(NOW).closed == {PEER}
    assert room(destinations, "other.example") == START
    destinations.ended(PEER, NOW, answered=True)
    assert room(destinations) == 2  # the one that ended, and one more for the answer


def test_a_destination_that_does_not_answer_gets_one_at_a_time() -> None:
    destinations = Destinations(limit=20)
    try_once(destinations, answered=False)
    assert room(destinations) == 1


@pytest.mark.parametrize(
    ("failures", "rest"),
    [
        pytest.param(2, timedelta(seconds=30), id="second"),
        pytest.param(3, timedelta(seconds=60), id="third"),
        pytest.param(6, timedelta(minutes=8), id="sixth"),
        pytest.param(99, timedelta(minutes=10), id="many"),
    ],
)
def test_a_destination_that_stays_silent_is_left_alone_ever_longer(
    failures: int, rest: timedelta
) -> None:
    destinations = Destinations(limit=20)
    for _ in range(failures):
        try_once(destinations, answered=False)
    assert destinations.rooms(NOW + rest - timedelta(seconds=1)).closed == {PEER}
    assert room(destinations, now=NOW + rest) == 1


def test_an_answer_ends_the_rest() -> None:
    destinations = Destinations(limit=20)
    destinations.begun(PEER)  # began before it fell silent
    for _ in range(3):
        try_once(destinations, answered=False)
    assert room(destinations) == 0
    destinations.ended(PEER, NOW, answered=True)
    assert room(destinations) == START
