from __future__ import annotations

import pytest

from gateway.congestion import DESTINATIONS, DOWN_S, WINDOW, Congestion, Verdict

HERE = "b.example"


def fill(congestion: Congestion, now_s: float = 0) -> int:
    """Begin as many deliveries as may go; return how many."""
    count = 0
    while congestion.begin(HERE, now_s) is Verdict.GO:
        count += 1
    return count


def end(congestion: Congestion, count: int, *, reached: bool, now_s: float = 0) -> None:
    for _ in range(count):
        congestion.end(HERE, now_s, reached=reached)


def test_the_first_delivery_goes_alone() -> None:
    congestion = Congestion()
    assert congestion.begin(HERE, 0) is Verdict.GO
    assert congestion.begin(HERE, 0) is Verdict.WAIT
    assert congestion.begin("c.example", 0) is Verdict.GO


def test_each_delivery_that_reaches_it_widens_the_window_up_to_its_limit() -> None:
    congestion, counts = Congestion(), []
    for _ in range(4):
        counts.append(fill(congestion))
        end(congestion, counts[-1], reached=True)
    assert counts == [1, 2, 4, WINDOW]


def test_each_that_does_not_narrows_it() -> None:
    congestion = Congestion()
    for _ in range(4):
        end(congestion, fill(congestion), reached=True)
    assert fill(congestion) == WINDOW
    end(congestion, 2, reached=False)
    end(congestion, WINDOW - 2, reached=True)
    assert fill(congestion) == WINDOW
    end(congestion, WINDOW, reached=False)
    assert congestion.begin(HERE, 0) is Verdict.DOWN


def test_a_destination_not_reached_even_alone_is_down_for_a_moment() -> None:
    congestion = Congestion()
    fill(congestion)
    end(congestion, 1, reached=False, now_s=10)
    assert congestion.begin(HERE, 10) is Verdict.DOWN
    assert congestion.begin(HERE, 10 + DOWN_S - 0.1) is Verdict.DOWN
    assert congestion.begin(HERE, 10 + DOWN_S) is Verdict.GO
    assert congestion.begin(HERE, 10 + DOWN_S) is Verdict.WAIT


def test_other_destinations_are_not_concerned() -> None:
    congestion = Congestion()
    fill(congestion)
    end(congestion, 1, reached=False)
    assert congestion.begin("c.example", 0) is Verdict.GO


@pytest.mark.parametrize("kept", ["running", "down"])
def test_of_many_destinations_only_the_busy_and_the_down_are_remembered(kept: str) -> None:
    congestion = Congestion()
    congestion.begin(HERE, 0)
    if kept == "down":
        congestion.end(HERE, 0, reached=False)
    for number in range(3 * DESTINATIONS):
        congestion.begin(f"{number}.example", 0)
        congestion.end(f"{number}.example", 0, reached=True)
    expected = Verdict.DOWN if kept == "down" else Verdict.WAIT
    assert congestion.begin(HERE, 0) is expected
    assert len(congestion._destinations) <= DESTINATIONS
