"""What was found a moment ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.recent import LIMIT, Recent

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
MOMENT = timedelta(milliseconds=500)


def test_what_was_found_holds_for_a_moment_and_nothing_else_does() -> None:
    recent = Recent(MOMENT)
    recent.found(("a", "b"), NOW)
    assert recent.holds(("a", "b"), NOW)
    assert recent.holds(("a", "b"), NOW + MOMENT * 0.9)
    assert not recent.holds(("a", "b"), NOW + MOMENT)
    assert not recent.holds(("a", "c"), NOW)


def test_nothing_holds_while_the_clock_is_before_the_finding() -> None:
    recent = Recent(MOMENT)
    recent.found("a", NOW)
    assert not recent.holds("a", NOW - timedelta(microseconds=1))


def test_without_a_time_nothing_is_remembered() -> None:
    recent = Recent(timedelta(0))
    recent.found("a", NOW)
    assert not recent.holds("a", NOW)


def test_facts_beyond_the_limit_take_the_place_of_the_others() -> None:
    recent = Recent(MOMENT)
    for fact in range(LIMIT + 1):
        recent.found(fact, NOW)
    assert recent.holds(LIMIT, NOW)
    assert not recent.holds(0, NOW)
