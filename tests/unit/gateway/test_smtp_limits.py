from __future__ import annotations

import pytest

from gateway.smtp_limits import Census, Limits, Pace


def test_clients_are_counted_in_and_out() -> None:
    census = Census(Limits(connections=3, connections_per_ip=2))
    assert census.admit("192.0.2.1", 0) is None
    assert census.admit("192.0.2.1", 0) is None
    assert str(census.admit("192.0.2.1", 0)).startswith("421 4.7.0")
    assert census.admit("192.0.2.2", 0) is None
    assert str(census.admit("192.0.2.3", 0)).startswith("421 4.3.2")
    census.leave("192.0.2.1")
    assert census.admit("192.0.2.3", 0) is None


def test_a_client_that_comes_too_often_is_put_off_for_the_rest_of_the_minute() -> None:
    census = Census(Limits(connections_per_minute=2))
    for _ in range(2):
        assert census.admit("192.0.2.1", 0) is None
        census.leave("192.0.2.1")
    assert str(census.admit("192.0.2.1", 59)).startswith("421 4.7.0")
    assert census.admit("192.0.2.1", 60) is None


@pytest.mark.parametrize(
    ("peer", "other", "same"),
    [
        pytest.param("2001:db8::1", "2001:db8::ffff:0:0:2", True, id="one-ipv6-network"),
        pytest.param("2001:db8::1", "2001:db8:0:1::1", False, id="two-ipv6-networks"),
        pytest.param("192.0.2.1", "192.0.2.2", False, id="two-ipv4-addresses"),
        pytest.param("unknown", "unknown", True, id="no-address"),
    ],
)
def test_who_counts_as_one_client(peer: str, other: str, same: bool) -> None:
    census = Census(Limits(connections_per_ip=1))
    assert census.admit(peer, 0) is None
    assert (census.admit(other, 0) is not None) is same


def test_failed_authentications_are_forgotten_with_their_window() -> None:
    census = Census(Limits(auth_failures_per_ip=1, auth_window_s=10))
    census.failed("192.0.2.1", 0)
    assert census.is_put_off("192.0.2.1", 9)
    assert not census.is_put_off("192.0.2.2", 9)
    assert not census.is_put_off("192.0.2.1", 10)


@pytest.mark.parametrize(
    ("octets", "now_s", "wait_s"),
    [
        pytest.param(0, 0, 60, id="grace"),
        pytest.param(0, 61, -1, id="nothing-came"),
        pytest.param(1024 * 100, 60, 100, id="pace-earns-time"),
        pytest.param(1 << 30, 0, 300, id="no-longer-than-idle"),
        pytest.param(1 << 30, 599, 1, id="no-longer-than-in-all"),
    ],
)
def test_pace(octets: int, now_s: float, wait_s: float) -> None:
    assert Pace(Limits(), 0).wait_s(octets, now_s) == wait_s
