from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.retry import GIVE_UP_AFTER, next_attempt

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
MIDDLE = 0.5


def test_the_first_attempt_is_made_at_once() -> None:
    assert next_attempt(0, NOW, NOW, MIDDLE) == NOW


@pytest.mark.parametrize(
    ("attempts", "minutes"),
    [(1, 1), (2, 5), (3, 15), (4, 30), (5, 60), (6, 120), (7, 240), (8, 240), (50, 240)],
)
def test_waits_grow_to_four_hours(attempts: int, minutes: int) -> None:
    assert next_attempt(attempts, NOW, NOW, MIDDLE) == NOW + timedelta(minutes=minutes)


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 54), (0.5, 60), (0.9999999, 66)])
def test_jitter_spreads_a_wait_by_a_tenth_either_way(jitter: float, seconds: int) -> None:
    due = next_attempt(1, NOW, NOW, jitter)
    assert due is not None
    assert (due - NOW).total_seconds() == pytest.approx(seconds, abs=0.01)


def test_the_last_attempt_is_made_when_the_time_is_over() -> None:
    accepted_at = NOW - GIVE_UP_AFTER + timedelta(minutes=10)
    assert next_attempt(9, accepted_at, NOW, MIDDLE) == NOW + timedelta(minutes=10)


def test_gives_up_after_the_last_attempt() -> None:
    assert next_attempt(9, NOW - GIVE_UP_AFTER, NOW, MIDDLE) is None


def test_a_day_of_failures_is_about_a_dozen_attempts() -> None:
    now, attempts = NOW, 0
    while (due := next_attempt(attempts, NOW, now, MIDDLE)) is not None:
        now, attempts = due, attempts + 1
    assert attempts == 13
    assert now == NOW + GIVE_UP_AFTER
