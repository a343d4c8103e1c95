from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from gateway.tracking import TRANSITIONS, WINDOW, Event, State, advance, is_final, late

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)

# The whole machine, written out once more: rows are states, columns are events, "." is ignored.
EVENTS = "relayed gave-up refused mdn-processed mdn-dispatched mdn-failed dsn-failed time-out"
MODE_A = """
queued      relayed failed failed processed dispatched failed failed failed
relayed     .       .      .      processed dispatched failed failed failed
processed   .       .      .      .         dispatched failed failed .
early       .       .      .      .         .          .      .      .
dispatched  .       .      .      .         .          .      .      .
failed      .       .      .      .         .          .      .      .
"""
MODE_B = """
queued      relayed failed failed processed  early      failed failed failed
relayed     .       .      .      processed  early      failed failed failed
processed   .       .      .      .          dispatched failed failed failed
early       .       .      .      dispatched .          failed failed failed
dispatched  .       .      .      .          .          .      .      .
failed      .       .      .      .          .          .      .      .
"""


def _cases() -> list[object]:
    cases: list[object] = []
    for wants_dispatched, table in ((False, MODE_A), (True, MODE_B)):
        for row in table.split("\n")[1:-1]:
            state, *cells = row.split()
            for event, after in zip(EVENTS.split(), cells, strict=True):
                expected = None if after == "." else State(after)
                mode = "b" if wants_dispatched else "a"
                cases.append(
                    pytest.param(
                        wants_dispatched,
                        State(state),
                        Event(event),
                        expected,
                        id=f"{mode}-{state}-{event}",
                    )
                )
    return cases


@pytest.mark.parametrize(("wants_dispatched", "state", "event", "expected"), _cases())
def test_every_pair_of_state_and_event(
    *, wants_dispatched: bool, state: State, event: Event, expected: State | None
) -> None:
    assert advance(state, event, wants_dispatched=wants_dispatched) is expected


def test_the_cases_are_the_full_product() -> None:
    assert len(_cases()) == 2 * len(State) * len(Event)


@pytest.mark.parametrize(("state", "wants_dispatched"), list(product(State, (False, True))))
def test_dispatched_and_failed_are_terminal(*, state: State, wants_dispatched: bool) -> None:
    leaves = [e for s, e in TRANSITIONS[wants_dispatched] if s is state]
    assert bool(leaves) is (
        state not in (State.DISPATCHED, State.FAILED)
        and (wants_dispatched or state is not State.EARLY)
    )


def _run(*events: Event, wants_dispatched: bool) -> State:
    state = State.QUEUED
    for event in events:
        state = advance(state, event, wants_dispatched=wants_dispatched) or state
    return state


def test_mode_a_is_complete_when_processed() -> None:
    state = _run(Event.RELAYED, Event.MDN_PROCESSED, wants_dispatched=False)
    assert is_final(state, wants_dispatched=False)
    assert _run(Event.RELAYED, Event.MDN_PROCESSED, Event.TIME_OUT, wants_dispatched=False) is state


def test_mode_b_needs_processed_and_dispatched() -> None:
    processed = _run(Event.RELAYED, Event.MDN_PROCESSED, wants_dispatched=True)
    assert not is_final(processed, wants_dispatched=True)
    dispatched = _run(
        Event.RELAYED, Event.MDN_PROCESSED, Event.MDN_DISPATCHED, wants_dispatched=True
    )
    assert is_final(dispatched, wants_dispatched=True)


def test_mode_b_takes_the_two_notices_in_either_order() -> None:
    early = _run(Event.RELAYED, Event.MDN_DISPATCHED, wants_dispatched=True)
    assert not is_final(early, wants_dispatched=True)
    both = _run(Event.RELAYED, Event.MDN_DISPATCHED, Event.MDN_PROCESSED, wants_dispatched=True)
    assert both is State.DISPATCHED


def test_mode_b_fails_without_a_dispatched_notice() -> None:
    events = (Event.RELAYED, Event.MDN_PROCESSED, Event.TIME_OUT)
    assert _run(*events, wants_dispatched=True) is State.FAILED


@pytest.mark.parametrize("wants_dispatched", [False, True])
def test_a_notice_after_the_failure_changes_nothing(*, wants_dispatched: bool) -> None:
    events = (Event.RELAYED, Event.TIME_OUT, Event.MDN_PROCESSED, Event.MDN_DISPATCHED)
    assert _run(*events, wants_dispatched=wants_dispatched) is State.FAILED


@pytest.mark.parametrize("wants_dispatched", [False, True])
def test_a_notice_may_overtake_the_record_of_delivery(*, wants_dispatched: bool) -> None:
    events = (Event.MDN_PROCESSED, Event.RELAYED)
    assert _run(*events, wants_dispatched=wants_dispatched) is State.PROCESSED


@pytest.mark.parametrize(
    ("state", "wants_dispatched", "overdue"),
    [
        (State.QUEUED, False, True),
        (State.RELAYED, False, True),
        (State.RELAYED, True, True),
        (State.EARLY, True, True),
        (State.PROCESSED, False, False),
        (State.PROCESSED, True, True),
        (State.DISPATCHED, True, False),
        (State.FAILED, False, False),
    ],
)
def test_late_only_while_something_is_awaited(
    *, state: State, wants_dispatched: bool, overdue: bool
) -> None:
    told = late(state, queued_at=NOW, now=NOW + WINDOW, wants_dispatched=wants_dispatched)
    assert told is overdue


def test_not_late_before_the_window_is_over() -> None:
    before = NOW + timedelta(minutes=5) - timedelta(microseconds=1)
    window = timedelta(minutes=5)
    assert not late(State.RELAYED, queued_at=NOW, now=before, wants_dispatched=False, window=window)
    assert late(
        State.RELAYED, queued_at=NOW, now=NOW + window, wants_dispatched=False, window=window
    )
